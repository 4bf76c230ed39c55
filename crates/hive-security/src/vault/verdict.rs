//! What a status and the texts beside it mean.

use std::time::Duration;

use serde::Deserialize;

use super::error::{LoginFault, VaultError};

#[derive(Default, Deserialize)]
struct Failure {
    #[serde(default)]
    errors: Vec<String>,
}

/// The error texts, for `classify` only: they may quote what was sent, so they go no further.
pub(super) fn texts(body: &[u8]) -> String {
    serde_json::from_slice::<Failure>(body).unwrap_or_default().errors.join("\n")
}

pub(super) fn classify(
    operation: String,
    status: u16,
    retry_after: Option<Duration>,
    text: &str,
) -> VaultError {
    match status {
        400 if is_lease_gone(text) => VaultError::LeaseGone { operation },
        400 if text.contains("check-and-set parameter did not match") => {
            VaultError::VersionMismatch { operation }
        }
        400 if text.contains("wrapping token is not valid or does not exist") => {
            VaultError::WrapGone { operation }
        }
        403 => VaultError::Denied { operation, by_policy: is_of_policy(text) },
        404 => VaultError::NotFound { operation },
        // The database engine says so with 400, although the path is right and the name is missing.
        400 if text.starts_with("unknown role") => VaultError::NotFound { operation },
        // OpenBao says so of a versioned engine for a moment after each unsealing and change of leader.
        400 if text.starts_with("Upgrading from non-versioned") => {
            VaultError::NotServing { operation, status }
        }
        412 | 472 | 473 | 300..=399 => VaultError::NotServing { operation, status },
        429 => VaultError::Limited { operation, retry_after },
        500..=599 if status == 503 && text.contains("sealed") => VaultError::Sealed { operation },
        // The engine behind Vault failed, for which Vault answers 400 when a lease is renewed or revoked.
        400 if text.contains("failed to renew entry") || text.contains("failed to revoke") => {
            VaultError::Server { operation, status }
        }
        500..=599 => VaultError::Server { operation, status },
        400..=499 => VaultError::Rejected { operation, status },
        _ => VaultError::Protocol { operation, what: "its status is not one that Vault uses" },
    }
}

/// Whether a 403 speaks of what a token may do, not of the token, which it then knows: it lists one error, while that of
/// an unknown token is said plainly or with a second one.
pub(super) fn is_of_policy(text: &str) -> bool {
    text.trim() == "1 error occurred:\n\t* permission denied"
}

fn is_lease_gone(text: &str) -> bool {
    text.contains("lease not found") || text.contains("invalid lease")
}

/// What a refused login objects to, where the text says so.
pub(super) fn login_fault(text: &str) -> Option<LoginFault> {
    let says = |part: &str| text.contains(part);
    let fault = match () {
        // The server cannot reach whoever has the keys: nothing is known about the token.
        () if says("fetching keys") || says("get keys failed") => return None,
        () if says("missing name in alias") => LoginFault::Nameless,
        () if says("invalid audience") || says("audience claim") => LoginFault::Audience,
        () if says("invalid issuer") => LoginFault::Issuer,
        () if says("error validating claims") || says("invalid subject") => LoginFault::Claims,
        () if says("expired") || says("not yet valid") || says("issued in the future") => {
            LoginFault::Time
        }
        () if says("verifying token signature") || says("no known key") => LoginFault::Key,
        () if says("could not be found") || says("invalid role name") => LoginFault::Role,
        () if says("invalid role or secret ID") || says("invalid secret id") => {
            LoginFault::SecretId
        }
        () => return None,
    };
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, text: &str) -> VaultError {
        classify("GET x".to_owned(), status, None, text)
    }

    #[test]
    fn the_text_tells_a_lost_lease_from_a_failing_database() {
        assert!(matches!(class(400, "lease not found"), VaultError::LeaseGone { .. }));
        assert!(matches!(class(400, "invalid lease"), VaultError::LeaseGone { .. }));
        let database_down =
            class(400, "failed to renew entry: dial tcp 127.0.0.1:5432: connection refused");
        assert!(
            matches!(database_down, VaultError::Server { status: 400, .. })
                && database_down.is_transient()
        );
        assert!(matches!(class(400, "error validating token"), VaultError::Rejected { .. }));
    }

    #[test]
    fn an_engine_that_is_being_upgraded_is_asked_again() {
        let text = "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period.";
        let early = class(400, text);
        assert!(early.is_transient() && early.had_no_effect(), "{early:?}");
    }

    #[test]
    fn a_403_tells_a_token_that_lacks_a_right_from_one_that_is_not_known() {
        let by_policy = "1 error occurred:\n\t* permission denied\n\n";
        assert!(matches!(class(403, by_policy), VaultError::Denied { by_policy: true, .. }));
        for unknown in [
            "permission denied",
            "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",
            "",
        ] {
            let denied = class(403, unknown);
            assert!(matches!(denied, VaultError::Denied { by_policy: false, .. }), "{unknown}");
        }
    }

    #[test]
    fn every_status_has_a_class() {
        let transient = [412, 429, 472, 473, 500, 502, 503, 504, 307];
        assert!(transient.iter().all(|status| class(*status, "").is_transient()));
        assert!(matches!(class(503, "Vault is sealed"), VaultError::Sealed { .. }));
        // Something in front of Vault says so as well, and what it had passed on may have had its effect.
        assert!(matches!(class(503, "no server is available"), VaultError::Server { .. }));
        assert!(!class(503, "").had_no_effect() && class(503, "Vault is sealed").had_no_effect());
        assert!(matches!(class(403, ""), VaultError::Denied { by_policy: false, .. }));
        assert!(matches!(class(404, ""), VaultError::NotFound { .. }));
        assert!(matches!(class(400, "unknown role: x"), VaultError::NotFound { .. }));
        assert!([400, 401, 403, 404, 405].iter().all(|status| !class(*status, "").is_transient()));
    }
}
