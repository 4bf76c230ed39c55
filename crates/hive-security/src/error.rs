//! What can go wrong on our own side of an identity.

use std::sync::Arc;
use std::time::Duration;

use crate::spiffe::id::TrustDomain;

/// The cause of an [`Error`], shared so that everyone who waited for one attempt can be told.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What can go wrong while this workload obtains or uses its own identity.
///
/// What is wrong with someone *else's* documents is a [`Refusal`](crate::Refusal).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or a name cannot be used; waiting will not help.
    #[error("{what} {value:?} cannot be used: {reason}")]
    Invalid {
        /// What was being read, such as `SPIFFE ID` or `address`.
        what: &'static str,
        /// The text that was given.
        value: String,
        /// Why it cannot be used.
        reason: String,
    },

    /// No usable identity arrived before the deadline of [`Workload::attach`](crate::Workload::attach).
    #[error(
        "no identity from the Workload API at {endpoint} within {waited:?}: {reason}; check that the socket exists \
         and that an entry matches this process"
    )]
    NoIdentity {
        /// The endpoint that was asked.
        endpoint: String,
        /// How long it was given.
        waited: Duration,
        /// The last answer of the Workload API.
        reason: String,
    },

    /// The Workload API took the identity back, so it may not be used any more.
    #[error("the Workload API withdrew this workload's identity: {reason}; check its entry")]
    Withdrawn {
        /// What the Workload API said.
        reason: String,
    },

    /// The X.509-SVID ran out before the Workload API replaced it.
    #[error(
        "the X.509-SVID of {spiffe_id} has expired and was not replaced; check the Workload API and the clock"
    )]
    Expired {
        /// Whose it was.
        spiffe_id: String,
    },

    /// The Workload API did not hand out a JWT-SVID.
    #[error("no JWT-SVID for audience {audience} from the Workload API: {reason}")]
    NoJwtSvid {
        /// The audience that was asked for.
        audience: String,
        /// What went wrong.
        reason: String,
        /// Whether the Workload API denied it, rather than being out of reach.
        denied: bool,
    },

    /// The Workload API hands out identities of another trust domain than the settings say.
    #[error(
        "the identity belongs to trust domain {issued}, and {expected} is expected; check SPIFFE_TRUST_DOMAIN and \
         the address of the Workload API"
    )]
    TrustDomain {
        /// Where it should belong to.
        expected: TrustDomain,
        /// Where it belongs to.
        issued: TrustDomain,
    },

    /// None of this workload's X.509-SVIDs has this hint.
    #[error("no X.509-SVID of this workload has the hint {hint:?}; check the hints of its entries")]
    UnknownHint {
        /// The hint that was asked for.
        hint: String,
    },

    /// The X.509-SVID that was handed out cannot be used to sign or to speak TLS.
    #[error("the X.509-SVID from the Workload API cannot be used: {reason}")]
    UnusableSvid {
        /// What is wrong with it; it never contains the key.
        reason: String,
    },

    /// TLS could not be configured.
    #[error("TLS cannot be configured")]
    Tls {
        /// What rustls said.
        #[source]
        cause: Cause,
    },
}

impl Error {
    /// Whether the same attempt may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NoJwtSvid { denied: false, .. } | Self::Expired { .. } | Self::NoIdentity { .. }
        )
    }

    pub(crate) fn invalid(
        what: &'static str,
        value: &str,
        reason: &(impl ToString + ?Sized),
    ) -> Self {
        // A value that fails is shown to the operator, but never a whole page of it.
        let value = value.chars().take(200).collect();
        Self::Invalid { what, value, reason: reason.to_string() }
    }

    pub(crate) fn tls(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Tls { cause: Arc::new(cause) }
    }
}

/// An error, its cause, the cause of that, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn std::error::Error + 'static)| {
        (*error).source()
    })
}

/// An error and all its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a stranger said, as much of it as fits into a sentence.
pub(crate) fn bounded(said: &str) -> String {
    const SHOWN_CHARS: usize = 300;
    said.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect()
}
