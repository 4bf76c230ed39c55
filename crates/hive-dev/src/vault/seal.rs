//! Sealed or not: a sealed vault answers nobody but who asks whether it is.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::core::Core;
use super::engine::Ask;
use super::fields;
use super::reply::{Fault, Reply};

/// As the real server's, of which ours has the manners.
pub(super) const VERSION: &str = "2.7.2";
const COMMIT_DATE: &str = "2026-10-26T20:32:27Z";
/// What is answered while it is sealed.
const ALWAYS: [&str; 5] = ["sys/health", "sys/init", "sys/leader", "sys/seal-status", "sys/unseal"];

/// Whether the vault is sealed, and what opens it.
pub(super) struct Seal {
    sealed: AtomicBool,
    /// One share is enough. It opens memory that nobody has encrypted, so it guards nothing.
    pub(super) key: String,
}

impl Default for Seal {
    fn default() -> Self {
        let key: [u8; 32] = rand::random();
        Self { sealed: AtomicBool::new(false), key: STANDARD.encode(key) }
    }
}

impl Seal {
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Refuses what a sealed vault does not answer.
    pub(super) fn check(&self, path: &str) -> Result<(), Fault> {
        if self.is_sealed() && !ALWAYS.contains(&path) {
            return Err(Fault::new(503, "Vault is sealed"));
        }
        Ok(())
    }
}

impl Core {
    pub(super) fn set_sealed(&self, sealed: bool) {
        self.seal.sealed.store(sealed, Ordering::Release);
        self.wake.notify_one();
    }
}

/// `sys/unseal`
pub(super) fn unseal(ask: &Ask<'_>) -> Result<Reply, Fault> {
    if ask.flag("reset") == Some(true) {
        return Ok(Reply::bare(status(ask.core)));
    }
    let text = "'key' must be specified in request body as JSON, or 'reset' set to true";
    let key = ask.text("key").filter(|key| !key.is_empty());
    let key = decode(key.ok_or_else(|| Fault::new(400, text))?)
        .ok_or_else(|| Fault::new(400, "'key' must be a valid hex or base64 string"))?;
    let wrong = match key.len() {
        ..16 => Some("invalid key: key is shorter than minimum 16 bytes"),
        16..=33 => None,
        34.. => Some("invalid key: key is longer than maximum 33 bytes"),
    };
    if let Some(text) = wrong {
        return Err(Fault::new(400, text));
    }
    if ask.core.seal.is_sealed() {
        if Some(key) != decode(&ask.core.seal.key) {
            let text = "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage: cipher: message authentication failed";
            return Err(Fault::new(400, text));
        }
        ask.core.set_sealed(false);
    }
    Ok(Reply::bare(status(ask.core)))
}

/// In hexadecimal or Base64.
fn decode(key: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(key.get(at..at + 2)?, 16).ok();
    let hex = || (0..key.len()).step_by(2).map(byte).collect::<Option<Vec<_>>>();
    hex().or_else(|| STANDARD.decode(key).ok())
}

/// `sys/seal-status`
pub(super) fn status(core: &Core) -> Value {
    let sealed = core.seal.is_sealed();
    let mut status = json!({
        "type": "shamir",
        "initialized": true,
        "sealed": sealed,
        "t": 1,
        "n": 1,
        "progress": 0,
        "nonce": "",
        "recovery_seal": false,
        "version": VERSION,
        "commit_date": COMMIT_DATE,
        "migration": false,
        "storage_type": "inmem",
    });
    if let (false, Some(members)) = (sealed, status.as_object_mut()) {
        members.insert("cluster_name".to_owned(), json!(core.cluster.name));
        members.insert("cluster_id".to_owned(), json!(core.cluster.id));
    }
    status
}

/// `sys/health`: the status code says most of it.
pub(super) fn health(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let (core, query) = (ask.core, &ask.call.query);
    let sealed = core.seal.is_sealed();
    let standby = core.weather.is_standby();
    let codes = ["activecode", "sealedcode", "standbycode", "uninitcode"];
    let is_code = |name: &&str| query.get(*name).is_none_or(|code| code.parse::<u16>().is_ok());
    let standby_ok = fields::whole_flag(&ask.call.body, "standbyok");
    let (true, Ok(standby_ok)) = (codes.iter().all(is_code), standby_ok) else {
        return Err(Fault { errors: Vec::new(), ..Fault::new(400, "") });
    };
    let standby_ok = standby_ok.unwrap_or(false);
    let code =
        |name: &str, default| query.get(name).and_then(|code| code.parse().ok()).unwrap_or(default);
    let status = match (sealed, standby) {
        (true, _) => code("sealedcode", 503),
        (false, true) if standby_ok => code("activecode", 200),
        (false, true) => code("standbycode", 429),
        (false, false) => code("activecode", 200),
    };
    let replication = if sealed { "unknown" } else { "disabled" };
    let mut body = json!({
        "initialized": true,
        "sealed": sealed,
        "standby": sealed || standby,
        "replication_performance_mode": replication,
        "replication_dr_mode": replication,
        "server_time_utc": super::clock::unix(core.clock.wall()),
        "version": VERSION,
    });
    if let (false, Some(members)) = (sealed, body.as_object_mut()) {
        members.insert("cluster_name".to_owned(), json!(core.cluster.name));
        members.insert("cluster_id".to_owned(), json!(core.cluster.id));
    }
    Ok(Reply::Bare { status, body })
}
