//! Verifies a JWT: by keys that were given, or by those of an authority, fetched over HTTP and kept.

use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::algorithms;
use crate::calls;

const FETCH_DEADLINE: Duration = Duration::from_secs(5);
const JWKS_MAX_BYTES: usize = 1 << 20;
const KEYS_MAX: usize = 64;

/// Whose signatures are believed.
pub(super) enum Keys {
    /// Given, as SubjectPublicKeyInfo.
    Fixed(Vec<Vec<u8>>),
    /// Of an authority. They are kept until a token comes that none of them verifies; a key that the authority
    /// withdraws is believed until the configuration is written again, as the real server does.
    Url { url: String, kept: Mutex<Vec<Jwk>> },
}

#[derive(Clone, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
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

/// What the token says of its signature.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

/// A token, taken apart.
struct Parts<'a> {
    header: Header,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl Keys {
    pub(super) fn fixed(pems: &[String]) -> Option<Self> {
        let der = |pem: &String| SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok();
        let keys: Option<Vec<_>> = pems.iter().map(|pem| Some(der(pem)?.to_vec())).collect();
        keys.map(Self::Fixed)
    }

    pub(super) fn url(url: &str) -> Self {
        Self::Url { url: url.to_owned(), kept: Mutex::default() }
    }

    /// Whether the authority answers now.
    pub(super) async fn check(&self) -> bool {
        match self {
            Self::Fixed(_) => true,
            Self::Url { url, .. } => fetch(url).await.is_ok(),
        }
    }

    /// The claims of a token that one of the keys signed, and its algorithm. The error is why not.
    pub(super) async fn verify(&self, token: &str) -> Result<(Map<String, Value>, String), String> {
        let (parts, claims) = take_apart(token)?;
        let verified = match self {
            Self::Fixed(keys) => {
                if !keys.iter().any(|key| parts.by_der(key).is_some()) {
                    return Err("no known key successfully validated the token signature".into());
                }
                true
            }
            Self::Url { url, kept } => by_authority(url, kept, &parts).await?,
        };
        if !verified {
            return Err("failed to verify id token signature".to_owned());
        }
        Ok((claims, parts.header.alg))
    }
}

async fn by_authority(
    url: &str,
    kept: &Mutex<Vec<Jwk>>,
    parts: &Parts<'_>,
) -> Result<bool, String> {
    let mut kept = kept.lock().await;
    if parts.by_any(&kept) {
        return Ok(true);
    }
    let fresh =
        fetch(url).await.map_err(|why| format!("fetching keys oidc: get keys failed {why}"))?;
    *kept = fresh;
    Ok(parts.by_any(&kept))
}

fn take_apart(token: &str) -> Result<(Parts<'_>, Map<String, Value>), String> {
    let parts: Vec<_> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        return Err(
            "oidc: malformed jwt: go-jose/go-jose: compact JWS format must have three parts"
                .to_owned(),
        );
    };
    let bad = || "oidc: malformed jwt: illegal base64 data at input byte 0".to_owned();
    let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
    let header = decode_json(header).ok_or_else(bad)?;
    let signature = decode(signature).ok_or_else(bad)?;
    let claims = decode_json(claims).ok_or_else(bad)?;
    Ok((Parts { header, signed, signature }, claims))
}

impl Parts<'_> {
    fn by_any(&self, keys: &[Jwk]) -> bool {
        let kid = self.header.kid.as_deref();
        let fits = |key: &&Jwk| kid.is_none() || key.kid.as_deref() == kid;
        keys.iter().filter(fits).any(|key| self.by(key).is_some())
    }

    /// What a key is for (`use`) is not looked at, as in the real server.
    fn by(&self, key: &Jwk) -> Option<()> {
        let alg = self.header.alg.as_str();
        if key.kty == "EC" {
            let curve =
                algorithms::curve(key.crv.as_deref()?).filter(|own| own.algorithm == alg)?;
            let (x, y) = (decode(key.x.as_deref()?)?, decode(key.y.as_deref()?)?);
            let point = curve.point(&x, &y)?;
            let key = UnparsedPublicKey::new(curve.verification, point);
            return key.verify(self.signed, &self.signature).ok();
        }
        let parameters = algorithms::rsa(alg).filter(|_| key.kty == "RSA")?;
        let (n, e) = (decode(key.n.as_deref()?)?, decode(key.e.as_deref()?)?);
        RsaPublicKeyComponents { n, e }.verify(parameters, self.signed, &self.signature).ok()
    }

    fn by_der(&self, key: &[u8]) -> Option<()> {
        let alg = self.header.alg.as_str();
        let verified = match alg {
            "ES256" => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
                .verify(self.signed, &self.signature),
            "ES384" => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
                .verify(self.signed, &self.signature),
            "ES512" => UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, key)
                .verify(self.signed, &self.signature),
            _ => UnparsedPublicKey::new(algorithms::rsa(alg)?, key)
                .verify(self.signed, &self.signature),
        };
        verified.ok()
    }
}

/// The keys that an authority publishes. The error is what the real server would say of the connection.
async fn fetch(url: &str) -> Result<Vec<Jwk>, String> {
    let failed = |why: &str| format!("Get \"{url}\": {why}");
    let http = client().ok_or_else(|| failed("no HTTP client"))?;
    let mut response = http.get(url).send().await.map_err(|error| {
        failed(if error.is_connect() {
            "connect: connection refused"
        } else {
            "context deadline exceeded"
        })
    })?;
    if !response.status().is_success() {
        return Err(failed(&format!("unexpected status {}", response.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| failed("unexpected EOF"))? {
        body.extend_from_slice(&chunk);
        if body.len() > JWKS_MAX_BYTES {
            return Err(failed("the keys are too many"));
        }
    }
    let jwks: Jwks = serde_json::from_slice(&body).map_err(|_| failed("failed to decode keys"))?;
    Ok(jwks.keys.into_iter().take(KEYS_MAX).collect())
}

/// The keys come over plain HTTP from loopback.
fn client() -> Option<reqwest::Client> {
    let client = calls::client(rustls::RootCertStore::empty())?;
    client.redirect(reqwest::redirect::Policy::none()).timeout(FETCH_DEADLINE).build().ok()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn decode_json<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&decode(part)?).ok()
}
