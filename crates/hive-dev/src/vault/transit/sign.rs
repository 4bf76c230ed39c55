//! Signatures and HMACs.

use aws_lc_rs::digest::{self, Digest, SHA256, SHA384, SHA512};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{constant_time, hmac};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

use super::crypt::{NO_CONTEXT, derived};
use super::digests::{algorithm, hmac_algorithm};
use super::key::{Curve, Key, Kind, Version};
use super::{Body, Fault, Keys, Reply, context, decoded, each, internal, versioned};
use crate::vault::fields;

const SEED_BYTES: usize = 32;

/// How something is signed.
struct Manner {
    hash: &'static digest::Algorithm,
    /// URL-safe and of fixed length, as JWTs have it; else ASN.1.
    is_jws: bool,
    is_pkcs1: bool,
    prehashed: bool,
}

impl Manner {
    fn read(in_path: Option<&str>, body: &Body) -> Result<Self, Fault> {
        let hash = in_path
            .or_else(|| fields::text(body, "hash_algorithm"))
            .or_else(|| fields::text(body, "algorithm"))
            .unwrap_or("sha2-256");
        let refused = |text: String| Fault::new(400, text);
        let hash =
            algorithm(hash).ok_or_else(|| refused(format!("invalid hash algorithm {hash:?}")))?;
        let is_jws = match fields::text(body, "marshaling_algorithm").unwrap_or("asn1") {
            "asn1" => false,
            "jws" => true,
            other => return Err(refused(format!("invalid marshaling type {other:?}"))),
        };
        let is_pkcs1 = match fields::text(body, "signature_algorithm").unwrap_or_default() {
            "" | "pss" => false,
            "pkcs1v15" => true,
            other => return Err(internal(&format!("unsupported rsa signature algorithm {other}"))),
        };
        let prehashed = fields::flag(body, "prehashed").unwrap_or(false);
        Ok(Self { hash, is_jws, is_pkcs1, prehashed })
    }

    fn hashed(&self, input: &[u8]) -> Vec<u8> {
        if self.prehashed {
            return input.to_vec();
        }
        digest::digest(self.hash, input).as_ref().to_vec()
    }
}

impl Keys {
    pub(super) fn sign(
        &self,
        name: &str,
        in_path: Option<&str>,
        body: &Body,
    ) -> Result<Reply, Fault> {
        let manner = Manner::read(in_path, body)?;
        let key = self.key(name, "signing key not found")?;
        if !key.kind.signs() {
            let text = format!("key type {} does not support signing", key.kind.name());
            return Err(Fault::new(400, text));
        }
        let (asked, is_batch) = (key_version(body)?, body.contains_key("batch_input"));
        each(body, &json!({ "key_version": 0 }), false, |item| {
            let input = decoded_input(item)?;
            // The real server takes a wrong version for a fault of its own.
            let own = |fault: Fault| internal(&fault.errors.concat());
            let (number, version) = key.version_for(asked, "signing").map_err(own)?;
            let pair = key.derived_pair(version, &context(item)?)?;
            let bytes = match &pair {
                Some(pair) => pair.sign(&input).as_ref().to_vec(),
                None => version.sign(key.kind, &manner, &input)?,
            };
            let text = if manner.is_jws {
                BASE64_URL_SAFE_NO_PAD.encode(bytes)
            } else {
                BASE64_STANDARD.encode(bytes)
            };
            let signature = format!("vault:v{number}:{text}");
            let mut shown = json!({ "key_version": number, "signature": signature });
            if let Some(pair) = pair {
                // The real server has two names for it.
                let name = if is_batch { "publickey" } else { "public_key" };
                shown[name] = json!(BASE64_STANDARD.encode(pair.public_key()));
            }
            Ok(shown)
        })
    }

    pub(super) fn verify(
        &self,
        name: &str,
        in_path: Option<&str>,
        body: &Body,
    ) -> Result<Reply, Fault> {
        let has = |member: &str| {
            let given =
                |item: &Body| fields::text(item, member).is_some_and(|text| !text.is_empty());
            let items = body.get("batch_input").and_then(Value::as_array);
            given(body) || items.into_iter().flatten().filter_map(Value::as_object).any(given)
        };
        if has("signature") {
            return self.verify_signature(name, in_path, body);
        }
        if has("hmac") {
            return self.verify_hmac(name, in_path, body);
        }
        let text = if body.contains_key("batch_input") {
            "no batch_input elements have 'signature' or 'hmac'"
        } else {
            "neither a 'signature' nor an 'hmac' were given to verify"
        };
        Err(Fault::new(400, text))
    }

