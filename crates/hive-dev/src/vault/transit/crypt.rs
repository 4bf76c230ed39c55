//! Encrypting and decrypting.

use std::time::SystemTime;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::key::{Key, Kind, Version, random};
use super::{Body, Fault, Keys, Reply, decoded, each, internal, versioned};
use crate::vault::fields;

const NONCE_BYTES: usize = 12;
pub(super) const NO_CONTEXT: &str = "missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key";
const NOT_FOUND: &str = "encryption key not found";

impl Keys {
    pub(super) fn encrypt(
        &mut self,
        name: &str,
        body: &Body,
        now: SystemTime,
    ) -> Result<Reply, Fault> {
        if let Some(items) = body.get("batch_input").and_then(Value::as_array) {
            let missing = items.iter().position(|item| item.get("plaintext").is_none());
            if let Some(at) = missing {
                let text = format!(
                    "failed to parse batch input: '[{at}].plaintext' missing plaintext to encrypt"
                );
                return Err(internal(&text));
            }
        } else if fields::text(body, "plaintext").is_none() {
            return Err(Fault::new(400, "missing plaintext to encrypt"));
        }
        if !self.all.contains_key(name) {
            self.create(name, body, now)?;
        }
        let key = self.key(name, NOT_FOUND)?;
        each(body, &json!({}), true, |item| {
            let plaintext = fields::text(item, "plaintext").unwrap_or_default();
            let plaintext = Zeroizing::new(decoded(plaintext).map_err(|why| Fault::new(400, why))?);
            let version = match fields::number(item, "key_version")? {
                None => 0,
                Some(version) => u32::try_from(version)
                    .map_err(|_| Fault::new(400, "requested version for encryption is negative"))?,
            };
            key.encrypt(&plaintext, version, &Extra::read(item)?)
        })
    }

    pub(super) fn decrypt(&self, name: &str, body: &Body) -> Result<Reply, Fault> {
        if !body.contains_key("batch_input") {
            ciphertext(body)?;
        }
        let key = self.key(name, NOT_FOUND)?;
        each(body, &json!({ "plaintext": "" }), true, |item| {
            let plaintext = key.decrypt(ciphertext(item)?, &Extra::read(item)?)?;
            Ok(json!({ "plaintext": BASE64_STANDARD.encode(&*plaintext) }))
        })
    }

    pub(super) fn rewrap(&self, name: &str, body: &Body) -> Result<Reply, Fault> {
        if !body.contains_key("batch_input") {
            ciphertext(body)?;
        }
        let key = self.key(name, NOT_FOUND)?;
        each(body, &json!({}), false, |item| {
            let extra = Extra::read(item)?;
            let plaintext = key.decrypt(ciphertext(item)?, &extra)?;
            let version = fields::number(item, "key_version")?.unwrap_or(0);
            key.encrypt(&plaintext, u32::try_from(version).unwrap_or(0), &extra)
        })
    }

    pub(super) fn data_key(&self, kind: &str, name: &str, body: &Body) -> Result<Reply, Fault> {
        if !["plaintext", "wrapped"].contains(&kind) {
            return Err(Fault::new(400, "Invalid path, must be 'plaintext' or 'wrapped'"));
        }
        let key = self.key(name, NOT_FOUND)?;
        let bytes = match fields::number(body, "bits")?.unwrap_or(256) {
            128 => 16,
            256 => 32,
            512 => 64,
            _ => return Err(Fault::new(400, "invalid bit length")),
        };
        let plaintext = random(bytes);
        let mut data = key.encrypt(&plaintext, 0, &Extra::read(body)?)?;
        if kind == "plaintext" {
            data["plaintext"] = json!(BASE64_STANDARD.encode(&*plaintext));
        }
        Ok(Reply::data(data))
    }
}

fn ciphertext(item: &Body) -> Result<&str, Fault> {
    let given = fields::text(item, "ciphertext").filter(|text| !text.is_empty());
    given.ok_or_else(|| Fault::new(400, "missing ciphertext to decrypt"))
}

/// What has to be the same when it is decrypted.
struct Extra {
    associated: Vec<u8>,
    context: Vec<u8>,
}

impl Extra {
    fn read(item: &Body) -> Result<Self, Fault> {
        let bytes = |member: &str| decoded(fields::text(item, member).unwrap_or_default());
        let context = bytes("context").map_err(|why| Fault::new(400, why))?;
        let associated = bytes("associated_data").map_err(|why| {
            Fault::new(400, format!("failed to base64-decode associated_data: {why}"))
        })?;
        Ok(Self { associated, context })
    }
}

impl Key {
    fn encrypt(&self, plaintext: &[u8], asked: u32, extra: &Extra) -> Result<Value, Fault> {
        if !self.kind.encrypts() {
            let name = self.kind.name();
            let text = format!("message encryption not supported for key type {name}");
            return Err(Fault::new(400, text));
        }
        let (number, version) = self.version_for(asked, "encryption")?;
        let sealed = match cipher(self.kind) {
            Some(cipher) => {
                let key = self.cipher_key(version, &extra.context)?;
                seal(cipher, &key, plaintext, &extra.associated)
            }
            None => version.seal_rsa(plaintext),
        }?;
        let text = format!("vault:v{number}:{}", BASE64_STANDARD.encode(sealed));
        Ok(json!({ "ciphertext": text, "key_version": number }))
    }

