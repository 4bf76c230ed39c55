//! A named key and its versions.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Body, Fault, internal};
use crate::vault::pki::der::inner_key;
use crate::vault::{clock, fields};

const HMAC_KEY_BYTES: usize = 32;

/// What a key is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Aes128,
    Aes256,
    ChaCha20,
    Ec(Curve),
    Ed25519,
    /// Of so many bytes.
    Hmac(u16),
    Rsa(u16),
}

/// Of an ECDSA key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

/// A key with all its versions.
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) versions: BTreeMap<u32, Version>,
    pub(super) min_decryption: u32,
    /// Zero: the latest.
    pub(super) min_encryption: u32,
    pub(super) min_available: u32,
    /// What is encrypted with is made from the key and a context that comes with each call.
    pub(super) derived: bool,
    pub(super) deletion_allowed: bool,
    pub(super) exportable: bool,
    pub(super) plaintext_backup: bool,
    /// Its newest version came from elsewhere.
    pub(super) imported: bool,
    /// Although it came from elsewhere, versions may be made here.
    pub(super) allows_rotation: bool,
    /// When it was backed up last, and when restored, as it is shown.
    pub(super) backup_info: Option<Value>,
    pub(super) restore_info: Option<Value>,
}

/// One version of a key.
pub(super) struct Version {
    /// The key itself, or a PKCS #8 document.
    pub(super) material: Zeroizing<Vec<u8>>,
    /// SubjectPublicKeyInfo, or what stands for it.
    pub(super) public: Vec<u8>,
    pub(super) hmac: Zeroizing<Vec<u8>>,
    pub(super) created: SystemTime,
}

impl Kind {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let all = [
            Self::Aes128,
            Self::Aes256,
            Self::ChaCha20,
            Self::Ec(Curve::P256),
            Self::Ec(Curve::P384),
            Self::Ec(Curve::P521),
            Self::Ed25519,
            Self::Rsa(2048),
            Self::Rsa(3072),
            Self::Rsa(4096),
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "aes128-gcm96",
            Self::Aes256 => "aes256-gcm96",
            Self::ChaCha20 => "chacha20-poly1305",
            Self::Ec(Curve::P256) => "ecdsa-p256",
            Self::Ec(Curve::P384) => "ecdsa-p384",
            Self::Ec(Curve::P521) => "ecdsa-p521",
            Self::Ed25519 => "ed25519",
            Self::Hmac(_) => "hmac",
            Self::Rsa(3072) => "rsa-3072",
            Self::Rsa(4096) => "rsa-4096",
            Self::Rsa(_) => "rsa-2048",
        }
    }

    /// As the key's own entry calls it.
    pub(super) fn short_name(self) -> &'static str {
        match self {
            Self::Ec(Curve::P256) => "P-256",
            Self::Ec(Curve::P384) => "P-384",
            Self::Ec(Curve::P521) => "P-521",
            other => other.name(),
        }
    }

    pub(super) fn is_symmetric(self) -> bool {
        matches!(self, Self::Aes128 | Self::Aes256 | Self::ChaCha20)
    }

    pub(super) fn encrypts(self) -> bool {
        self.is_symmetric() || matches!(self, Self::Rsa(_))
    }

    pub(super) fn signs(self) -> bool {
        matches!(self, Self::Ec(_) | Self::Ed25519 | Self::Rsa(_))
    }

    pub(super) fn derives(self) -> bool {
        self.is_symmetric() || self == Self::Ed25519
    }
}

impl Curve {
    pub(super) fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }
}

impl Key {
    pub(super) fn new(kind: Kind, now: SystemTime) -> Result<Self, Fault> {
        Ok(Self::of(kind, BTreeMap::from([(1, Version::new(kind, now)?)])))
    }

    pub(super) fn of(kind: Kind, versions: BTreeMap<u32, Version>) -> Self {
        Self {
            kind,
            versions,
            min_decryption: 1,
            min_encryption: 0,
            min_available: 0,
            derived: false,
            deletion_allowed: false,
            exportable: false,
            plaintext_backup: false,
            imported: false,
            allows_rotation: false,
            backup_info: None,
            restore_info: None,
        }
    }

