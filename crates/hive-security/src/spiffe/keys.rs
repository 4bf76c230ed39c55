//! JWT bundles: the public keys of each trust domain, parsed once per revision.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::spiffe::id::TrustDomain;

/// The algorithms that a JWT-SVID may use (JWT-SVID.md §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

/// One public key of a bundle, ready for each algorithm it may be used with.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) kid: Option<String>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// RSA keys below this are broken or nearly so (RFC 7518 §3.3), and those above it take a stranger's time.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// A JWK that is longer is left out: 8192 bits of RSA take 1,366 characters.
const JWK_MAX_BYTES: usize = 16 * 1024;

/// The keys of each trust domain.
pub(crate) type Keys = HashMap<TrustDomain, Vec<Key>>;

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Algorithm {
    const RSA: [Self; 6] =
        [Self::Ps256, Self::Ps384, Self::Ps512, Self::Rs256, Self::Rs384, Self::Rs512];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            _ => return None,
        })
    }

    fn rsa_parameters(self) -> Option<&'static signature::RsaParameters> {
        Some(match self {
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::Es512 => return None,
        })
    }
}

impl Key {
    /// Reads a JWK. The reason why it cannot be used is for the log only: such a key is left out (SPIFFE
    /// Trust Domain and Bundle §4.2), and a token made with it is refused for want of it.
    pub(crate) fn from_jwk(json: &[u8]) -> Result<Self, &'static str> {
        if json.len() > JWK_MAX_BYTES {
            return Err("it is too long");
        }
        // The message of the parser would repeat the document.
        let jwk: Jwk = serde_json::from_slice(json).map_err(|_| "it is not a JWK")?;
        // The Workload API sends JWT bundles apart from X.509 bundles, so there `use` may be absent.
        if !matches!(jwk.r#use.as_deref(), None | Some("jwt-svid" | "sig")) {
            return Err("it is for another use");
        }
        if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("it is not for verifying");
        }
        let mut verifiers = match jwk.kty.as_str() {
            "EC" => vec![ec(&jwk)?],
            "RSA" => rsa(&jwk)?,
            _ => return Err("its key type is not used by JWT-SVIDs"),
        };
        if let Some(name) = &jwk.alg {
            let only = Algorithm::parse(name).ok_or("its algorithm is not used by JWT-SVIDs")?;
            verifiers.retain(|(algorithm, _)| *algorithm == only);
        }
        if verifiers.is_empty() {
            return Err("its algorithm does not fit its type");
        }
        Ok(Self { kid: jwk.kid, verifiers })
    }

    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        self.verifiers.iter().any(|(own, _)| *own == algorithm)
    }

    /// Whether `signature` is this key's, by `algorithm`, over `message`.
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let mut fitting = self.verifiers.iter().filter(|(own, _)| *own == algorithm);
        fitting.any(|(_, key)| key.verify_sig(message, signature).is_ok())
    }
}

/// The keys of a trust domain; those that cannot be used are left out and reported.
pub(crate) fn read<'a>(
    trust_domain: &TrustDomain,
    jwks: impl Iterator<Item = &'a [u8]>,
) -> Vec<Key> {
    jwks.filter_map(|jwk| {
        Key::from_jwk(jwk)
            .inspect_err(|reason| {
                tracing::warn!(%trust_domain, reason, "a key of a JWT bundle cannot be used and is left out");
            })
            .ok()
    })
    .collect()
}

fn ec(jwk: &Jwk) -> Result<(Algorithm, ParsedPublicKey), &'static str> {
    let (algorithm, width, verification): (_, _, &'static dyn VerificationAlgorithm) =
        match jwk.crv.as_deref() {
            Some("P-256") => (Algorithm::Es256, 32, &signature::ECDSA_P256_SHA256_FIXED),
            Some("P-384") => (Algorithm::Es384, 48, &signature::ECDSA_P384_SHA384_FIXED),
            Some("P-521") => (Algorithm::Es512, 66, &signature::ECDSA_P521_SHA512_FIXED),
            _ => return Err("its curve is not used by JWT-SVIDs"),
        };
    let mut point = vec![4];
    for coordinate in [&jwk.x, &jwk.y] {
        let bytes = decode(coordinate)?;
        if bytes.len() != width {
            return Err("a coordinate does not have the width of its curve");
        }
        point.extend(bytes);
    }
    let key =
        ParsedPublicKey::new(verification, point).map_err(|_| "it is not a point of its curve")?;
    Ok((algorithm, key))
}

fn rsa(jwk: &Jwk) -> Result<Vec<(Algorithm, ParsedPublicKey)>, &'static str> {
    let (n, e) = (decode(&jwk.n)?, decode(&jwk.e)?);
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err("its modulus does not have 2048 to 8192 bits");
    }
    let components = RsaPublicKeyComponents { n, e };
    let parsed = |algorithm: Algorithm| {
        let parameters = algorithm.rsa_parameters()?;
        Some(components.to_parsed_public_key(parameters).map(|key| (algorithm, key)))
    };
    let keys: Result<_, _> = Algorithm::RSA.into_iter().filter_map(parsed).collect();
    keys.map_err(|_| "it is not an RSA key")
}

fn decode(component: &Option<String>) -> Result<Vec<u8>, &'static str> {
    let text = component.as_deref().ok_or("a component is missing")?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "a component is not base64url")?;
    if bytes.is_empty() { Err("a component is empty") } else { Ok(bytes) }
}
