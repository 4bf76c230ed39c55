//! What can go wrong between us and Vault, by what a caller can do about it.

use std::fmt;
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
    /// The token is refused, or the policy does not grant this: a look at the token itself tells.
    #[error(
        "Vault refuses {operation} (403): the token is no longer valid, or its policies do not grant this path"
    )]
    Denied {
        /// Method and path.
        operation: String,
        /// Whether the text is the one for policies, which is said only to a token that Vault knows.
        by_policy: bool,
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
    /// A login was refused, and Vault said why.
    #[error("Vault refuses the login ({operation}): {fault}")]
    Login {
        /// Method and path.
        operation: String,
        /// What Vault objects to.
        fault: LoginFault,
    },
    /// A name that cannot be part of a path of Vault. Nothing was sent.
    #[error(
        "the Vault client sends no request with {what}: correct the name of the mount, role or secret"
    )]
    Name {
        /// What is wrong with it, without any of it.
        what: &'static str,
    },
    /// Nothing is stored there, or nothing is mounted there, or there is no such role.
    #[error(
        "Vault has nothing at {operation} (404): check that the engine is mounted and the name exists"
    )]
    NotFound {
        /// Method and path.
        operation: String,
    },
    /// Nothing was renewed, and Vault did not say why: OpenBao answers so (204) when the certificate role of a token is gone.
    /// The token lives to its end.
    #[error(
        "Vault has not renewed the token ({operation}): its role is gone; log in again, and check that the role exists"
    )]
    NotRenewed {
        /// Method and path.
        operation: String,
    },
    /// A standby that has not heard of our token yet, a node that does not serve requests, or an engine that is just
    /// being upgraded.
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
    /// Somebody else has written since the version that this was based on.
    #[error(
        "{operation} was based on a version that is not the current one: read it again and decide"
    )]
    VersionMismatch {
        /// Method and path.
        operation: String,
    },
    /// A wrapping token was used already, has expired, or never existed.
    #[error(
        "Vault does not know the wrapping token ({operation}): it has expired, or somebody else has unwrapped it"
    )]
    WrapGone {
        /// Method and path.
        operation: String,
    },
}

/// What Vault objects to in a login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LoginFault {
    /// The token's audience is none of the role's.
    Audience,
    /// A claim, the subject among them, is not what the role is bound to.
    Claims,
    /// The issuer is not the one that the mount is bound to.
    Issuer,
    /// No key of the mount has signed the token.
    Key,
    /// The X.509-SVID is good and has no common name, by which Vault knows its clients. (It says so with 500.)
    Nameless,
    /// There is no such role.
    Role,
    /// The role or the `secret_id` is not valid (any more).
    SecretId,
    /// The token has expired or is not valid yet, by Vault's clock.
    Time,
}

impl fmt::Display for LoginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Audience => "the audience is none of the role's bound_audiences",
            Self::Claims => "a claim or the subject is not what the role is bound to",
            Self::Issuer => "the issuer is not the mount's bound_issuer",
            Self::Key => "no key of the mount has signed this token; check its jwks_url",
            Self::Nameless => {
                "the X.509-SVID has no common name, which Vault's cert login needs: SPIRE makes one of the first DNS \
                 name of the entry"
            }
            Self::Role => "there is no such role",
            Self::SecretId => "the role_id or the secret_id is not valid, or is used up",
            Self::Time => "the token has expired or is not valid yet; check both clocks",
        })
    }
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

    /// Its kind in one word, for a metric.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Denied { .. } => "denied",
            Self::LeaseGone { .. } => "lease_gone",
            Self::Limited { .. } => "limited",
            Self::Login { .. } => "login_refused",
            Self::Name { .. } => "name",
            Self::NotFound { .. } => "not_found",
            Self::NotRenewed { .. } => "not_renewed",
            Self::NotServing { .. } => "not_serving",
            Self::Protocol { .. } => "protocol",
            Self::Rejected { .. } => "rejected",
            Self::Sealed { .. } => "sealed",
            Self::Server { .. } => "server",
            Self::Unreachable { .. } => "unreachable",
            Self::VersionMismatch { .. } => "version_mismatch",
            Self::WrapGone { .. } => "wrap_gone",
        }
    }
}
