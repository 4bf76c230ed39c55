//! The verifier of JWT-SVIDs (JWT-SVID.md §3 to §5).
//!
//! The order is deliberate: what the token says about time and audience is looked at only after its
//! signature, so a stranger learns nothing by trying.

mod document;
mod map;
mod memory;
mod offline;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Refusal;
#[cfg(test)]
use crate::spiffe::id::TrustDomain;
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::keys::{Key, Keys};
pub use document::BundleDocument;
pub use map::BundleMap;
use memory::{Fingerprint, Memory, Remembered, Seen, fingerprint};
pub use offline::Verifier;
use token::{Claims, Header, Token, expired};

/// Longer tokens are refused unread. SPIRE's have about 500 bytes; HTTP servers take headers of 8 to 16 KiB.
pub(crate) const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// A longer header, as it is encoded, is refused unread: `alg`, `kid` and `typ` take about 100 bytes.
pub(crate) const HEADER_MAX_BYTES: usize = 1024;

/// How far the clocks of issuer and verifier may differ, for `exp` and `nbf`.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);

/// A token that names more audiences than this is refused: whoever gets it could use it with all the others.
pub(crate) const AUDIENCES_MAX: usize = 32;

/// A token is tried against so many keys of its algorithm: without `kid`, a bundle holds two or three, and each
/// try costs a signature verification that a stranger can ask for.
pub(crate) const KEYS_TRIED_MAX: usize = 8;

/// Room for 327,680 accepted tokens, one per caller and refresh. Of 100,000 tokens about six share a set; the
/// fingerprints fill them unevenly, and a set that overflows forgets just what comes next.
const ACCEPTED_SETS: usize = 16 * 1024;
const ACCEPTED_SET_MAX: usize = 20;

/// Room for 4,096 refused tokens. It is apart, so that a flood of them pushes out no accepted one.
const REFUSED_SETS: usize = 256;
const REFUSED_SET_MAX: usize = 16;

/// A refused token is not looked at again for so long.
const REFUSED_TTL: Duration = Duration::from_secs(300);

/// What a verified JWT-SVID says. Cheap to clone.
#[derive(Clone)]
pub struct VerifiedJwt {
    said: Arc<Said>,
}

#[derive(Debug)]
struct Said {
    seen: Option<Seen>,
    not_before: Option<SystemTime>,
    expires_at: SystemTime,
    spiffe_id: SpiffeId,
}

/// Why a token was refused, and that time cannot turn it round.
#[derive(Debug)]
struct Refused {
    seen: Seen,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// Genuine, and over since then.
    Expired(SystemTime),
    Other(Refusal),
}

/// One revision of all JWT bundles, and the tokens that were judged with it.
///
/// A new revision starts with nothing remembered, so a token does not outlive the key that made it.
#[derive(Debug)]
pub(crate) struct JwtTrust {
    keys: Keys,
    accepted: Memory<Said>,
    refused: Memory<Refused>,
}

impl VerifiedJwt {
    /// Whom the token was made for.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.said.spiffe_id
    }

    /// When it expires, by its own word.
    pub fn expires_at(&self) -> SystemTime {
        self.said.expires_at
    }
}

impl PartialEq for VerifiedJwt {
    fn eq(&self, other: &Self) -> bool {
        (self.spiffe_id(), self.expires_at()) == (other.spiffe_id(), other.expires_at())
    }
}

impl Eq for VerifiedJwt {}

impl std::fmt::Debug for VerifiedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedJwt")
            .field("spiffe_id", self.spiffe_id())
            .field("expires_at", &self.expires_at())
            .finish()
    }
}

impl Said {
    /// Whether it is not valid yet: it was, but the clock may have been put back since.
    fn is_early(&self, now: SystemTime) -> bool {
        let ahead = self.not_before.and_then(|from| from.duration_since(now).ok());
        ahead.is_some_and(|ahead| ahead > LEEWAY)
    }
}

impl Remembered for Said {
    fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }
}

impl Remembered for Refused {
    fn seen(&self) -> Option<&Seen> {
        Some(&self.seen)
    }
}

impl JwtTrust {
    pub(crate) fn new(keys: Keys) -> Self {
        let accepted = Memory::new(ACCEPTED_SETS, ACCEPTED_SET_MAX);
        let refused = Memory::new(REFUSED_SETS, REFUSED_SET_MAX);
        Self { keys, accepted, refused }
    }