    fn verify_signature(
        &self,
        name: &str,
        in_path: Option<&str>,
        body: &Body,
    ) -> Result<Reply, Fault> {
        let manner = Manner::read(in_path, body)?;
        let key = self.key(name, "signature verification key not found")?;
        if !key.kind.signs() {
            let text = format!("key type {} does not support verification", key.kind.name());
            return Err(Fault::new(400, text));
        }
        each(body, &json!({ "valid": false }), false, |item| {
            let input = decoded_input(item)?;
            let given = fields::text(item, "signature").unwrap_or_default();
            let (number, text) = versioned(given, "signature")?;
            let version = key.version_of(number, "signature")?;
            let bytes = if manner.is_jws {
                BASE64_URL_SAFE_NO_PAD.decode(text).map_err(drop)
            } else {
                decoded(text).map_err(drop)
            };
            let bytes = bytes.map_err(|()| Fault::new(400, "invalid base64 signature value"))?;
            if matches!(key.kind, Kind::Ec(_)) && !manner.is_jws && !is_sequence(&bytes) {
                return Err(Fault::new(400, "supplied signature is invalid"));
            }
            let is_valid = match key.derived_pair(version, &context(item)?)? {
                Some(pair) => {
                    let public = UnparsedPublicKey::new(&signature::ED25519, pair.public_key());
                    public.verify(&input, &bytes).is_ok()
                }
                None => version.verify(key.kind, &manner, &input, &bytes),
            };
            Ok(json!({ "valid": is_valid }))
        })
    }

    pub(super) fn hmac(
        &self,
        name: &str,
        in_path: Option<&str>,
        body: &Body,
    ) -> Result<Reply, Fault> {
        let key = self.key(name, "encryption key not found")?;
        let hash = hash_name(in_path, body);
        let hash =
            hmac_algorithm(hash).ok_or_else(|| Fault::new(400, "unsupported algorithm '\\x00'"))?;
        let asked = key_version(body)?;
        each(body, &json!({}), false, |item| {
            if fields::text(item, "input").is_none() {
                return Err(Fault::new(400, "missing input for HMAC"));
            }
            let input = decoded_input(item)?;
            let (number, version) = key.version_for(asked, "hmac")?;
            let tag = hmac::sign(&hmac::Key::new(hash, &version.hmac), &input);
            Ok(json!({ "hmac": format!("vault:v{number}:{}", BASE64_STANDARD.encode(tag)) }))
        })
    }

    fn verify_hmac(&self, name: &str, in_path: Option<&str>, body: &Body) -> Result<Reply, Fault> {
        let key = self.key(name, "encryption key not found")?;
        let name = hash_name(in_path, body);
        let hash = hmac_algorithm(name)
            .ok_or_else(|| Fault::new(400, format!("invalid hash algorithm {name:?}")))?;
        each(body, &json!({ "valid": false }), false, |item| {
            let input = decoded_input(item)?;
            let given = fields::text(item, "hmac").filter(|text| !text.is_empty());
            let given = given.ok_or_else(|| Fault::new(400, "missing hmac"))?;
            if !given.starts_with("vault:v") {
                return Err(Fault::new(400, "invalid HMAC to verify: no prefix"));
            }
            let (number, text) = versioned(given, "HMAC")?;
            let tag = decoded(text).map_err(|why| {
                Fault::new(400, format!("unable to decode verification HMAC as base64: {why}"))
            })?;
            let version = hmac_version(key, number)?;
            let own = hmac::sign(&hmac::Key::new(hash, &version.hmac), &input);
            Ok(
                json!({ "valid": constant_time::verify_slices_are_equal(own.as_ref(), &tag).is_ok() }),
            )
        })
    }
}

fn hmac_version(key: &Key, number: u32) -> Result<&Version, Fault> {
    if number > key.latest() {
        return Err(Fault::new(400, "invalid HMAC: version is too new"));
    }
    let too_old = "cannot verify HMAC: version is too old (disallowed by policy)";
    key.version_of(number, "HMAC").map_err(|_| Fault::new(400, too_old))
}

fn hash_name<'a>(in_path: Option<&'a str>, body: &'a Body) -> &'a str {
    let own = in_path.or_else(|| fields::text(body, "hash_algorithm"));
    own.or_else(|| fields::text(body, "algorithm")).unwrap_or("sha2-256")
}

fn key_version(body: &Body) -> Result<u32, Fault> {
    let given = fields::number(body, "key_version")?.unwrap_or(0);
    u32::try_from(given).map_err(|_| internal("requested version for signing is negative"))
}

fn decoded_input(item: &Body) -> Result<Vec<u8>, Fault> {
    decoded(fields::text(item, "input").unwrap_or_default())
        .map_err(|why| Fault::new(400, format!("unable to decode input as base64: {why}")))
}

/// Whether it can be an ASN.1 sequence of that length at all.
fn is_sequence(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x81, length, rest @ ..] => usize::from(*length) == rest.len(),
        [0x30, length, rest @ ..] => usize::from(*length) == rest.len(),
        _ => false,
    }
}

