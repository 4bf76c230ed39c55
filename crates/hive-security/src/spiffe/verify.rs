//! The verifier of JWT-SVIDs (JWT-SVID.md §3 to §5).
//!
//! The order is deliberate: what the token says about time and audience is looked at only after its
//! signature, so a stranger learns nothing by trying.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};

use crate::Refusal;
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::keys::{Algorithm, Key, Keys};

/// Longer tokens are refused unread. SPIRE's have about 500 bytes; HTTP servers take headers of 8 to 16 KiB.
pub(crate) const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// How far the clocks of issuer and verifier may differ, for `exp` and `nbf`.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);

/// A token that names more audiences than this is not looked through.
const AUDIENCES_MAX: usize = 32;

/// A token without `kid` is tried against so many keys of its algorithm: a bundle holds two or three, and
/// each try costs a signature verification that a stranger can ask for.
const KEYS_TRIED_MAX: usize = 8;

/// A verified token is believed for so long without verifying its signature again.
const VERIFIED_TTL: Duration = Duration::from_secs(60);

/// So many verified tokens are remembered: one per caller and refresh, so thousands of callers fit.
const VERIFIED_MAX: usize = 4096;

/// What a verified JWT-SVID says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedJwt {
    spiffe_id: SpiffeId,
    expires_at: SystemTime,
}

/// One revision of all JWT bundles, and the tokens that were verified with it.
///
/// A new revision starts with nothing verified, so a token does not outlive the key that made it.
#[derive(Debug, Default)]
pub(crate) struct JwtTrust {
    keys: Keys,
    verified: Mutex<HashMap<Fingerprint, Remembered>>,
}

/// SHA-256 over audience and token, so that neither is kept and one audience's token never serves another.
type Fingerprint = [u8; 32];

#[derive(Debug)]
struct Remembered {
    jwt: VerifiedJwt,
    until: SystemTime,
}

impl VerifiedJwt {
    /// Whom the token was made for.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// When it expires, by its own word.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

impl JwtTrust {
    pub(crate) fn new(keys: Keys) -> Self {
        Self { keys, verified: Mutex::default() }
    }

    /// Verifies `token`, or remembers that it was verified a moment ago.
    pub(crate) fn verify(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Refusal::TooLong { limit: TOKEN_MAX_BYTES });
        }
        let fingerprint = fingerprint(token, audience);
        if let Some(jwt) = self.recall(&fingerprint, now) {
            return Ok(jwt);
        }
        let jwt = self.verify_afresh(token, audience, now, LEEWAY)?;
        self.remember(fingerprint, &jwt, now);
        Ok(jwt)
    }

    pub(crate) fn verify_afresh(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
        leeway: Duration,
    ) -> Result<VerifiedJwt, Refusal> {
        let parts = Parts::split(token)?;
        let claims = parts.claims()?;
        let spiffe_id = claims.workload()?;
        self.verify_signature(&parts, &spiffe_id)?;
        claims.check_audience(audience)?;
        let expires_at = claims.check_times(now, leeway)?;
        Ok(VerifiedJwt { spiffe_id, expires_at })
    }

    fn verify_signature(&self, parts: &Parts<'_>, spiffe_id: &SpiffeId) -> Result<(), Refusal> {
        let trust_domain = spiffe_id.trust_domain();
        let Some(bundle) = self.keys.get(&trust_domain) else {
            return Err(Refusal::UnknownTrustDomain(trust_domain));
        };
        let named: Vec<&Key> = match &parts.kid {
            Some(kid) => bundle.iter().filter(|key| key.kid.as_ref() == Some(kid)).collect(),
            None => bundle.iter().filter(|key| key.fits(parts.algorithm)).collect(),
        };
        if named.is_empty() {
            return Err(Refusal::UnknownKey(trust_domain));
        }
        let mut fitting = named.into_iter().filter(|key| key.fits(parts.algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(Refusal::KeyMismatch);
        }
        let verified = fitting
            .take(KEYS_TRIED_MAX)
            .any(|key| key.verifies(parts.algorithm, parts.signed.as_bytes(), &parts.signature));
        if verified { Ok(()) } else { Err(Refusal::Signature) }
    }

    fn recall(&self, fingerprint: &Fingerprint, now: SystemTime) -> Option<VerifiedJwt> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(fingerprint).filter(|found| now < found.until).map(|found| found.jwt.clone())
    }

    fn remember(&self, fingerprint: Fingerprint, jwt: &VerifiedJwt, now: SystemTime) {
        let until = jwt.expires_at.min(now + VERIFIED_TTL);
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.retain(|_, remembered| now < remembered.until);
        }
        // Still full of live ones: forgetting costs a verification each, growing could cost the process.
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(fingerprint, Remembered { jwt: jwt.clone(), until });
    }
}

