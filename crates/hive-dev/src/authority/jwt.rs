//! The trust domain's JWT authority: signs JWT-SVIDs and validates them (JWT-SVID standard).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::jwk::{self, PublicKey};
use super::rotation::Named;

/// Longer tokens are refused before anything is decoded.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How many keys a token is tried against.
const CANDIDATES_MAX: usize = 16;

/// An ES256 key with its name.
pub(super) struct JwtAuthority {
    key: EcdsaKeyPair,
    kid: String,
    not_after: SystemTime,
}

/// What a JWT-SVID shall say.
pub(super) struct Wanted<'a> {
    pub(super) subject: &'a str,
    pub(super) audience: &'a [String],
    pub(super) issuer: &'a str,
    pub(super) now: SystemTime,
    pub(super) ttl: Duration,
}

/// What a JWK is published for: SPIFFE and OpenID Connect have different words for the same key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    OpenId,
    Spiffe,
}

/// Why a token is not valid. The sentence names no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("its audience is another")]
    Audience,
    #[error("it has expired")]
    Expired,
    #[error("it is not a JWS in compact serialization with the header of a JWT-SVID")]
    Form,
    #[error("a claim that a JWT-SVID needs is missing or malformed")]
    Claims,
    #[error("it is not valid yet")]
    NotYet,
    #[error("no key of its trust domain made its signature")]
    Signature,
    #[error("its subject is no workload of a trust domain whose keys are known here")]
    TrustDomain,
}

impl JwtAuthority {
    pub(super) fn new(now: SystemTime, ttl: Duration) -> Result<Self, Unspecified> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let kid = thumbprint(key.public_key().as_ref());
        Ok(Self { key, kid, not_after: now + ttl })
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs. It never outlives this authority.
    pub(super) fn sign(&self, wanted: &Wanted<'_>) -> Result<SecretString, Unspecified> {
        let expiry = self.not_after.min(wanted.now + wanted.ttl);
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" });
        let claims = json!({
            "sub": wanted.subject,
            "aud": wanted.audience,
            "iss": wanted.issuer,
            "iat": unix_seconds(wanted.now),
            "exp": unix_seconds(expiry),
        });
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(SecretString::from(format!("{signed}.{}", encode(signature))))
    }

    /// The public key as a JWK.
    pub(super) fn jwk(&self, purpose: Use) -> Value {
        let (x, y) = coordinates(self.key.public_key().as_ref());
        let purpose = match purpose {
            Use::OpenId => "sig",
            Use::Spiffe => "jwt-svid",
        };
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "use": purpose, "alg": "ES256" })
    }
}

impl Named for JwtAuthority {
    fn id(&self) -> &str {
        &self.kid
    }
}

/// The claims of `token`, if it is for `audience`, valid now, and signed by one of the keys of its subject's trust
/// domain, which `keys_of` names; None means that the trust domain is unknown.
pub(super) fn validate(
    token: &str,
    audience: &str,
    keys_of: impl FnOnce(&str) -> Option<Vec<PublicKey>>,
    now: SystemTime,
) -> Result<Map<String, Value>, Invalid> {
    let (signed, signature) = split(token)?;
    let (header, claims) = signed.split_once('.').ok_or(Invalid::Form)?;
    let header: Header = decode_json(header).ok_or(Invalid::Form)?;
    header.check()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Invalid::Form)?;
    let claims: Map<String, Value> = decode_json(claims).ok_or(Invalid::Claims)?;
    // Nothing in here is believed yet: the subject only says whose keys to try.
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(Invalid::Claims)?;
    let keys = keys_of(subject).ok_or(Invalid::TrustDomain)?;
    // A token without `kid` is tried against every key; there are never more than a few.
    let named = |key: &&PublicKey| header.kid.as_deref().is_none_or(|kid| kid == key.kid());
    let mut candidates = keys.iter().filter(named).take(CANDIDATES_MAX);
    if !candidates.any(|key| key.verifies(&header.alg, signed.as_bytes(), &signature)) {
        return Err(Invalid::Signature);
    }
    check_claims(&claims, audience, now)?;
    Ok(claims)
}

/// Seconds since 1970, rounded down.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// JWT-SVID section 2: no header but these three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
}

impl Header {
    fn check(&self) -> Result<(), Invalid> {
        let typ_is_fine = matches!(self.typ.as_deref(), None | Some("JOSE" | "JWT"));
        if jwk::is_algorithm(&self.alg) && typ_is_fine { Ok(()) } else { Err(Invalid::Form) }
    }
}

/// The signed part and the signature.
fn split(token: &str) -> Result<(&str, &str), Invalid> {
    if token.len() > TOKEN_BYTES_MAX || token.matches('.').count() != 2 {
        return Err(Invalid::Form);
    }
    token.rsplit_once('.').ok_or(Invalid::Form)
}

fn check_claims(
    claims: &Map<String, Value>,
    audience: &str,
    now: SystemTime,
) -> Result<(), Invalid> {
    let now = unix_seconds(now);
    let expiry = claims.get("exp").and_then(numeric_date).ok_or(Invalid::Claims)?;
    if expiry <= now {
        return Err(Invalid::Expired);
    }
    if let Some(not_before) = claims.get("nbf") {
        let not_before = numeric_date(not_before).ok_or(Invalid::Claims)?;
        if not_before > now {
            return Err(Invalid::NotYet);
        }
    }
    let named = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        _ => return Err(Invalid::Claims),
    };
    if named { Ok(()) } else { Err(Invalid::Audience) }
}

/// Whole seconds; RFC 7519, section 2, also allows fractions.
fn numeric_date(value: &Value) -> Option<u64> {
    let fraction = || value.as_f64().filter(|seconds| (0.0..9e15).contains(seconds));
    value.as_u64().or_else(|| fraction().map(|seconds| seconds as u64))
}

