//! Keys that were made elsewhere, and come wrapped: a key for AES under RSA-OAEP, and behind it the key itself under AES
//! (RFC 5649).

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepAlgorithm,
};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use serde_json::json;
use zeroize::Zeroizing;

use super::key::{Curve, Key, Kind, Made, Version, of_ec, of_ed25519, of_rsa, pem};
use super::{Body, Fault, Keys, Reply, decoded, internal, is_name};
use crate::vault::fields;

/// Of the key that wraps.
const WRAPPING: Kind = Kind::Rsa(4096);
const WRAPPED_BYTES: usize = 4096 / 8;

impl Keys {
    /// The public half of the key to wrap with. It is made when somebody asks for it first.
    pub(super) fn wrapping_key(&mut self, now: SystemTime) -> Result<Reply, Fault> {
        let public = pem("PUBLIC KEY", &self.wrapping(now)?.public);
        Ok(Reply::data(json!({ "public_key": public })))
    }

    fn wrapping(&mut self, now: SystemTime) -> Result<&Version, Fault> {
        if self.wrapping.is_none() {
            self.wrapping = Some(Version::new(WRAPPING, now)?);
        }
        self.wrapping.as_ref().ok_or_else(|| internal("there is no wrapping key"))
    }

    /// `keys/<name>/import`
    pub(super) fn import(
        &mut self,
        name: &str,
        body: &Body,
        now: SystemTime,
    ) -> Result<Reply, Fault> {
        if !is_name(name) {
            return Err(Fault::unsupported_path());
        }
        let kind = kind_of(fields::text(body, "type").unwrap_or("aes256-gcm96"))?;
        let how = hash_function(body)?;
        if self.all.contains_key(name) {
            return Err(internal(
                "the import path cannot be used with an existing key; use import-version to rotate an existing imported key",
            ));
        }
        if fields::flag(body, "derived") == Some(true) {
            let text = "derived imported keys are not served by this development vault";
            return Err(Fault::new(400, text));
        }
        let (kind, version) = self.unwrapped(kind, how, body, now)?;
        let mut key = Key::of(kind, BTreeMap::from([(1, version)]));
        key.imported = true;
        key.allows_rotation = fields::flag(body, "allow_rotation") == Some(true);
        key.exportable = fields::flag(body, "exportable") == Some(true);
        key.plaintext_backup = fields::flag(body, "allow_plaintext_backup") == Some(true);
        self.all.insert(name.to_owned(), key);
        Ok(Reply::Empty)
    }

    /// `keys/<name>/import_version`
    pub(super) fn import_version(
        &mut self,
        name: &str,
        body: &Body,
        now: SystemTime,
    ) -> Result<Reply, Fault> {
        let how = hash_function(body)?;
        let missing = || {
            format!("no key found with name {name}; to import a new key, use the import/ endpoint")
        };
        let key = self.all.get(name).ok_or_else(|| internal(&missing()))?;
        if !key.imported {
            let text = "the import_version endpoint can only be used with an imported key";
            return Err(internal(text));
        }
        let (kind, number) = (key.kind, key.latest() + 1);
        let (_, version) = self.unwrapped(kind, how, body, now)?;
        if let Some(key) = self.all.get_mut(name) {
            key.versions.insert(number, version);
        }
        Ok(Reply::Empty)
    }

    fn unwrapped(
        &mut self,
        kind: Kind,
        how: &'static OaepAlgorithm,
        body: &Body,
        now: SystemTime,
    ) -> Result<(Kind, Version), Fault> {
        let text = fields::text(body, "ciphertext").unwrap_or_default();
        if text.is_empty() {
            return Err(internal("provided type does not support public_key import"));
        }
        let wrapped = decoded(text).map_err(|why| internal(&why))?;
        let Some((ephemeral, wrapped)) = wrapped.split_at_checked(WRAPPED_BYTES) else {
            return Err(internal("provided ciphertext is too short"));
        };
        let ephemeral = self.wrapping(now)?.open_oaep(how, ephemeral);
        let ephemeral = ephemeral.map_err(|()| internal("crypto/rsa: decryption error"))?;
        let broken = |_| internal("the key does not unwrap");
        let mut key = Zeroizing::new(vec![0; wrapped.len()]);
        let kek = AesKek::new(&AES_256, &ephemeral).map_err(broken)?;
        let length = kek.unwrap_with_padding(wrapped, &mut key).map_err(broken)?.len();
        key.truncate(length);
        let (kind, made) =
            made_of(kind, key).map_err(|why| internal(&format!("error importing key: {why}")))?;
        Ok((kind, Version::of(kind, made, None, now)))
    }
}