    fn decrypt(&self, text: &str, extra: &Extra) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if !self.kind.encrypts() {
            let name = self.kind.name();
            let text = format!("message decryption not supported for key type {name}");
            return Err(Fault::new(400, text));
        }
        let (number, text) = versioned(text, "ciphertext")?;
        // At first, versions were counted from zero.
        let version = self.version_of(number.max(1), "ciphertext")?;
        let sealed = decoded(text)
            .map_err(|_| Fault::new(400, "invalid ciphertext: could not decode base64"))?;
        match cipher(self.kind) {
            Some(cipher) => {
                let key = self.cipher_key(version, &extra.context)?;
                open(cipher, &key, sealed, &extra.associated)
            }
            None => version.open_rsa(&sealed),
        }
    }

    /// The key itself, or what is made of it and the context.
    fn cipher_key(&self, version: &Version, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if !self.derived {
            return Ok(version.material.clone());
        }
        if context.is_empty() {
            return Err(Fault::new(400, NO_CONTEXT));
        }
        derived(&version.material, context, version.material.len())
    }
}

/// The key that HKDF makes of another, for this context.
pub(super) fn derived(
    from: &[u8],
    context: &[u8],
    length: usize,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut key = Zeroizing::new(vec![0; length]);
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(from);
    let info = [context];
    let expanded = extracted.expand(&info, Length(length));
    let filled = expanded.and_then(|expanded| expanded.fill(&mut key));
    filled.map(|()| key).map_err(|_| internal("the key cannot be derived"))
}

/// Of a key that is made.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn cipher(kind: Kind) -> Option<&'static Algorithm> {
    match kind {
        Kind::Aes128 => Some(&AES_128_GCM),
        Kind::Aes256 => Some(&AES_256_GCM),
        Kind::ChaCha20 => Some(&CHACHA20_POLY1305),
        _ => None,
    }
}

fn aead(cipher: &'static Algorithm, key: &[u8]) -> Result<LessSafeKey, Fault> {
    let key = UnboundKey::new(cipher, key);
    key.map(LessSafeKey::new).map_err(|_| internal("the key is unusable"))
}

/// Nonce, ciphertext, tag.
fn seal(
    cipher: &'static Algorithm,
    key: &[u8],
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, Fault> {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut sealed = plaintext.to_vec();
    let done = aead(cipher, key)?.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(aad),
        &mut sealed,
    );
    done.map_err(|_| internal("encryption failed"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(
    cipher: &'static Algorithm,
    key: &[u8],
    mut sealed: Vec<u8>,
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if sealed.len() < NONCE_BYTES {
        return Err(Fault::new(400, "invalid ciphertext length"));
    }
    let mut text = sealed.split_off(NONCE_BYTES);
    let who = if *cipher == CHACHA20_POLY1305 { "chacha20poly1305" } else { "cipher" };
    let failed = || Fault::new(400, format!("{who}: message authentication failed"));
    let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| failed())?;
    let opened = aead(cipher, key)?.open_in_place(nonce, Aad::from(aad), &mut text);
    let length = opened.map_err(|_| failed())?.len();
    text.truncate(length);
    Ok(Zeroizing::new(text))
}

impl Version {
    fn seal_rsa(&self, plaintext: &[u8]) -> Result<Vec<u8>, Fault> {
        let failed = |_| {
            internal(
                "failed to RSA encrypt the plaintext: crypto/rsa: message too long for RSA key size",
            )
        };
        let key = PublicEncryptingKey::from_der(&self.public)
            .map_err(|_| internal("the key is unusable"))?;
        let key = OaepPublicEncryptingKey::new(key).map_err(failed)?;
        let mut sealed = vec![0; key.ciphertext_size()];
        let length = key.encrypt(&OAEP_SHA256_MGF1SHA256, plaintext, &mut sealed, None);
        let length = length.map_err(failed)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    fn open_rsa(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.open_oaep(&OAEP_SHA256_MGF1SHA256, sealed).map_err(|()| {
            internal("failed to RSA decrypt the ciphertext: crypto/rsa: decryption error")
        })
    }

    pub(super) fn open_oaep(
        &self,
        how: &'static OaepAlgorithm,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, ()> {
        let key = PrivateDecryptingKey::from_pkcs8(&self.material).map_err(drop)?;
        let key = OaepPrivateDecryptingKey::new(key).map_err(drop)?;
        let mut text = Zeroizing::new(vec![0; key.min_output_size()]);
        let length = key.decrypt(how, sealed, &mut text, None).map_err(drop)?.len();
        text.truncate(length);
        Ok(text)
    }
}
