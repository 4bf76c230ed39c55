//! What can go wrong between us and Vault, by what a caller can do about it.

use std::time::Duration;

/// Why a call to Vault did not succeed. The status alone does not say: the text and, for 403, a second look do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The client could not be built from its configuration.
    #[error("the Vault client cannot be used with {what}")]
    Config {
        /// The setting and its fault.
        what: String,
    },
    /// The token is refused, or the policy does not grant this: only a look at the token itself tells.
    #[error(
        "Vault refuses {operation} (403): the token is no longer valid, or its policies do not grant this path"
    )]
    Denied {
        /// Method and path.
        operation: String,
    },
    /// The lease is gone.
    #[error("Vault no longer knows the lease ({operation})")]
    LeaseGone {
        /// Method and path.
        operation: String,
    },
    /// Too many requests.
    #[error("Vault limits our requests ({operation}, 429)")]
    Limited {
        /// Method and path.
        operation: String,
        /// When to try again, if Vault says so.
        retry_after: Option<Duration>,
    },
    /// Nothing is stored there, or nothing is mounted there, or there is no such role.
    #[error(
        "Vault has nothing at {operation} (404): check that the engine is mounted and the name exists"
    )]
    NotFound {
        /// Method and path.
        operation: String,
    },
    /// A standby that has not heard of our token yet, or a node that does not serve requests.
    #[error("this Vault node cannot serve {operation} now ({status})")]
    NotServing {
        /// Method and path.
        operation: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not one that Vault gives.
    #[error("the answer to {operation} is not understood: {what}")]
    Protocol {
        /// Method and path.
        operation: String,
        /// What is wrong with it, without any of it.
        what: &'static str,
    },
    /// Vault understood and said no.
    #[error("Vault rejects {operation} ({status}): check the role and its bounds")]
    Rejected {
        /// Method and path.
        operation: String,
        /// The HTTP status.
        status: u16,
    },
    /// Vault is sealed or not initialised.
    #[error("Vault is sealed ({operation})")]
    Sealed {
        /// Method and path.
        operation: String,
    },
    /// Vault failed, or something behind it did.
    #[error("Vault failed at {operation} ({status}): see its log")]
    Server {
        /// Method and path.
        operation: String,
        /// The HTTP status.
        status: u16,
    },
    /// No answer.
    #[error("no answer from Vault to {operation}: {cause}; check VAULT_ADDR and that Vault runs")]
    Unreachable {
        /// Method and path.
        operation: String,
        /// Connection or time-out.
        cause: &'static str,
        /// Whether the request was certainly never carried out.
        never_sent: bool,
    },
}

impl VaultError {
    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Limited { .. }
                | Self::NotServing { .. }
                | Self::Protocol { .. }
                | Self::Sealed { .. }
                | Self::Server { .. }
                | Self::Unreachable { .. }
        )
    }

    /// Whether the call certainly had no effect, so that repeating one that creates something is safe.
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::Unreachable { never_sent, .. } => *never_sent,
            Self::Protocol { .. } | Self::Server { .. } => false,
            _ => true,
        }
    }
}