/// The length of a key for HMACs is its own.
fn kind_of(name: &str) -> Result<Kind, Fault> {
    let kind = if name == "hmac" { Some(Kind::Hmac(0)) } else { Kind::parse(name) };
    kind.ok_or_else(|| Fault::new(400, format!("unknown key type: {name}")))
}

fn hash_function(body: &Body) -> Result<&'static OaepAlgorithm, Fault> {
    match fields::text(body, "hash_function").unwrap_or("SHA256") {
        "SHA1" => Ok(&OAEP_SHA1_MGF1SHA1),
        "SHA256" => Ok(&OAEP_SHA256_MGF1SHA256),
        "SHA384" => Ok(&OAEP_SHA384_MGF1SHA384),
        "SHA512" => Ok(&OAEP_SHA512_MGF1SHA512),
        other => Err(Fault::new(400, format!("unknown hash function: {other}"))),
    }
}

/// A key of that kind, or in the real server's words why it is none.
pub(super) fn made_of(kind: Kind, key: Zeroizing<Vec<u8>>) -> Result<(Kind, Made), String> {
    let length = key.len();
    let fits = match kind {
        Kind::Aes128 => length == 16,
        Kind::Aes256 | Kind::ChaCha20 => length == 32,
        Kind::Hmac(_) => (32..=512).contains(&length),
        Kind::Ec(_) | Kind::Ed25519 | Kind::Rsa(_) => return of_pkcs8(kind, &key),
    };
    if !fits {
        return Err(format!("invalid key size {length} bytes for key type {}", kind.name()));
    }
    let kind = match kind {
        Kind::Hmac(_) => Kind::Hmac(u16::try_from(length).unwrap_or(u16::MAX)),
        other => other,
    };
    Ok((kind, (key, Vec::new())))
}

fn of_pkcs8(wanted: Kind, der: &[u8]) -> Result<(Kind, Made), String> {
    let (found, made) = read(der).ok_or("error parsing asymmetric key: it is no PKCS #8")?;
    if found == wanted {
        return Ok((found, made));
    }
    Err(match (wanted, found) {
        (Kind::Ec(_), Kind::Ec(_)) => {
            format!("invalid curve: expected {}, got {}", wanted.short_name(), found.short_name())
        }
        (Kind::Rsa(wanted), Kind::Rsa(found)) => {
            format!("invalid key size: expected {} bytes, got {} bytes", wanted / 8, found / 8)
        }
        _ => format!("invalid key type: expected {}, got {}", wanted.name(), of_go(found)),
    })
}

fn read(der: &[u8]) -> Option<(Kind, Made)> {
    for curve in [Curve::P256, Curve::P384, Curve::P521] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.signing(), der) {
            return Some((Kind::Ec(curve), of_ec(&pair).ok()?));
        }
    }
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Some((Kind::Ed25519, of_ed25519(&pair).ok()?));
    }
    let pair = RsaKeyPair::from_pkcs8(der).ok()?;
    let bits = u16::try_from(pair.public_modulus_len() * 8).ok()?;
    Some((Kind::Rsa(bits), of_rsa(&pair).ok()?))
}

fn of_go(kind: Kind) -> &'static str {
    match kind {
        Kind::Ec(_) => "*ecdsa.PrivateKey",
        Kind::Rsa(_) => "*rsa.PrivateKey",
        _ => "ed25519.PrivateKey",
    }
}
