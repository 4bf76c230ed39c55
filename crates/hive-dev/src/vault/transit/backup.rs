//! Backups: the whole key as the real server writes it, so that either restores what the other has written.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::import::made_of;
use super::key::{Key, Kind, Made, Version, of_ed25519};
use super::{Body, Fault, Keys, Reply, decoded, internal, is_name};
use crate::vault::clock::{rfc3339, unix};
use crate::vault::fields;

/// The numbers of the kinds that can be backed up here.
const KINDS: [(Kind, u64); 5] = [
    (Kind::Aes256, 0),
    (Kind::Ed25519, 2),
    (Kind::ChaCha20, 5),
    (Kind::Aes128, 8),
    (Kind::Hmac(0), 10),
];
const SEED_BYTES: usize = 32;

impl Keys {
    pub(super) fn back_up(&mut self, name: &str, now: SystemTime) -> Result<Reply, Fault> {
        let missing = || internal(&format!("key \"{name}\" not found"));
        let key = self.all.get_mut(name).ok_or_else(missing)?;
        if !key.exportable {
            return Err(internal("exporting is disallowed on the policy"));
        }
        if !key.plaintext_backup {
            return Err(internal("plaintext backup is disallowed on the policy"));
        }
        let number = number_of(key.kind)?;
        key.backup_info = Some(json!({ "time": rfc3339(now), "version": key.latest() }));
        let text = Zeroizing::new(key.written(name, number).to_string());
        Ok(Reply::data(json!({ "backup": BASE64_STANDARD.encode(text.as_bytes()) })))
    }

    pub(super) fn restore(
        &mut self,
        name: Option<&str>,
        body: &Body,
        now: SystemTime,
    ) -> Result<Reply, Fault> {
        let given = fields::text(body, "backup").filter(|text| !text.is_empty());
        let given = given.ok_or_else(|| Fault::new(400, "'backup' must be supplied"))?;
        let text = Zeroizing::new(decoded(given).map_err(|why| internal(&why))?);
        let backup: Backup = serde_json::from_slice(&text).map_err(|_| no_json(&text))?;
        let name = name.unwrap_or(&backup.policy.name);
        if name.contains('/') {
            return Err(internal("key names cannot be paths"));
        }
        if !is_name(name) {
            let text = "failed restored policy name validator: name does not match framework.GenericNameRegex";
            return Err(internal(text));
        }
        if self.all.contains_key(name) && fields::flag(body, "force") != Some(true) {
            return Err(internal(&format!("key \"{name}\" already exists")));
        }
        let name = name.to_owned();
        let mut key = backup.policy.read().ok_or_else(|| internal("the backup is of no key"))?;
        key.restore_info = Some(json!({ "time": rfc3339(now), "version": key.latest() }));
        self.all.insert(name, key);
        Ok(Reply::Empty)
    }
}

/// Go's words for the byte that begins no JSON. What comes later is not quoted.
fn no_json(text: &[u8]) -> Fault {
    let first = text.first().copied().unwrap_or_default();
    let shown = if first.is_ascii_graphic() {
        format!("'{}'", char::from(first))
    } else {
        format!("'\\x{first:02x}'")
    };
    internal(&format!("invalid character {shown} looking for beginning of value"))
}

fn number_of(kind: Kind) -> Result<u64, Fault> {
    let is_it = |known: Kind| std::mem::discriminant(&known) == std::mem::discriminant(&kind);
    let found = KINDS.into_iter().find(|(known, _)| is_it(*known));
    let text = "backups of ECDSA and RSA keys are not served by this development vault";
    found.map(|(_, number)| number).ok_or_else(|| Fault::new(400, text))
}

impl Key {
    fn written(&self, name: &str, number: u64) -> Value {
        let entry =
            |(number, version): (&u32, &Version)| (number.to_string(), version.written(self.kind));
        let keys: Map<_, _> = self.versions.iter().map(entry).collect();
        // Places of versions that are gone, and one before the first.
        let blank = (self.min_available == 0).then(Version::blank);
        let archived = blank.into_iter().chain(keys.values().cloned());
        let mut policy = json!({
            "name": name,
            "keys": keys,
            "derived": self.derived,
            "kdf": u8::from(self.derived),
            "convergent_encryption": false,
            "exportable": self.exportable,
            "min_decryption_version": self.min_decryption,
            "min_encryption_version": self.min_encryption,
            "latest_version": self.latest(),
            "archive_version": self.latest(),
            "archive_min_version": self.min_available,
            "min_available_version": self.min_available,
            "deletion_allowed": self.deletion_allowed,
            "convergent_version": 0,
            "type": number,
            "backup_info": self.backup_info,
            "restore_info": self.restore_info,
            "allow_plaintext_backup": self.plaintext_backup,
            "version_template": "",
            "storage_prefix": "",
            "auto_rotate_period": 0,
            "Imported": self.imported,
            "AllowImportedKeyRotation": self.allows_rotation,
            "soft_deleted": false,
        });
        if let Kind::Hmac(bytes) = self.kind {
            policy["key_size"] = json!(bytes);
        }
        json!({ "policy": policy, "archived_keys": { "keys": archived.collect::<Vec<_>>() } })
    }
}