    pub(super) fn may_rotate(&self) -> bool {
        !self.imported || self.allows_rotation
    }

    pub(super) fn latest(&self) -> u32 {
        self.versions.keys().next_back().copied().unwrap_or(1)
    }

    pub(super) fn rotate(&mut self, now: SystemTime) -> Result<(), Fault> {
        let version = Version::new(self.kind, now)?;
        self.versions.insert(self.latest() + 1, version);
        self.imported = false;
        Ok(())
    }

    /// All or nothing.
    pub(super) fn configure(&mut self, body: &Body) -> Result<(), Fault> {
        let refused = |text: String| Err(Fault::new(400, text));
        let limit = |member: &str, shown: &str, own: u32| -> Result<u32, Fault> {
            let Some(given) = fields::number(body, member)? else { return Ok(own) };
            let Ok(given) = u32::try_from(given) else {
                return Err(Fault::new(400, format!("min {shown} version cannot be negative")));
            };
            if given > self.latest() {
                let latest = self.latest();
                return Err(Fault::new(
                    400,
                    format!(
                        "cannot set min {shown} version of {given}, latest key version is {latest}"
                    ),
                ));
            }
            Ok(given)
        };
        let decryption = limit("min_decryption_version", "decryption", self.min_decryption)?.max(1);
        let encryption = limit("min_encryption_version", "encryption", self.min_encryption)?;
        if encryption > 0 && encryption < decryption {
            return refused(format!(
                "cannot set min encryption/decryption values; min encryption version of {encryption} must be greater than or equal to min decryption version of {decryption}"
            ));
        }
        if fields::duration(body, "auto_rotate_period")?.is_some_and(|period| !period.is_zero()) {
            return refused("keys of this development vault are not rotated by themselves".into());
        }
        (self.min_decryption, self.min_encryption) = (decryption, encryption);
        self.deletion_allowed =
            fields::flag(body, "deletion_allowed").unwrap_or(self.deletion_allowed);
        // Once it may leave, it may always have left.
        self.exportable |= fields::flag(body, "exportable") == Some(true);
        self.plaintext_backup |= fields::flag(body, "allow_plaintext_backup") == Some(true);
        Ok(())
    }

    pub(super) fn trim(&mut self, body: &Body) -> Result<(), Fault> {
        let refused = |text: &str| Err(Fault::new(400, text));
        let Some(least) = fields::number(body, "min_available_version")? else {
            return refused("missing min_available_version");
        };
        let Ok(least) = u32::try_from(least) else {
            return refused("minimum available version cannot be negative");
        };
        if least < self.min_available {
            return refused("minimum available version cannot be decremented");
        }
        if self.min_encryption == 0 {
            return refused(
                "minimum available version cannot be set when minimum encryption version is not set",
            );
        }
        if least > self.min_encryption {
            return refused(
                "minimum available version cannot be greater than minmum encryption version",
            );
        }
        if least > self.min_decryption {
            return refused(
                "minimum available version cannot be greater than minimum decryption version",
            );
        }
        if least == 0 {
            return refused("minimum available version should be positive");
        }
        self.min_available = least;
        self.versions.retain(|version, _| *version >= least);
        Ok(())
    }

    pub(super) fn describe(&self, name: &str, context: &[u8]) -> Value {
        let shown = self.versions.range(self.min_decryption..);
        let keys: Map<_, _> = shown
            .map(|(number, version)| (number.to_string(), self.entry(version, context)))
            .collect();
        let mut shown = json!({
            "allow_plaintext_backup": self.plaintext_backup,
            "auto_rotate_period": 0,
            "deletion_allowed": self.deletion_allowed,
            "derived": self.derived,
            "exportable": self.exportable,
            "imported_key": self.imported,
            "keys": keys,
            "latest_version": self.latest(),
            "min_available_version": self.min_available,
            "min_decryption_version": self.min_decryption,
            "min_encryption_version": self.min_encryption,
            "name": name,
            "soft_deleted": false,
            "supports_decryption": self.kind.encrypts(),
            "supports_derivation": self.kind.derives(),
            "supports_encryption": self.kind.encrypts(),
            "supports_signing": self.kind.signs(),
            "type": self.kind.name(),
        });
        let Some(members) = shown.as_object_mut() else { return shown };
        if self.derived {
            members.insert("convergent_encryption".to_owned(), json!(false));
            members.insert("kdf".to_owned(), json!("hkdf_sha256"));
        }
        if self.imported {
            members.insert("imported_key_allow_rotation".to_owned(), json!(self.allows_rotation));
        }
        let infos = [("backup_info", &self.backup_info), ("restore_info", &self.restore_info)];
        for (name, info) in infos {
            members.extend(info.clone().map(|info| (name.to_owned(), info)));
        }
        if let Kind::Hmac(bytes) = self.kind {
            members.remove("keys");
            members.insert("key_size".to_owned(), json!(bytes));
        }
        shown
    }

