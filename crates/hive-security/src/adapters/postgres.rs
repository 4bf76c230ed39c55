//! What the two holders for PostgreSQL share.

use std::sync::Arc;

use crate::credentials::{Credential, HolderError};

pub(super) const SERVER: &str = "PostgreSQL";

/// What an error of PostgreSQL says about the credential of the session.
///
/// Neither is a reason to try the same thing again at once: an account may be locked by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The login was refused (28000, 28P01). Nothing ran. Ask for a connection once more: by then the next generation
    /// may have been adopted.
    Login,
    /// The session lost its rights (42501), as it does when its role was dropped. Close the connection; repeat the work
    /// on another one if nothing of it had run.
    Rights,
}

impl Doubt {
    pub(super) fn of_state(code: &str) -> Option<Self> {
        match code {
            "28000" | "28P01" => Some(Self::Login),
            "42501" => Some(Self::Rights),
            _ => None,
        }
    }
}

/// What a failed attempt to log in means for the credential. `code` is the server's answer, if it gave one.
pub(super) fn refused_or_unreachable(
    credential: &Credential,
    code: Option<&str>,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> HolderError {
    let credential = credential.name().to_owned();
    let cause: Option<crate::Cause> = Some(Arc::new(cause));
    // A database that does not exist is as final as a wrong password; a server that is starting or full is neither.
    match code {
        Some(code) if Doubt::of_state(code).is_some() || code == "3D000" => {
            HolderError::Refused { server: SERVER, credential, cause }
        }
        _ => HolderError::Unreachable { server: SERVER, credential, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_full_or_starting_casts_no_doubt_on_the_credential() {
        let credential = Credential::new("db", 1, crate::SecretJson::new(serde_json::json!({})));
        let judge = |code| refused_or_unreachable(&credential, code, std::fmt::Error);
        for code in [Some("53300"), Some("57P03"), None] {
            assert!(matches!(judge(code), HolderError::Unreachable { .. }), "{code:?}");
        }
        for code in ["28000", "28P01", "42501", "3D000"] {
            assert!(matches!(judge(Some(code)), HolderError::Refused { .. }), "{code}");
        }
    }
}
