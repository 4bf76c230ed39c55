//! Why someone else's document was not accepted.

use crate::error::Error;
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::pattern::IdPattern;

/// Why a JWT-SVID, a certificate or an envelope was refused.
///
/// Every reason is one sentence for the operator of the *other* side. None of them repeats the token, for
/// refusals are logged and sent back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The token is longer than any JWT-SVID needs to be.
    #[error("the token is longer than {limit} bytes")]
    TooLong {
        /// The most that is looked at.
        limit: usize,
    },
    /// The token's header is longer than `alg`, `kid` and `typ` need.
    #[error("the token's header is longer than {limit} bytes")]
    HeaderTooLong {
        /// The most that is looked at.
        limit: usize,
    },
    /// The token is not a JWS in compact form with JSON inside.
    #[error("the token is malformed: {what}")]
    Malformed {
        /// Which part, and what is wrong with it.
        what: &'static str,
    },
    /// The header says more than a JWT-SVID's may: only `alg`, `kid` and `typ`.
    #[error("the token's header holds a parameter other than alg, kid and typ")]
    HeaderParameter,
    /// `typ` is there and is neither `JWT` nor `JOSE`.
    #[error("the token's typ is neither JWT nor JOSE")]
    Type,
    /// `alg` is not one of RS, PS, ES with 256, 384, 512.
    #[error("the token's algorithm is not one that a JWT-SVID may use")]
    Algorithm,
    /// `sub` is missing or not the SPIFFE ID of a workload.
    #[error("the token's subject is not the SPIFFE ID of a workload")]
    Subject,
    /// `aud` is missing or empty.
    #[error("the token names no audience")]
    NoAudience,
    /// `aud` names others only.
    #[error("the token is meant for another audience than {expected}")]
    Audience {
        /// The audience that it should name.
        expected: Audience,
    },
    /// `aud` names more than anyone should be able to use it with.
    #[error("the token names more than {limit} audiences")]
    TooManyAudiences {
        /// The most that is accepted.
        limit: usize,
    },
    /// `exp` is missing.
    #[error("the token has no expiry")]
    NoExpiry,
    /// `exp` is past.
    #[error("the token expired {ago_s} s ago")]
    Expired {
        /// How long ago, in seconds.
        ago_s: u64,
    },
    /// `nbf` is still to come.
    #[error("the token is not valid for another {in_s} s")]
    NotYetValid {
        /// How long until it is, in seconds.
        in_s: u64,
    },
    /// There is no bundle for the trust domain that should vouch for it.
    #[error("no bundle for trust domain {0} is known here")]
    UnknownTrustDomain(TrustDomain),
    /// The bundle of its trust domain has no such key.
    #[error("the token's key is not in the bundle of trust domain {0}")]
    UnknownKey(TrustDomain),
    /// The key exists and is for another algorithm.
    #[error("the token's algorithm does not fit its key")]
    KeyMismatch,
    /// The signature was not made with the key.
    #[error("the signature does not verify")]
    Signature,
    /// The bundle document itself cannot be used.
    #[error("the bundle of trust domain {trust_domain} cannot be used: {what}")]
    Bundle {
        /// Whose it should be.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The map of bundle documents cannot be used.
    #[error("the bundle map cannot be used: {what}")]
    BundleMap {
        /// What is wrong with it.
        what: &'static str,
    },

    /// The certificate is not an X.509-SVID of a workload.
    #[error("the certificate is not an X.509-SVID: {what}")]
    Certificate {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A certificate between the leaf and the bundle may not sign others.
    #[error("the chain of {spiffe_id} has an intermediate that may not sign certificates: {what}")]
    Intermediate {
        /// Who the leaf claims to be.
        spiffe_id: SpiffeId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The chain does not lead to the bundle of the trust domain it claims.
    #[error(
        "the certificate of {spiffe_id} does not chain to the bundle of its trust domain: {reason}"
    )]
    Untrusted {
        /// Who it claims to be.
        spiffe_id: SpiffeId,
        /// What the path validation said.
        reason: String,
    },
    /// It is genuine, and from someone else than expected.
    #[error("expected {expected}, but it comes from {seen}")]
    UnexpectedIdentity {
        /// Who was expected.
        expected: IdPattern,
        /// Who it was.
        seen: SpiffeId,
    },
    /// The envelope holds a payload of another type.
    #[error("the envelope does not hold a payload of type {expected}")]
    PayloadType {
        /// What was expected.
        expected: String,
    },

    /// Nothing can be verified, for the Workload API took our own bundles back.
    #[error("nothing can be verified: {reason}")]
    NoTrust {
        /// Why there are no bundles.
        reason: String,
    },
}

impl Refusal {
    pub(crate) fn no_trust(error: &Error) -> Self {
        Self::NoTrust { reason: error.to_string() }
    }
}
