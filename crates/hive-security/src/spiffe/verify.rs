//! The verifier of JWT-SVIDs (JWT-SVID.md §3 to §5).
//!
//! The order is deliberate: what the token says about time and audience is looked at only after its
//! signature, so a stranger learns nothing by trying.

mod document;
mod memory;
mod offline;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Refusal;
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::keys::{Key, Keys};
use memory::{Fingerprint, Judgement, Memory, fingerprint};
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

/// Room for 262,144 accepted tokens, one per caller and refresh, in some 70 MB. The sets are so wide because the
/// fingerprints of 100,000 tokens fill them unevenly, and a set that overflows forgets just what comes next.
const ACCEPTED_SETS: usize = 4096;
const ACCEPTED_SET_MAX: usize = 64;

/// Room for 4,096 refused tokens. It is apart, so that a flood of them pushes out no accepted one.
const REFUSED_SETS: usize = 256;
const REFUSED_SET_MAX: usize = 16;

/// A refused token is not looked at again for so long.
const REFUSED_TTL: Duration = Duration::from_secs(300);

/// What a verified JWT-SVID says. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedJwt {
    said: Arc<Said>,
}

#[derive(Debug, PartialEq, Eq)]
struct Said {
    spiffe_id: SpiffeId,
    expires_at: SystemTime,
}

/// One revision of all JWT bundles, and the tokens that were judged with it.
///
/// A new revision starts with nothing remembered, so a token does not outlive the key that made it.
#[derive(Debug)]
pub(crate) struct JwtTrust {
    keys: Keys,
    accepted: Memory,
    refused: Memory,
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
        let judgement = self.judge(&token, &header, &claims, audience, now);
        self.remember(fingerprint, &claims, audience, &judgement, now);
        judgement
    }

    /// Verifies `token` without remembering anything.
    pub(crate) fn verify_afresh(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        let token = Token::split(token)?;
        self.judge(&token, &token.header()?, &token.claims()?, audience, now)
    }

    fn judge(
        &self,
        token: &Token<'_>,
        header: &Header<'_>,
        claims: &Claims<'_>,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        let spiffe_id = claims.workload()?;
        self.verify_signature(token, header, &spiffe_id.trust_domain())?;
        claims.check_audience(audience)?;
        let expires_at = claims.check_times(now, LEEWAY)?;
        Ok(VerifiedJwt { said: Arc::new(Said { spiffe_id, expires_at }) })
    }

    /// Only the keys of the subject's own trust domain count.
    fn verify_signature(
        &self,
        token: &Token<'_>,
        header: &Header<'_>,
        trust_domain: &TrustDomain,
    ) -> Result<(), Refusal> {
        let Some(bundle) = self.keys.get(trust_domain) else {
            return Err(Refusal::UnknownTrustDomain(trust_domain.clone()));
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
            _ => Refusal::UnknownKey(trust_domain.clone()),
        })
    }

    fn recall(
        &self,
        fingerprint: &Fingerprint,
        audience: &Audience,
        now: SystemTime,
    ) -> Option<Result<VerifiedJwt, Refusal>> {
        let recall = |memory: &Memory| memory.recall(fingerprint, audience, now);
        match recall(&self.accepted).or_else(|| recall(&self.refused))? {
            Judgement::Accepted(jwt) => Some(Ok(jwt)),
            // The clock may have been put back; then it is judged again.
            Judgement::Expired(at) => expired(at, now, LEEWAY).map(Err),
            Judgement::Refused(refusal) => Some(Err((*refusal).clone())),
        }
    }

    /// Keeps what time cannot change, and what cost a signature verification to find out; other refusals are as
    /// cheap to repeat as to remember.
    fn remember(
        &self,
        fingerprint: Fingerprint,
        claims: &Claims<'_>,
        audience: &Audience,
        judgement: &Result<VerifiedJwt, Refusal>,
        now: SystemTime,
    ) {
        let (judgement, until) = match judgement {
            Ok(jwt) => {
                let until =
                    jwt.expires_at().checked_add(LEEWAY).unwrap_or_else(|| jwt.expires_at());
                let accepted = Judgement::Accepted(jwt.clone());
                return self.accepted.remember(fingerprint, audience, accepted, until, now);
            }
            Err(Refusal::Expired { .. }) => match claims.expires_at() {
                Ok(at) => (Judgement::Expired(at), now + REFUSED_TTL),
                Err(_) => return,
            },
            Err(
                refusal @ (Refusal::Signature
                | Refusal::NoAudience
                | Refusal::Audience { .. }
                | Refusal::TooManyAudiences { .. }
                | Refusal::NoExpiry),
            ) => (Judgement::Refused(Arc::new(refusal.clone())), now + REFUSED_TTL),
            Err(_) => return,
        };
        self.refused.remember(fingerprint, audience, judgement, until, now);
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