impl Version {
    fn written(&self, kind: Kind) -> Value {
        let (key, public) = match kind {
            Kind::Ed25519 => (self.seed_and_public().unwrap_or_default(), self.public_text(kind)),
            _ => (self.material.clone(), String::new()),
        };
        let mut entry = Self::blank();
        entry["key"] = json!(BASE64_STANDARD.encode(&*key));
        entry["hmac_key"] = json!(BASE64_STANDARD.encode(&*self.hmac));
        entry["time"] = json!(rfc3339(self.created));
        entry["public_key"] = json!(public);
        entry["creation_time"] = json!(unix(self.created));
        entry
    }

    fn blank() -> Value {
        json!({
            "key": null,
            "hmac_key": null,
            "time": "0001-01-01T00:00:00Z",
            "ec_x": null,
            "ec_y": null,
            "ec_d": null,
            "rsa_key": null,
            "rsa_public_key": null,
            "public_key": "",
            "convergent_version": 0,
            "creation_time": 0,
            "certificate_chain": null,
            "external_key_ref": "",
        })
    }
}

#[derive(Deserialize)]
struct Backup {
    policy: Policy,
}

#[derive(Deserialize)]
struct Policy {
    #[serde(default)]
    name: String,
    #[serde(default)]
    keys: BTreeMap<u32, Entry>,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    kdf: u8,
    #[serde(default)]
    convergent_encryption: bool,
    #[serde(default)]
    exportable: bool,
    #[serde(default)]
    min_decryption_version: u32,
    #[serde(default)]
    min_encryption_version: u32,
    #[serde(default)]
    min_available_version: u32,
    #[serde(default)]
    deletion_allowed: bool,
    #[serde(default, rename = "type")]
    kind: u64,
    #[serde(default)]
    backup_info: Option<Value>,
    #[serde(default)]
    allow_plaintext_backup: bool,
    #[serde(default, rename = "Imported")]
    imported: bool,
    #[serde(default, rename = "AllowImportedKeyRotation")]
    allows_rotation: bool,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    key: Option<SecretString>,
    #[serde(default)]
    hmac_key: Option<SecretString>,
    #[serde(default)]
    creation_time: u64,
}

fn bytes(text: &SecretString) -> Option<Zeroizing<Vec<u8>>> {
    BASE64_STANDARD.decode(text.expose_secret()).ok().map(Zeroizing::new)
}

impl Policy {
    /// None: it is of a kind that is not kept here, or not whole.
    fn read(&self) -> Option<Key> {
        let (mut kind, _) = KINDS.into_iter().find(|(_, number)| *number == self.kind)?;
        // Another derivation would be another key.
        if self.convergent_encryption || (self.derived && self.kdf != 1) || self.keys.is_empty() {
            return None;
        }
        let mut versions = BTreeMap::new();
        for (number, entry) in &self.keys {
            let (own, version) = entry.read(kind)?;
            kind = own;
            versions.insert(*number, version);
        }
        let mut key = Key::of(kind, versions);
        (key.derived, key.exportable) = (self.derived, self.exportable);
        key.min_decryption = self.min_decryption_version.max(1);
        (key.min_encryption, key.min_available) =
            (self.min_encryption_version, self.min_available_version);
        key.deletion_allowed = self.deletion_allowed;
        key.plaintext_backup = self.allow_plaintext_backup;
        (key.imported, key.allows_rotation) = (self.imported, self.allows_rotation);
        key.backup_info.clone_from(&self.backup_info);
        Some(key)
    }
}

impl Entry {
    fn read(&self, kind: Kind) -> Option<(Kind, Version)> {
        let key = bytes(self.key.as_ref()?)?;
        let (kind, made) = match kind {
            Kind::Ed25519 => (kind, of_seed(&key)?),
            other => made_of(other, key).ok()?,
        };
        let hmac = self.hmac_key.as_ref().and_then(bytes);
        let created =
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.creation_time))?;
        Some((kind, Version::of(kind, made, hmac, created)))
    }
}

fn of_seed(seed_and_public: &[u8]) -> Option<Made> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed_and_public.get(..SEED_BYTES)?).ok()?;
    of_ed25519(&pair).ok()
}
