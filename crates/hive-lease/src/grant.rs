//! What an issuer promises, without the secret.

use std::fmt;
use std::time::Duration;

/// A promise: it lasts this long from the moment the request was sent.
///
/// A *service* token is renewable until the longest life that its role allows, a *periodic* one for ever, a *batch* token
/// not at all. A certificate is a grant that is not renewable and lasts until its `notAfter`; its [`LeaseId`] is what it
/// is revoked by, such as its serial number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// How long. A login token with a life of zero never expires, as a root token does.
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Want {
    /// Whether the epoch may be served without it if the issuer has no such thing.
    pub optional: bool,
    /// How it is kept fresh if it is issued without a lease. Without this, it stays as it was first read.
    pub refresh: Option<Refresh>,
}

/// How a credential without a lease, such as a static secret, is kept fresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refresh {
    /// Read it again this long after it was read last.
    pub every: Duration,
    /// Trust it for this long, if it cannot be read again.
    pub stale_after: Duration,
}

impl Default for Refresh {
    /// Every five minutes, and trusted for an hour.
    fn default() -> Self {
        Self { every: Duration::from_secs(300), stale_after: Duration::from_secs(3600) }
    }
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