    /// Of a key from which others are derived, the public half is shown for a context only.
    fn entry(&self, version: &Version, context: &[u8]) -> Value {
        let mut entry = version.describe(self.kind);
        if self.derived && self.kind == Kind::Ed25519 {
            let pair = self.derived_pair(version, context).ok().flatten();
            let public = pair.map(|pair| BASE64_STANDARD.encode(pair.public_key()));
            entry["public_key"] = json!(public.unwrap_or_default());
        }
        entry
    }

    /// The keys themselves, where they may leave.
    pub(super) fn export(&self, kind: &str, version: Option<&str>) -> Result<Value, Fault> {
        let refused = |text: &str| Err(Fault::new(400, text));
        if !self.exportable && kind != "public-key" {
            return refused("private key material is not exportable");
        }
        if kind == "public-key" && self.kind.is_symmetric() {
            let name = self.kind.name();
            return Err(internal(&format!("unknown key type {name} for export type public-key")));
        }
        if kind == "encryption-key" && !self.kind.encrypts() {
            return refused("encryption not supported for the key");
        }
        if kind == "signing-key" && !self.kind.signs() {
            return refused("signing not supported for the key");
        }
        let wanted = match version {
            None => None,
            Some("latest") => Some(self.latest()),
            Some(text) => match text.parse::<u32>() {
                Ok(number) if number < self.min_decryption => {
                    return refused("version for export is below minimum decryption version");
                }
                Ok(number) if self.versions.contains_key(&number) => Some(number),
                Ok(_) => return refused("version does not exist or cannot be found"),
                Err(_) => return refused("invalid key version"),
            },
        };
        let own = self.versions.range(self.min_decryption..);
        let own = own.filter(|(number, _)| wanted.is_none_or(|wanted| wanted == **number));
        Ok(own.map(|(number, own)| (number.to_string(), own.export(kind, self.kind))).collect())
    }

    /// The version to encrypt or sign with.
    pub(super) fn version_for(&self, asked: u32, what: &str) -> Result<(u32, &Version), Fault> {
        let number = if asked == 0 { self.latest() } else { asked };
        if number > self.latest() {
            let text =
                format!("requested version for {what} is higher than the latest key version");
            return Err(Fault::new(400, text));
        }
        if number < self.min_encryption {
            let text = format!(
                "requested version for {what} is less than the minimum encryption key version"
            );
            return Err(Fault::new(400, text));
        }
        let missing = || Fault::new(400, "no such key version");
        let version = self.versions.get(&number).ok_or_else(missing)?;
        if number < self.min_decryption { Err(missing()) } else { Ok((number, version)) }
    }

    /// The version that something was encrypted or signed with.
    pub(super) fn version_of(&self, number: u32, what: &str) -> Result<&Version, Fault> {
        if number > self.latest() {
            return Err(Fault::new(400, format!("invalid {what}: version is too new")));
        }
        let too_old = "ciphertext or signature version is disallowed by policy (too old)";
        let version = self.versions.get(&number).filter(|_| number >= self.min_decryption);
        version.ok_or_else(|| Fault::new(400, too_old))
    }
}

impl Version {
    pub(super) fn new(kind: Kind, created: SystemTime) -> Result<Self, Fault> {
        let made = generated(kind).map_err(|_| internal("key generation failed"))?;
        Ok(Self::of(kind, made, None, created))
    }

