//! JWT-SVIDs that were signed once.

use std::collections::HashSet;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

/// The bundle document of [`TRUST_DOMAIN`](crate::TRUST_DOMAIN).
pub const BUNDLE: &str = include_str!("../fixtures/bundle.json");

/// The bundle document of [`OTHER`](crate::OTHER).
pub const OTHER_BUNDLE: &str = include_str!("../fixtures/other-bundle.json");

/// The audience of most tokens.
pub const AUDIENCE: &str = "audience";

/// Every token that was signed with a key of one of the two bundles.
pub static SIGNED: LazyLock<Vec<&str>> =
    LazyLock::new(|| include_str!("../fixtures/tokens.txt").lines().collect());

/// What was signed: header and payload, as they are in [`SIGNED`].
pub static SIGNING_INPUTS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| SIGNED.iter().filter_map(|token| Some(token.rsplit_once('.')?.0)).collect());

/// A part of a token, decoded; empty if there is no such token or part.
pub fn part(token: usize, part: usize) -> Vec<u8> {
    let text = SIGNED[token % SIGNED.len()].split('.').nth(part).unwrap_or_default();
    URL_SAFE_NO_PAD.decode(text).unwrap_or_default()
}

/// The text of a token of these parts.
pub fn encode(part: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

/// What an independent reader finds in the header of a token.
pub fn header(part: &str) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(part).expect("an accepted part is base64url");
    let value: Value = serde_json::from_slice(&bytes).expect("an accepted header is JSON");
    assert!(value.is_object(), "an accepted header is an object");
    value
}

/// The claims that count. The others may be anything, also numbers that fit nowhere.
#[derive(Deserialize)]
pub struct Claims {
    /// Whose token it is.
    pub sub: String,
    /// Whom it is meant for.
    pub aud: Value,
    /// When it expires.
    pub exp: f64,
    /// When it begins to be valid.
    pub nbf: Option<f64>,
}

/// What an independent reader finds in the payload of a token.
pub fn claims(part: &str) -> Claims {
    let bytes = URL_SAFE_NO_PAD.decode(part).expect("an accepted part is base64url");
    serde_json::from_slice(&bytes).expect("an accepted payload has claims")
}

/// The elements of a bundle document that was accepted. What stands beside them may be anything.
pub fn elements(document: &[u8]) -> Value {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(document).expect("what was read is a set of keys");
    json!({ "keys": set.keys })
}

/// Keys that live as long as the process.
pub struct Signer {
    keys: Vec<(&'static str, EcdsaKeyPair)>,
}

impl Signer {
    /// One key for each of ES256, ES384 and ES512.
    pub fn generate() -> Self {
        let kinds: [(&str, &'static EcdsaSigningAlgorithm); 3] = [
            ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
        ];
        let key = |(name, kind)| {
            (name, EcdsaKeyPair::generate(kind).expect("the kernel has random numbers"))
        };
        Self { keys: kinds.map(key).into() }
    }

    /// The bundle document with their public keys; `kid` is the algorithm's name in small letters.
    pub fn bundle(&self) -> String {
        let keys: Vec<Value> = self.keys.iter().map(|(name, key)| ec_jwk(name, key)).collect();
        json!({ "keys": keys }).to_string()
    }

    /// `signed` with the signature of one of the keys.
    pub fn sign(&self, key: usize, signed: &str) -> String {
        let (_, key) = &self.keys[key % self.keys.len()];
        let signature =
            key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a whole key signs");
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

/// The JWK of the public half of `key`, for a bundle document.
pub fn ec_jwk(algorithm: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let curve = match algorithm {
        "ES256" => "P-256",
        "ES384" => "P-384",
        _ => "P-521",
    };
    json!({ "use": "jwt-svid", "kty": "EC", "kid": algorithm.to_lowercase(), "crv": curve, "x": encode(x), "y": encode(y) })
}

/// Whether `document`, a set of JWKs, holds the key that made `token` (one of [`SIGNED`]) in a form that may verify
/// it. `bundle` is the document that the key was published in first.
pub fn publishes(document: &Value, token: &str, bundle: &Value, needs_use: bool) -> bool {
    let header = header(token.split('.').next().unwrap_or_default());
    let algorithm = header["alg"].as_str().unwrap_or_default();
    let name =
        if algorithm.starts_with("ES") { algorithm.to_lowercase() } else { "rsa".to_owned() };
    let originals = bundle["keys"].as_array().expect("the fixture has keys");
    let original = originals.iter().find(|key| key["kid"] == name).expect("the fixture has it");
    let may_verify = |key: &&Value| {
        let is_for_use = match key.get("use") {
            None => !needs_use,
            Some(r#use) => {
                r#use == "jwt-svid" || (!needs_use && (r#use == "sig" || r#use.is_null()))
            }
        };
        let fits = |member: &str, wanted: &Value| {
            key.get(member).is_none_or(|value| value.is_null() || value == wanted)
        };
        let operations = key.get("key_ops").filter(|operations| !operations.is_null());
        is_for_use
            && key["kty"] == original["kty"]
            && fits("alg", &header["alg"])
            && header.get("kid").is_none_or(|kid| *kid == key["kid"])
            && operations.is_none_or(|several| {
                several.as_array().is_some_and(|several| several.iter().any(|one| one == "verify"))
            })
            && ["x", "y", "n", "e"].iter().all(|part| {
                number(&key[part]) == number(&original[part]) || original[part].is_null()
            })
    };
    document["keys"].as_array().is_some_and(|keys| keys.iter().any(|key| may_verify(&key)))
}

/// A component of a key, without the zeros before it.
fn number(component: &Value) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(component.as_str()?).ok()?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Those of [`SIGNED`] that are tried against mutated keys: one of each kind of key, and odd names.
pub const TRIED: [usize; 7] = [0, 1, 2, 3, 6, 9, 11];
