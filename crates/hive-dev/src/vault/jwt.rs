//! Verifies the JWT of a login against the authority's keys, fetched over HTTP and again for a key that is not known.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Error;
use crate::algorithms;

/// Clocks differ; Vault allows as much.
const LEEWAY: Duration = Duration::from_secs(60);
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
/// A caller with made-up key ids shall not make us ask the authority each time.
const REFETCH_GAP: Duration = Duration::from_millis(200);
const JWKS_MAX_BYTES: usize = 1 << 20;
const KEYS_MAX: usize = 64;

/// What a verified token says.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    aud: Audiences,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iat: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    Many(Vec<String>),
    One(String),
}

impl Claims {
    pub(super) fn has_audience(&self, bound: &[String]) -> bool {
        match &self.aud {
            Audiences::Many(given) => given.iter().any(|audience| bound.contains(audience)),
            Audiences::One(given) => bound.contains(given),
        }
    }

    fn check_times(&self, now: SystemTime) -> Result<(), &'static str> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = LEEWAY.as_secs_f64();
        let begins = self.nbf.unwrap_or(f64::MIN).max(self.iat.unwrap_or(f64::MIN));
        match () {
            () if !self.exp.is_finite() || now > self.exp + leeway => Err("token is expired"),
            () if now + leeway < begins => Err("token not yet valid"),
            () => Ok(()),
        }
    }
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    /// The authority does not give us its keys: no fault of the token's.
    NoKeys,
    /// The token itself.
    Token(&'static str),
}

/// The authority's keys.
pub(super) struct Verifier {
    jwks_url: String,
    http: reqwest::Client,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    keys: Vec<Jwk>,
    fetched_at: Option<Instant>,
}

#[derive(Clone, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

impl Verifier {
    pub(super) fn new(jwks_url: &str) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(no_tls().ok_or(Error::Client)?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(FETCH_DEADLINE)
            .build()
            .map_err(|_| Error::Client)?;
        Ok(Self { jwks_url: jwks_url.to_owned(), http, cache: Mutex::default() })
    }

    /// The claims of a token that one of the keys signed and whose time has come and not gone.
    pub(super) async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let parts: Vec<_> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(Refusal::Token("compact JWS format must have three parts"));
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let header: Header =
            decode_json(header).ok_or(Refusal::Token("the header cannot be read"))?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Refusal::Token("the signature cannot be read"))?;
        let keys = self.keys(header.kid.as_deref()).await?;
        if !keys.iter().any(|key| key.verifies(&header.alg, signed.as_bytes(), &signature)) {
            return Err(Refusal::Token("no known key successfully validated the token signature"));
        }
        let claims: Claims =
            decode_json(claims).ok_or(Refusal::Token("sub, aud and exp are required"))?;
        claims.check_times(SystemTime::now()).map_err(Refusal::Token)?;
        Ok(claims)
    }

    async fn keys(&self, kid: Option<&str>) -> Result<Vec<Jwk>, Refusal> {
        let mut cache = self.cache.lock().await;
        let matching = |keys: &[Jwk]| -> Vec<Jwk> {
            let fits = |key: &&Jwk| kid.is_none() || key.kid.as_deref() == kid;
            keys.iter().filter(fits).cloned().collect()
        };
        let known = matching(&cache.keys);
        let fresh = cache.fetched_at.is_some_and(|at| at.elapsed() < REFETCH_GAP);
        if !known.is_empty() || fresh {
            return Ok(known);
        }
        cache.keys = self.fetch().await.ok_or(Refusal::NoKeys)?;
        cache.fetched_at = Some(Instant::now());
        Ok(matching(&cache.keys))
    }

    async fn fetch(&self) -> Option<Vec<Jwk>> {
        let mut response =
            self.http.get(&self.jwks_url).send().await.ok()?.error_for_status().ok()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            body.extend_from_slice(&chunk);
            if body.len() > JWKS_MAX_BYTES {
                return None;
            }
        }
        let jwks: Jwks = serde_json::from_slice(&body).ok()?;
        Some(jwks.keys.into_iter().filter(Jwk::signs_tokens).take(KEYS_MAX).collect())
    }
}

impl Jwk {
    /// A SPIFFE bundle also holds the keys that sign certificates; those may not sign tokens.
    fn signs_tokens(&self) -> bool {
        self.purpose.as_deref().is_none_or(|purpose| purpose == "jwt-svid" || purpose == "sig")
    }

    fn verifies(&self, alg: &str, message: &[u8], signature: &[u8]) -> bool {
        match self.kty.as_str() {
            "EC" => self.verifies_ec(alg, message, signature).is_some(),
            "RSA" => self.verifies_rsa(alg, message, signature).is_some(),
            _ => false,
        }
    }

    fn verifies_ec(&self, alg: &str, message: &[u8], signature: &[u8]) -> Option<()> {
        let curve = algorithms::curve(self.crv.as_deref()?).filter(|own| own.algorithm == alg)?;
        let (x, y) = (decode(self.x.as_deref()?)?, decode(self.y.as_deref()?)?);
        let point = curve.point(&x, &y)?;
        UnparsedPublicKey::new(curve.verification, point).verify(message, signature).ok()
    }

    fn verifies_rsa(&self, alg: &str, message: &[u8], signature: &[u8]) -> Option<()> {
        let parameters = algorithms::rsa(alg)?;
        let (n, e) = (decode(self.n.as_deref()?)?, decode(self.e.as_deref()?)?);
        RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).ok()
    }
}

/// `*` stands for anything, slashes too: that is how Vault's bound claims of type `glob` work.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// The keys come over plain HTTP from loopback, but the client wants to know how it would speak TLS.
fn no_tls() -> Option<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?;
    Some(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn decode_json<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&decode(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_crosses_slashes_and_is_anchored() {
        let table = [
            ("spiffe://d/ns/*/sa/app", "spiffe://d/ns/a/b/sa/app", true),
            ("spiffe://d/ns/*/sa/app", "spiffe://d/ns/a/sa/apple", false),
            ("spiffe://d/w/*", "spiffe://d/w/one", true),
            ("spiffe://d/w/*", "spiffe://e/w/one", false),
            ("spiffe://d/w", "spiffe://d/w", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn times_are_checked_with_a_minute_of_leeway() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let claims = |exp, nbf| Claims {
            sub: String::new(),
            aud: Audiences::One(String::new()),
            exp,
            nbf: Some(nbf),
            iat: None,
        };
        assert!(claims(9_941.0, 0.0).check_times(now).is_ok());
        assert!(claims(9_939.0, 0.0).check_times(now).is_err());
        assert!(claims(20_000.0, 10_059.0).check_times(now).is_ok());
        assert!(claims(20_000.0, 10_061.0).check_times(now).is_err());
        assert!(claims(f64::NAN, 0.0).check_times(now).is_err());
    }
}