    /// Verifies `token`, or remembers how it was judged before.
    pub(crate) fn verify(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Refusal::TooLong { limit: TOKEN_MAX_BYTES });
        }
        let fingerprint = fingerprint(token);
        if let Some(judgement) = self.recall(&fingerprint, audience, now) {
            return judgement;
        }
        let token = Token::split(token)?;
        let (header, claims) = (token.header()?, token.claims()?);
        match self.judge(&token, &header, &claims, audience, now) {
            Ok(said) => {
                let until = said.expires_at.checked_add(LEEWAY).unwrap_or(said.expires_at);
                let seen = Some(self.accepted.seen(fingerprint, audience, until));
                let said = Arc::new(Said { seen, ..said });
                self.accepted.remember(&said, now);
                Ok(VerifiedJwt { said })
            }
            Err(refusal) => {
                self.remember_refused(fingerprint, &claims, audience, &refusal, now);
                Err(refusal)
            }
        }
    }

    /// Verifies `token` without remembering anything.
    pub(crate) fn verify_afresh(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        let token = Token::split(token)?;
        let (header, claims) = (token.header()?, token.claims()?);
        let said = self.judge(&token, &header, &claims, audience, now)?;
        Ok(VerifiedJwt { said: Arc::new(said) })
    }

    /// What a good token says.
    fn judge(
        &self,
        token: &Token<'_>,
        header: &Header<'_>,
        claims: &Claims<'_>,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<Said, Refusal> {
        let spiffe_id = claims.workload()?;
        self.verify_signature(token, header, &spiffe_id)?;
        claims.check_audience(audience)?;
        let expires_at = claims.check_times(now, LEEWAY)?;
        let not_before = claims.not_before()?;
        Ok(Said { seen: None, not_before, expires_at, spiffe_id })
    }

    /// Only the keys of the subject's own trust domain count.
    fn verify_signature(
        &self,
        token: &Token<'_>,
        header: &Header<'_>,
        spiffe_id: &SpiffeId,
    ) -> Result<(), Refusal> {
        let trust_domain = spiffe_id.inner().trust_domain();
        let Some(bundle) = self.keys.get(trust_domain) else {
            return Err(Refusal::UnknownTrustDomain(spiffe_id.trust_domain()));
        };
        let fits = |key: &&Key| key.fits(header.algorithm);
        let named =
            |key: &&Key| header.kid.is_none() || key.kid.as_deref() == header.kid.as_deref();
        let mut candidates = bundle.iter().filter(named).filter(fits).take(KEYS_TRIED_MAX);
        let signed = token.signed.as_bytes();
        if candidates.any(|key| key.verifies(header.algorithm, signed, token.signature())) {
            return Ok(());
        }
        // A key of this name, or any key at all, is needed before one can be the wrong kind.
        let mut candidates = bundle.iter().filter(named);
        Err(match (candidates.clone().any(|key| fits(&key)), candidates.next(), &header.kid) {
            (true, ..) => Refusal::Signature,
            (false, Some(_), Some(_)) => Refusal::KeyMismatch,
            _ => Refusal::UnknownKey(spiffe_id.trust_domain()),
        })
    }

    fn recall(
        &self,
        fingerprint: &Fingerprint,
        audience: &Audience,
        now: SystemTime,
    ) -> Option<Result<VerifiedJwt, Refusal>> {
        if let Some(said) = self.accepted.recall(fingerprint, audience, now) {
            return (!said.is_early(now)).then_some(Ok(VerifiedJwt { said }));
        }
        match &self.refused.recall(fingerprint, audience, now)?.why {
            // The clock may have been put back; then it is judged again.
            Why::Expired(at) => expired(*at, now, LEEWAY).map(Err),
            Why::Other(refusal) => Some(Err(refusal.clone())),
        }
    }

    /// Keeps what time cannot change, and what cost a signature verification to find out; other refusals are as
    /// cheap to repeat as to remember.
    fn remember_refused(
        &self,
        fingerprint: Fingerprint,
        claims: &Claims<'_>,
        audience: &Audience,
        refusal: &Refusal,
        now: SystemTime,
    ) {
        let why = match refusal {
            Refusal::Expired { .. } => match claims.expires_at() {
                Ok(at) => Why::Expired(at),
                Err(_) => return,
            },
            refusal @ (Refusal::Signature
            | Refusal::NoAudience
            | Refusal::Audience { .. }
            | Refusal::TooManyAudiences { .. }
            | Refusal::NoExpiry) => Why::Other(refusal.clone()),
            _ => return,
        };
        let seen = self.refused.seen(fingerprint, audience, now + REFUSED_TTL);
        self.refused.remember(&Arc::new(Refused { seen, why }), now);
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod wycheproof;
