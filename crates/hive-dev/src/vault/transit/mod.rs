//! The transit engine: encrypts, signs and hashes for those who do not hold the key.
//!
//! Not here: convergent keys, imported keys that are derived from or of which only the public half is known, backups of
//! ECDSA and RSA keys, certificates; XChaCha20 and RSA above 4096 bits. Asking for them is refused.

mod backup;
mod crypt;
mod digests;
mod import;
mod key;
mod sign;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use base64::DecodeError;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use self::key::{Key, Kind, Version};
use super::core::Core;
use super::engine::{Ask, Engine};
use super::fields;
use super::reply::{Fault, Reply};
use super::routes::Verb;

pub(super) type Body = Map<String, Value>;

/// One mount of the engine.
#[derive(Default)]
pub(super) struct Transit(Mutex<Keys>);

impl Transit {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Transit {
    fn exists(&self, _core: &Core, path: &str) -> bool {
        !path.starts_with("encrypt/") || self.keys().holds(path)
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            let mut body = ask.call.body.clone();
            // Who reads a derived key may say of what.
            if let Some(context) = ask.call.query.get("context") {
                body.entry("context").or_insert_with(|| json!(context));
            }
            let reply = self.keys().answer(ask.verb(), ask.path, &body, ask.wall())?;
            if let Reply::Body(envelope) = &reply {
                for secret in secrets(ask.path, &envelope.data) {
                    ask.witness("transit-key", secret).await?;
                }
            }
            Ok(reply)
        }
        .boxed()
    }
}

/// The keys in an answer. What was decrypted is the caller's own, and no secret of ours.
fn secrets<'a>(path: &str, data: &'a Value) -> Vec<&'a str> {
    if path.starts_with("backup/") {
        return data["backup"].as_str().into_iter().collect();
    }
    if path.starts_with("datakey/") {
        return data["plaintext"].as_str().into_iter().collect();
    }
    if !path.starts_with("export/") || path.starts_with("export/public-key/") {
        return Vec::new();
    }
    data["keys"].as_object().into_iter().flat_map(Map::values).filter_map(Value::as_str).collect()
}

/// Every key of one mount, by name.
#[derive(Default)]
pub(super) struct Keys {
    all: BTreeMap<String, Key>,
    /// What comes from elsewhere is wrapped for this one.
    wrapping: Option<Version>,
}

impl Keys {
    /// Whether a key is there: `encrypt/<name>` makes one where none is.
    pub(super) fn holds(&self, path: &str) -> bool {
        path.split('/').nth(1).is_some_and(|name| self.all.contains_key(name))
    }

    /// Answers a call below the mount.
    pub(super) fn answer(
        &mut self,
        verb: Verb,
        path: &str,
        body: &Body,
        now: SystemTime,
    ) -> Result<Reply, Fault> {
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        match (verb, parts.as_slice()) {
            (Verb::List, ["keys"]) => self.list(),
            (Verb::Read, ["keys", name]) => self.read(name, body),
            (Verb::Read, ["wrapping_key"]) => self.wrapping_key(now),
            (Verb::Read, ["backup", name]) => self.back_up(name, now),
            (Verb::Write, ["restore"]) => self.restore(None, body, now),
            (Verb::Write, ["restore", _, _, ..]) => Err(internal("key names cannot be paths")),
            (Verb::Write, ["restore", name]) => self.restore(Some(name), body, now),
            (Verb::Write, ["keys", name, "import"]) => self.import(name, body, now),
            (Verb::Write, ["keys", name, "import_version"]) => self.import_version(name, body, now),
            (Verb::Write, ["keys", name]) => self.create(name, body, now),
            (Verb::Delete, ["keys", name]) => self.delete(name),
            (Verb::Write, ["keys", name, "config"]) => self.configure(name, body),
            (Verb::Write, ["keys", name, "rotate"]) => self.rotate(name, body, now),
            (Verb::Write, ["keys", name, "trim"]) => self.trim(name, body),
            (Verb::Read, ["config", "keys"]) => Ok(Reply::data(json!({ "disable_upsert": false }))),
            (Verb::Read, ["export", kind, name]) => self.export(kind, name, None),
            (Verb::Read, ["export", kind, name, version]) => self.export(kind, name, Some(version)),
            (Verb::Write, ["random", rest @ ..]) => digests::random(rest, body),
            (Verb::Write, ["hash"]) => digests::hash(None, body),
            (Verb::Write, ["hash", algorithm]) => digests::hash(Some(algorithm), body),
            (Verb::Write, _) => self.operate(&parts, body, now),
            _ if is_known(&parts) && !verb.lists() => Err(Fault::unsupported()),
            _ => Err(Fault::unsupported_path()),
        }
    }