/// RFC 7638: the SHA-256 of the key's required members, in lexicographic order.
fn thumbprint(public: &[u8]) -> String {
    #[derive(Serialize)]
    struct Members {
        crv: &'static str,
        kty: &'static str,
        x: String,
        y: String,
    }
    let (x, y) = coordinates(public);
    let members = Members { crv: "P-256", kty: "EC", x, y };
    let text = serde_json::to_vec(&members).expect("four strings always encode as JSON");
    encode(digest(&SHA256, &text))
}

/// The point is uncompressed: 0x04, then x and y.
pub(super) fn coordinates(public: &[u8]) -> (String, String) {
    let (x, y) = public[1..].split_at(public.len() / 2);
    (encode(x), encode(y))
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode_json<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const SUBJECT: &str = "spiffe://dev.hive.internal/a";

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn authority() -> JwtAuthority {
        JwtAuthority::new(at(0), Duration::from_secs(100_000)).expect("a key")
    }

    /// What is known of the only trust domain: these keys.
    fn keys(authorities: &[&JwtAuthority]) -> impl FnOnce(&str) -> Option<Vec<PublicKey>> {
        let keys = authorities.iter().map(|one| PublicKey::parse(&one.jwk(Use::Spiffe)));
        let keys = keys.map(|key| key.expect("a key")).collect();
        |subject: &str| (subject == SUBJECT).then_some(keys)
    }

    fn token(authority: &JwtAuthority) -> String {
        let audience = ["vault".to_owned(), "registry".to_owned()];
        let wanted = Wanted {
            subject: SUBJECT,
            audience: &audience,
            issuer: "http://127.0.0.1:1",
            now: at(1_000),
            ttl: Duration::from_secs(300),
        };
        authority.sign(&wanted).expect("a token").expose_secret().to_owned()
    }

    /// A token of our key over any header and claims.
    fn forged(authority: &JwtAuthority, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature =
            authority.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
        format!("{signed}.{}", encode(signature))
    }

    #[test]
    fn our_own_token_is_valid_for_each_of_its_audiences_until_it_expires() {
        let authority = authority();
        let token = token(&authority);
        for audience in ["vault", "registry"] {
            let claims = validate(&token, audience, keys(&[&authority]), at(1_299)).expect("valid");
            assert_eq!(claims["sub"], SUBJECT);
            assert_eq!(claims["iss"], "http://127.0.0.1:1");
        }
        assert_eq!(
            validate(&token, "other", keys(&[&authority]), at(1_000)),
            Err(Invalid::Audience)
        );
        assert_eq!(
            validate(&token, "vault", keys(&[&authority]), at(1_300)),
            Err(Invalid::Expired)
        );
        assert_eq!(validate(&token, "vault", keys(&[]), at(1_000)), Err(Invalid::Signature));
    }

    #[test]
    fn a_token_changed_in_any_part_is_refused() {
        let authority = authority();
        let token = token(&authority);
        for part in 0..3 {
            let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
            let changed = if parts[part].starts_with('A') { "B" } else { "A" };
            parts[part].replace_range(0..1, changed);
            assert!(
                validate(&parts.join("."), "vault", keys(&[&authority]), at(1_000)).is_err(),
                "{part}"
            );
        }
        assert_eq!(validate("a.b", "vault", keys(&[&authority]), at(1_000)), Err(Invalid::Form));
    }

    #[test]
    fn headers_and_claims_follow_the_standard() {
        let authority = authority();
        let good = json!({ "sub": SUBJECT, "aud": "vault", "exp": 2_000 });
        let es256 = json!({ "alg": "ES256" });
        let other = json!({ "sub": "spiffe://elsewhere/a", "aud": "vault", "exp": 2_000 });
        let early = json!({ "sub": SUBJECT, "aud": ["vault"], "exp": 2_000, "nbf": 1_500 });
        let table = [
            (es256.clone(), good.clone(), Ok(())),
            (json!({ "alg": "ES256", "typ": "JOSE" }), good.clone(), Ok(())),
            (json!({ "alg": "none" }), good.clone(), Err(Invalid::Form)),
            (json!({ "alg": "HS256" }), good.clone(), Err(Invalid::Form)),
            (json!({ "alg": "ES256", "typ": "at+jwt" }), good.clone(), Err(Invalid::Form)),
            (json!({ "alg": "ES256", "jku": "http://x" }), good.clone(), Err(Invalid::Form)),
            (json!({ "alg": "ES256", "kid": "another" }), good, Err(Invalid::Signature)),
            (es256.clone(), json!({ "sub": SUBJECT, "aud": "vault" }), Err(Invalid::Claims)),
            (es256.clone(), json!({ "sub": SUBJECT, "exp": 2_000 }), Err(Invalid::Claims)),
            (es256.clone(), json!({ "aud": "vault", "exp": 2_000 }), Err(Invalid::Claims)),
            (es256.clone(), other, Err(Invalid::TrustDomain)),
            (es256, early, Err(Invalid::NotYet)),
        ];
        for (header, claims, expected) in table {
            let token = forged(&authority, &header, &claims);
            let found = validate(&token, "vault", keys(&[&authority]), at(1_000)).map(|_| ());
            assert_eq!(found, expected, "{header} {claims}");
        }
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_7638() {
        // Checked against the definition: hash of exactly this text.
        let public: Vec<u8> = std::iter::once(4).chain(0..64).collect();
        let (x, y) = (encode((0..32).collect::<Vec<u8>>()), encode((32..64).collect::<Vec<u8>>()));
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        assert_eq!(thumbprint(&public), encode(digest(&SHA256, text.as_bytes())));
    }
}