/// A JWS in compact form, taken apart.
struct Parts<'a> {
    /// Header and payload as they were signed.
    signed: &'a str,
    algorithm: Algorithm,
    kid: Option<String>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "text")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    typ: Option<String>,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, Refusal> {
        let malformed = |what| Refusal::Malformed { what };
        let (signed, signature) =
            token.rsplit_once('.').ok_or_else(|| malformed("it has no parts"))?;
        let (header, payload) =
            signed.split_once('.').ok_or_else(|| malformed("it has two parts, not three"))?;
        if payload.contains('.') {
            return Err(malformed("it has more than three parts"));
        }
        let header = decode(header).ok_or_else(|| malformed("its header is not base64url"))?;
        let (algorithm, kid) = read_header(&header)?;
        Ok(Self {
            signed,
            algorithm,
            kid,
            payload: decode(payload).ok_or_else(|| malformed("its payload is not base64url"))?,
            signature: decode(signature)
                .ok_or_else(|| malformed("its signature is not base64url"))?,
        })
    }

    fn claims(&self) -> Result<Claims, Refusal> {
        serde_json::from_slice(&self.payload).map_err(|_| Refusal::Malformed {
            what: "its payload is not JSON with claims of the right types",
        })
    }
}

fn read_header(json: &[u8]) -> Result<(Algorithm, Option<String>), Refusal> {
    let malformed =
        Refusal::Malformed { what: "its header is not JSON with alg, and kid and typ, as text" };
    let names: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|_| malformed.clone())?;
    if names.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(Refusal::HeaderParameter);
    }
    // A map keeps the last of two equal names; this refuses them.
    let header: Header = serde_json::from_slice(json).map_err(|_| malformed)?;
    let algorithm = Algorithm::parse(&header.alg).ok_or(Refusal::Algorithm)?;
    if !matches!(header.typ.as_deref(), None | Some("JWT" | "JOSE")) {
        return Err(Refusal::Type);
    }
    Ok((algorithm, header.kid))
}

/// The claims that count. `iat` must be a time where it is there, and is not held against the token when it
/// is in the future: it informs (RFC 7519 §4.1.6), and only `nbf` forbids.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "text")]
    sub: Option<String>,
    #[serde(default)]
    aud: Audiences,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    #[serde(rename = "iat")]
    _iat: Option<NumericDate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// Seconds since the epoch, perhaps with a fraction (RFC 7519 §2), which is dropped.
struct NumericDate(u64);

impl Claims {
    fn workload(&self) -> Result<SpiffeId, Refusal> {
        let sub = self.sub.as_deref().ok_or(Refusal::Subject)?;
        let spiffe_id = SpiffeId::parse(sub).map_err(|_| Refusal::Subject)?;
        if spiffe_id.path().is_empty() { Err(Refusal::Subject) } else { Ok(spiffe_id) }
    }

    fn check_audience(&self, expected: &Audience) -> Result<(), Refusal> {
        let audiences = match &self.aud {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Several(several) => several,
        };
        if audiences.is_empty() {
            return Err(Refusal::NoAudience);
        }
        if !audiences.iter().take(AUDIENCES_MAX).any(|audience| audience == expected.as_str()) {
            return Err(Refusal::Audience { expected: expected.clone() });
        }
        Ok(())
    }

    fn check_times(&self, now: SystemTime, leeway: Duration) -> Result<SystemTime, Refusal> {
        let expires_at = self.exp.as_ref().ok_or(Refusal::NoExpiry)?.time()?;
        if let Ok(ago) = now.duration_since(expires_at).map(|ago| ago.as_secs_f64())
            && ago >= leeway.as_secs_f64()
        {
            return Err(Refusal::Expired { ago_s: ago as u64 });
        }
        if let Some(not_before) = &self.nbf
            && let Ok(ahead) = not_before.time()?.duration_since(now)
            && ahead > leeway
        {
            return Err(Refusal::NotYetValid { in_s: ahead.as_secs() });
        }
        Ok(expires_at)
    }
}

impl NumericDate {
    fn time(&self) -> Result<SystemTime, Refusal> {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.0))
            .ok_or(Refusal::Malformed { what: "one of its times is out of range" })
    }
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let fraction =
            || number.as_f64().filter(|seconds| (0.0..9e15).contains(seconds)).map(|s| s as u64);
        let seconds = number.as_u64().or_else(fraction);
        seconds.map(Self).ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}

/// Text that is there; `null` is not text.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty())
}

fn fingerprint(token: &str, audience: &Audience) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    // The length keeps "ab" + "c" apart from "a" + "bc".
    context.update(&(audience.as_str().len() as u64).to_be_bytes());
    context.update(audience.as_str().as_bytes());
    context.update(token.as_bytes());
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

#[cfg(test)]
mod tests;
