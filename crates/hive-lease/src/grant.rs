//! What an issuer promises, without the secret.

use std::fmt;
use std::time::Duration;

/// A promise: it lasts this long from the moment the request was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// How long.
    pub ttl: Duration,
    /// Whether asking again can extend it.
    pub renewable: bool,
}

/// Names a lease at its issuer. Not a secret.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaseId(String);

impl LeaseId {
    /// Takes the issuer's name for a lease.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A credential that is wanted. Its place in the list is its name here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Want {
    /// Whether the epoch may be served without it if the issuer has no such thing.
    pub optional: bool,
}

/// What an input or a reason is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The credential with this place in the list of wants.
    Lease(usize),
    /// The login token.
    Token,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(request) => write!(f, "credential {request}"),
            Self::Token => f.write_str("the login token"),
        }
    }
}

/// What to renew or revoke.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A lease.
    Lease {
        /// Its place in the list of wants.
        request: usize,
        /// Its name at the issuer.
        id: LeaseId,
    },
    /// The login token.
    Token,
}

impl Target {
    /// What to say in the input that reports the outcome.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Lease { request, .. } => Subject::Lease(*request),
            Self::Token => Subject::Token,
        }
    }
}
