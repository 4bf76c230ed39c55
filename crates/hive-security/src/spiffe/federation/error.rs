//! Why a bundle was not fetched.

use crate::Refusal;
use crate::spiffe::id::TrustDomain;

/// Why a relationship cannot be set up, or a bundle was not fetched.
///
/// Endpoints are named by host and port only, for the rest of an address may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the endpoint sent is no bundle document.
    #[error(transparent)]
    Document(Refusal),

    /// Whoever answered is not the endpoint that is configured.
    #[error(
        "the bundle endpoint at {endpoint} did not prove to be the one that is configured: {reason}; check the \
         profile, and what the endpoint is known by"
    )]
    Impostor {
        /// Host and port.
        endpoint: String,
        /// What is wrong with its certificate.
        reason: String,
    },

    /// The bundle by which the endpoint is known is not known itself, or not yet.
    #[error(
        "no bundle of trust domain {trust_domain} is known yet, by which the endpoint proves itself; see to that \
         relationship first"
    )]
    NoBundle {
        /// Whose bundle it is.
        trust_domain: TrustDomain,
    },

    /// This machine has no certificate authorities.
    #[error(
        "no certificate authorities of this system could be read: {reason}; install its ca-certificates, or give roots"
    )]
    NoRoots {
        /// What was tried.
        reason: String,
    },

    /// The endpoint sends its clients somewhere that must not be followed.
    #[error("the bundle endpoint at {endpoint} redirects, and {what}; tell its operator")]
    Redirect {
        /// Host and port.
        endpoint: String,
        /// Why it is not followed.
        what: &'static str,
    },

    /// A setting cannot be used; waiting will not help.
    #[error("the {what} of the relationship with {trust_domain} cannot be used: {reason}")]
    Setting {
        /// Whose bundle it should fetch.
        trust_domain: TrustDomain,
        /// Which setting.
        what: &'static str,
        /// Why it cannot be used.
        reason: &'static str,
    },

    /// There was no whole answer in time.
    #[error("the bundle endpoint at {endpoint} sent no whole answer within {limit:?}")]
    Slow {
        /// Host and port of the address that is configured.
        endpoint: String,
        /// How long it was given.
        limit: std::time::Duration,
    },

    /// The endpoint answered, and not with a bundle.
    #[error(
        "the bundle endpoint at {endpoint} answered with HTTP status {status}; check the address"
    )]
    Status {
        /// Host and port.
        endpoint: String,
        /// The HTTP status.
        status: u16,
    },

    /// The answer is larger than any bundle.
    #[error("the bundle endpoint at {endpoint} sent more than {limit} bytes")]
    TooLarge {
        /// Host and port.
        endpoint: String,
        /// The most that is read.
        limit: usize,
    },

    /// There is no connection, or it broke.
    #[error("the bundle endpoint at {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        endpoint: String,
        /// What the system said.
        reason: String,
    },
}

impl Error {
    /// Whether the same attempt may succeed later without anyone changing the settings here.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Setting { .. })
    }
}