    fn operate(&mut self, parts: &[&str], body: &Body, now: SystemTime) -> Result<Reply, Fault> {
        match *parts {
            ["encrypt", name] => self.encrypt(name, body, now),
            ["decrypt", name] => self.decrypt(name, body),
            ["rewrap", name] => self.rewrap(name, body),
            ["datakey", kind, name] => self.data_key(kind, name, body),
            ["sign", name] => self.sign(name, None, body),
            ["sign", name, hash] => self.sign(name, Some(hash), body),
            ["verify", name] => self.verify(name, None, body),
            ["verify", name, hash] => self.verify(name, Some(hash), body),
            ["hmac", name] => self.hmac(name, None, body),
            ["hmac", name, hash] => self.hmac(name, Some(hash), body),
            _ if is_known(parts) => Err(Fault::unsupported()),
            _ => Err(Fault::unsupported_path()),
        }
    }

    fn list(&self) -> Result<Reply, Fault> {
        Reply::keys(self.all.keys().cloned())
    }

    fn read(&self, name: &str, body: &Body) -> Result<Reply, Fault> {
        let key = self.all.get(name).ok_or_else(Fault::no_value)?;
        Ok(Reply::data(key.describe(name, &context(body)?)))
    }

    fn create(&mut self, name: &str, body: &Body, now: SystemTime) -> Result<Reply, Fault> {
        if !is_name(name) {
            return Err(Fault::unsupported_path());
        }
        let kind = fields::text(body, "type").unwrap_or("aes256-gcm96");
        let kind = kind_of(kind, fields::number(body, "key_size")?.unwrap_or(0))?;
        let derived = fields::flag(body, "derived") == Some(true);
        if derived && !kind.derives() {
            let name = kind.name();
            return Err(internal(&format!(
                "key derivation and convergent encryption not supported for keys of type {name}"
            )));
        }
        if !self.all.contains_key(name) {
            let mut key = Key::new(kind, now)?;
            key.derived = derived;
            key.exportable = fields::flag(body, "exportable").unwrap_or(false);
            key.plaintext_backup = fields::flag(body, "allow_plaintext_backup").unwrap_or(false);
            self.all.insert(name.to_owned(), key);
        }
        self.read(name, body)
    }

    fn delete(&mut self, name: &str) -> Result<Reply, Fault> {
        let refused = |why: &str| Fault::new(400, format!("error deleting policy {name}: {why}"));
        let key = self.all.get(name).ok_or_else(|| refused("could not delete key; not found"))?;
        if !key.deletion_allowed {
            return Err(refused("deletion is not allowed for this key"));
        }
        self.all.remove(name);
        Ok(Reply::Empty)
    }

    fn configure(&mut self, name: &str, body: &Body) -> Result<Reply, Fault> {
        let unknown = || format!("no existing key named {name} could be found");
        let key = self.all.get_mut(name).ok_or_else(|| Fault::new(400, unknown()))?;
        key.configure(body)?;
        self.read(name, body)
    }

    fn rotate(&mut self, name: &str, body: &Body, now: SystemTime) -> Result<Reply, Fault> {
        let key = self.all.get_mut(name).ok_or_else(|| Fault::new(400, "key not found"))?;
        if !key.may_rotate() {
            return Err(internal(&format!(
                "imported key {name} does not allow rotation within Vault"
            )));
        }
        key.rotate(now)?;
        self.read(name, body)
    }

    fn trim(&mut self, name: &str, body: &Body) -> Result<Reply, Fault> {
        let key = self.all.get_mut(name).ok_or_else(|| Fault::new(400, "invalid key name"))?;
        key.trim(body)?;
        self.read(name, body)
    }

    fn export(&self, kind: &str, name: &str, version: Option<&str>) -> Result<Reply, Fault> {
        if !["encryption-key", "hmac-key", "public-key", "signing-key"].contains(&kind) {
            return Err(Fault::new(400, format!("invalid export type: {kind}")));
        }
        let key = self.all.get(name).ok_or_else(Fault::no_value)?;
        let keys = key.export(kind, version)?;
        Ok(Reply::data(json!({ "keys": keys, "name": name, "type": key.kind.name() })))
    }

    fn key(&self, name: &str, missing: &str) -> Result<&Key, Fault> {
        self.all.get(name).ok_or_else(|| Fault::new(400, missing))
    }
}