impl Curve {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::P256 => &SHA256,
            Self::P384 => &SHA384,
            Self::P521 => &SHA512,
        }
    }

    /// ECDSA takes a number; whichever hash it is of, the number is what the curve's own hash would have to be.
    fn number(self, hash: &[u8]) -> Option<Digest> {
        let length = self.digest().output_len();
        let used = &hash[..hash.len().min(length)];
        let padded = [vec![0; length - used.len()], used.to_vec()].concat();
        Digest::import_less_safe(&padded, self.digest()).ok()
    }

    fn verification(self, is_fixed: bool) -> &'static dyn VerificationAlgorithm {
        match (self, is_fixed) {
            (Self::P256, false) => &ECDSA_P256_SHA256_ASN1,
            (Self::P256, true) => &ECDSA_P256_SHA256_FIXED,
            (Self::P384, false) => &ECDSA_P384_SHA384_ASN1,
            (Self::P384, true) => &ECDSA_P384_SHA384_FIXED,
            (Self::P521, false) => &ECDSA_P521_SHA512_ASN1,
            (Self::P521, true) => &ECDSA_P521_SHA512_FIXED,
        }
    }

    fn fixed(self) -> &'static signature::EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        }
    }
}

impl Key {
    /// What signs for this context, where the key is one from which others are derived.
    pub(super) fn derived_pair(
        &self,
        version: &Version,
        context: &[u8],
    ) -> Result<Option<Ed25519KeyPair>, Fault> {
        if !self.derived || self.kind != Kind::Ed25519 {
            return Ok(None);
        }
        if context.is_empty() {
            return Err(internal(&format!("error deriving key: {NO_CONTEXT}")));
        }
        let failed = || internal("the key cannot be derived");
        let whole = version.seed_and_public().ok_or_else(failed)?;
        let seed = derived(&whole, context, SEED_BYTES)?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map(Some).map_err(|_| failed())
    }
}

impl Version {
    fn sign(&self, kind: Kind, manner: &Manner, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let failed = || internal("signing failed");
        match kind {
            Kind::Ec(curve) => {
                let how = if manner.is_jws { curve.fixed() } else { curve.signing() };
                let pair = EcdsaKeyPair::from_pkcs8(how, &self.material).map_err(|_| failed())?;
                let number = curve.number(&manner.hashed(input)).ok_or_else(failed)?;
                let signature = pair.sign_digest(&number).map_err(|_| failed())?;
                Ok(signature.as_ref().to_vec())
            }
            Kind::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8(&self.material).map_err(|_| failed())?;
                Ok(pair.sign(input).as_ref().to_vec())
            }
            _ => self.sign_rsa(manner, input),
        }
    }

    fn sign_rsa(&self, manner: &Manner, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let failed = || internal("signing failed");
        let pair = RsaKeyPair::from_pkcs8(&self.material).map_err(|_| failed())?;
        let mut signed = vec![0; pair.public_modulus_len()];
        let how = rsa_encoding(manner)
            .ok_or_else(|| Fault::new(400, "this hash is not served for RSA keys"))?;
        let done = if manner.prehashed {
            let hash = Digest::import_less_safe(input, manner.hash)
                .map_err(|_| internal("crypto/rsa: input must be hashed message"))?;
            pair.sign_digest(how, &hash, &mut signed)
        } else {
            pair.sign(how, &SystemRandom::new(), input, &mut signed)
        };
        done.map_err(|_| failed())?;
        Ok(signed)
    }

    fn verify(&self, kind: Kind, manner: &Manner, input: &[u8], signed: &[u8]) -> bool {
        let public = |how| UnparsedPublicKey::new(how, &self.public);
        match kind {
            Kind::Ec(curve) => curve.number(&manner.hashed(input)).is_some_and(|number| {
                public(curve.verification(manner.is_jws)).verify_digest(&number, signed).is_ok()
            }),
            Kind::Ed25519 => public(&signature::ED25519).verify(input, signed).is_ok(),
            _ => rsa_verification(manner).is_some_and(|how| {
                if !manner.prehashed {
                    return public(how).verify(input, signed).is_ok();
                }
                Digest::import_less_safe(input, manner.hash)
                    .is_ok_and(|hash| public(how).verify_digest(&hash, signed).is_ok())
            }),
        }
    }
}

fn rsa_encoding(manner: &Manner) -> Option<&'static dyn signature::RsaEncoding> {
    Some(match (manner.hash, manner.is_pkcs1) {
        (hash, false) if *hash == SHA256 => &signature::RSA_PSS_SHA256,
        (hash, false) if *hash == SHA384 => &signature::RSA_PSS_SHA384,
        (hash, false) if *hash == SHA512 => &signature::RSA_PSS_SHA512,
        (hash, true) if *hash == SHA256 => &signature::RSA_PKCS1_SHA256,
        (hash, true) if *hash == SHA384 => &signature::RSA_PKCS1_SHA384,
        (hash, true) if *hash == SHA512 => &signature::RSA_PKCS1_SHA512,
        _ => return None,
    })
}

fn rsa_verification(manner: &Manner) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (manner.hash, manner.is_pkcs1) {
        (hash, false) if *hash == SHA256 => &signature::RSA_PSS_2048_8192_SHA256,
        (hash, false) if *hash == SHA384 => &signature::RSA_PSS_2048_8192_SHA384,
        (hash, false) if *hash == SHA512 => &signature::RSA_PSS_2048_8192_SHA512,
        (hash, true) if *hash == SHA256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        (hash, true) if *hash == SHA384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        (hash, true) if *hash == SHA512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    })
}