    fn describe(&self, kind: Kind) -> Value {
        if kind.is_symmetric() {
            let age = self.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            return json!(age.as_secs());
        }
        json!({
            "certificate_chain": "",
            "creation_time": clock::rfc3339(self.created),
            "name": kind.short_name(),
            "public_key": self.public_text(kind),
        })
    }

    pub(super) fn public_text(&self, kind: Kind) -> String {
        match kind {
            Kind::Ed25519 => BASE64_STANDARD.encode(&self.public),
            _ => pem("PUBLIC KEY", &self.public),
        }
    }

    fn export(&self, what: &str, kind: Kind) -> Value {
        json!(match what {
            "hmac-key" => BASE64_STANDARD.encode(&self.hmac),
            "public-key" => self.public_text(kind),
            _ if kind.is_symmetric() => BASE64_STANDARD.encode(&self.material),
            _ => self.private_text(kind).unwrap_or_default(),
        })
    }

    /// In the form that Go gives each kind.
    fn private_text(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Ec(curve) => {
                let pair = EcdsaKeyPair::from_pkcs8(curve.signing(), &self.material).ok()?;
                let old: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().ok()?;
                Some(pem("EC PRIVATE KEY", old.as_ref()))
            }
            Kind::Rsa(_) => Some(pem("RSA PRIVATE KEY", &inner_key(&self.material)?)),
            _ => Some(BASE64_STANDARD.encode(&*self.seed_and_public()?)),
        }
    }

    /// An Ed25519 key as Go keeps it: the seed, and the public key behind it.
    pub(super) fn seed_and_public(&self) -> Option<Zeroizing<Vec<u8>>> {
        let octets = Zeroizing::new(inner_key(&self.material)?);
        Some(Zeroizing::new([octets.get(2..34)?, &self.public].concat()))
    }

    /// A version that is made of what came from elsewhere.
    pub(super) fn of(
        kind: Kind,
        made: Made,
        hmac: Option<Zeroizing<Vec<u8>>>,
        created: SystemTime,
    ) -> Self {
        let (material, public) = made;
        let hmac = match (kind, hmac) {
            (Kind::Hmac(_), _) => material.clone(),
            (_, Some(hmac)) => hmac,
            (_, None) => random(HMAC_KEY_BYTES),
        };
        Self { material, public, hmac, created }
    }
}

type Unspecified = aws_lc_rs::error::Unspecified;
/// What a version is kept as, and its public half.
pub(super) type Made = (Zeroizing<Vec<u8>>, Vec<u8>);

fn generated(kind: Kind) -> Result<Made, Unspecified> {
    Ok(match kind {
        Kind::Aes128 => (random(16), Vec::new()),
        Kind::Aes256 | Kind::ChaCha20 => (random(32), Vec::new()),
        Kind::Hmac(bytes) => (random(usize::from(bytes)), Vec::new()),
        Kind::Ec(curve) => of_ec(&EcdsaKeyPair::generate(curve.signing())?)?,
        Kind::Ed25519 => of_ed25519(&Ed25519KeyPair::generate()?)?,
        Kind::Rsa(bits) => {
            let size = match bits {
                3072 => KeySize::Rsa3072,
                4096 => KeySize::Rsa4096,
                _ => KeySize::Rsa2048,
            };
            of_rsa(&RsaKeyPair::generate(size)?)?
        }
    })
}

pub(super) fn of_ec(pair: &EcdsaKeyPair) -> Result<Made, Unspecified> {
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    Ok((Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec()), public.as_ref().to_vec()))
}

pub(super) fn of_ed25519(pair: &Ed25519KeyPair) -> Result<Made, Unspecified> {
    let public = pair.public_key().as_ref().to_vec();
    Ok((Zeroizing::new(pair.to_pkcs8()?.as_ref().to_vec()), public))
}

pub(super) fn of_rsa(pair: &RsaKeyPair) -> Result<Made, Unspecified> {
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    let private: Pkcs8V1Der<'_> = pair.as_der()?;
    Ok((Zeroizing::new(private.as_ref().to_vec()), public.as_ref().to_vec()))
}

/// Bytes of the system's generator.
pub(super) fn random(length: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    rand::fill(bytes.as_mut_slice());
    bytes
}

/// As Go writes it: lines of 64, and one break at the end.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