/// The kind by its name; only a key for HMACs says how long it is.
fn kind_of(name: &str, bytes: i64) -> Result<Kind, Fault> {
    if name == "hmac" {
        let length = u16::try_from(bytes).ok().filter(|bytes| (32..=512).contains(bytes));
        let text = "invalid key size for HMAC key, must be between 32 and 512 bytes";
        return length.map(Kind::Hmac).ok_or_else(|| internal(text));
    }
    let kind = Kind::parse(name);
    let kind = kind.ok_or_else(|| Fault::new(400, format!("unknown key type {name}")))?;
    if bytes != 0 {
        return Err(Fault::new(400, format!("key_size is not valid for algorithm {name}")));
    }
    Ok(kind)
}

/// What is asked for, once or as a batch.
pub(super) enum Input<'a> {
    Many(Vec<&'a Body>),
    One(&'a Body),
}

pub(super) fn input(body: &Body) -> Result<Input<'_>, Fault> {
    let Some(items) = body.get("batch_input").filter(|items| !items.is_null()) else {
        return Ok(Input::One(body));
    };
    let items: Option<Vec<_>> =
        items.as_array().map(|items| items.iter().filter_map(Value::as_object).collect());
    match items {
        Some(items) if !items.is_empty() => Ok(Input::Many(items)),
        _ => Err(Fault::new(400, "missing batch input to process")),
    }
}

/// Does one thing, or one after the other. `failed` is what an item shows beside its error.
pub(super) fn each(
    body: &Body,
    failed: &Value,
    is_strict: bool,
    mut one: impl FnMut(&Body) -> Result<Value, Fault>,
) -> Result<Reply, Fault> {
    let items = match input(body)? {
        Input::One(body) => return one(body).map(Reply::data),
        Input::Many(items) => items,
    };
    let mut any_failed = false;
    let results: Vec<_> = items
        .into_iter()
        .map(|item| {
            let mut shown = match one(item) {
                Ok(value) => value,
                Err(fault) => {
                    any_failed = true;
                    let mut shown = failed.clone();
                    shown["error"] = json!(plainly(&fault));
                    shown
                }
            };
            shown["reference"] = json!(fields::text(item, "reference").unwrap_or_default());
            shown
        })
        .collect();
    let data = json!({ "batch_results": results });
    if !(is_strict && any_failed) {
        return Ok(Reply::data(data));
    }
    let status = fields::number(body, "partial_failure_response_code")?;
    let status = status.and_then(|code| u16::try_from(code).ok()).unwrap_or(400);
    let mut fault = Fault::new(status, "");
    fault.data = Some(data);
    Err(fault)
}

/// What a fault says, without the list of one that the real server makes of its own.
fn plainly(fault: &Fault) -> String {
    let text = fault.errors.concat();
    let inner = text.strip_prefix("1 error occurred:\n\t* ");
    inner.and_then(|text| text.strip_suffix("\n\n")).map_or_else(|| text.clone(), str::to_owned)
}

/// What a key is derived with.
pub(super) fn context(item: &Body) -> Result<Vec<u8>, Fault> {
    decoded(fields::text(item, "context").unwrap_or_default())
        .map_err(|_| Fault::new(400, "failed to base64-decode context"))
}

/// Base64 as Go reads it, and Go's words for what is wrong.
pub(super) fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let text = text.replace(['\r', '\n'], "");
    BASE64_STANDARD.decode(&text).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// The version of a key and the rest, of `vault:v1:…`.
pub(super) fn versioned<'a>(text: &'a str, what: &str) -> Result<(u32, &'a str), Fault> {
    let rest = text
        .strip_prefix("vault:v")
        .ok_or_else(|| Fault::new(400, format!("invalid {what}: no prefix")))?;
    let (version, rest) = rest
        .split_once(':')
        .ok_or_else(|| Fault::new(400, format!("invalid {what}: wrong number of fields")))?;
    let version = version.parse().map_err(|_| {
        Fault::new(400, format!("invalid {what}: version number could not be decoded"))
    })?;
    Ok((version, rest))
}

/// A fault that the real server lists as an internal one.
pub(super) fn internal(text: &str) -> Fault {
    Fault::listed(500, text)
}

fn is_known(parts: &[&str]) -> bool {
    let routes = [
        "backup",
        "config",
        "datakey",
        "decrypt",
        "encrypt",
        "export",
        "hash",
        "hmac",
        "keys",
        "random",
        "restore",
        "rewrap",
        "sign",
        "verify",
        "wrapping_key",
    ];
    parts.first().is_some_and(|first| routes.contains(first))
}

/// Letters, digits and `_`, within them also `-` and `.`.
fn is_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(is_word)
        && name.ends_with(is_word)
        && name.chars().all(|c| is_word(c) || c == '-' || c == '.')
}

#[cfg(test)]
mod tests;
