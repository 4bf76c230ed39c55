//! The PKI engine: an authority that signs certificates by roles, and takes them back.
//!
//! Not here: keys from elsewhere, what an issuer may be used for, cross-signing, ACME, OCSP, delta revocation lists.
//! Tidying finds nothing to do.

mod authority;
pub(super) mod der;
mod intermediate;
mod issue;
mod issuers;
mod keys;
mod read;
mod role;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use hive_security::clock::Clock;
use serde_json::{Map, Value, json};

use self::authority::Authority;
use self::keys::Keys;
use self::role::Role;
use super::clock::unix;
use super::core::Lease;
use super::engine::{Ask, Engine};
use super::reply::{Envelope, Fault, Reply};
use super::routes::Verb;
use super::terms::Terms;
use super::{clock, fields};

pub(super) type Body = Map<String, Value>;

const URL_LISTS: [&str; 4] = [
    "crl_distribution_points",
    "delta_crl_distribution_points",
    "issuing_certificates",
    "ocsp_servers",
];

/// One mount of the engine.
#[derive(Default)]
pub(super) struct PkiEngine {
    pki: Mutex<Pki>,
    /// For the ends of leases; the first call brings it.
    clock: OnceLock<Clock>,
}

impl PkiEngine {
    fn pki(&self) -> MutexGuard<'_, Pki> {
        self.pki.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reply(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        self.clock.get_or_init(|| ask.core.clock.clone());
        let (default_ttl, max_ttl) = ask.mount.limits();
        let frame = Frame { default_ttl, max_ttl, now: ask.wall() };
        let outcome = self.pki().answer(ask.verb(), ask.path, &ask.call.body, frame)?;
        let key = match &outcome {
            Outcome::Leased { data, .. } | Outcome::Told { data, .. } => {
                data["private_key"].as_str()
            }
            _ => None,
        };
        if let Some(key) = key {
            ask.witness("pki-key", key).await?;
        }
        match outcome {
            Outcome::Leased { data, serial, ttl } => {
                let terms = Terms { ttl, max_ttl: ttl, renewable: false };
                let kept = [("serial".to_owned(), json!(serial))].into_iter().collect();
                ask.lease(terms, kept, |_| async move { Ok(data) }).await
            }
            Outcome::Raw { content_type, body } => {
                let status = if body.is_empty() { 204 } else { 200 };
                Ok(Reply::Raw { status, content_type, body })
            }
            Outcome::Reply(reply) => Ok(reply),
            Outcome::Told { data, warnings } => {
                Ok(Reply::Body(Box::new(Envelope { data, warnings, ..Envelope::new() })))
            }
        }
    }
}

impl Engine for PkiEngine {
    fn is_open(&self, path: &str) -> bool {
        Pki::is_open(path)
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move { self.reply(&ask).await }.boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let serial = fields::text(&lease.data, "serial").unwrap_or_default();
            let now = self.clock.get().map_or_else(SystemTime::now, Clock::wall);
            self.pki().revoke(serial, now);
            Ok(())
        }
        .boxed()
    }
}

/// Everything one mount holds.
#[derive(Default)]
pub(super) struct Pki {
    authorities: Vec<Authority>,
    /// The id of the one that is meant where none is named.
    default: Option<String>,
    keys: Keys,
    roles: BTreeMap<String, Role>,
    issued: BTreeMap<String, Issued>,
    urls: BTreeMap<&'static str, Vec<String>>,
    crl_config: Map<String, Value>,
    crl_number: u64,
}

/// A certificate that was signed here.
struct Issued {
    der: Vec<u8>,
    authority: String,
    revoked: Option<SystemTime>,
}

/// What a call came to, before it is an answer.
pub(super) enum Outcome {
    /// A certificate that lives by a lease; the serial number ends it.
    Leased {
        data: Value,
        serial: String,
        ttl: Duration,
    },
    /// Not JSON. No bytes: there is no authority yet.
    Raw {
        content_type: &'static str,
        body: Vec<u8>,
    },
    Reply(Reply),
    Told {
        data: Value,
        warnings: Vec<String>,
    },
}

/// How long something lives at this mount by default, and at most; and the time of day.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) default_ttl: Duration,
    pub(super) max_ttl: Duration,
    pub(super) now: SystemTime,
}

impl Pki {
    /// Whether the path is answered without a token.
    pub(super) fn is_open(path: &str) -> bool {
        let parts: Vec<_> = path.split('/').collect();
        match parts.as_slice() {
            ["ca" | "ca_chain" | "crl", ..] => true,
            ["cert", serial, ..] => !serial.is_empty(),
            ["issuer", _, "pem" | "der" | "json"] | ["issuer", _, "crl", ..] => true,
            _ => false,
        }
    }

    /// Answers a call below the mount.
    pub(super) fn answer(
        &mut self,
        verb: Verb,
        path: &str,
        body: &Body,
        frame: Frame,
    ) -> Result<Outcome, Fault> {
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        match (verb, parts.as_slice()) {
            (Verb::Read, parts) => self.read(parts, frame.now),
            (Verb::List, ["roles"]) => keys(self.roles.keys()),
            (Verb::List, ["certs"]) => keys(self.issued.keys()),
            (Verb::List, ["certs", "revoked"]) => {
                let revoked = self.issued.iter().filter(|(_, issued)| issued.revoked.is_some());
                keys(revoked.map(|(serial, _)| serial))
            }
            (Verb::List, ["issuers"]) => self.list_authorities(),
            (Verb::List, ["keys"]) => self.keys.list(),
            (Verb::Write, ["root", "generate", kind]) => self.generate(kind, body, frame),
            (Verb::Write, ["root", "sign-intermediate"]) => {
                self.sign_intermediate("default", body, frame)
            }
            (Verb::Write, ["issuer", name, "sign-intermediate"]) => {
                self.sign_intermediate(name, body, frame)
            }
            (Verb::Write, ["intermediate", "generate", kind]) => self.generate_request(kind, body),
            (Verb::Write, ["intermediate", "set-signed"]) => self.set_signed(body),
            (Verb::Write, ["config", "issuers"]) => self.set_default_authority(body),
            (Verb::Write, ["roles", name]) => self.set_role(name, body),
            (Verb::Write, ["issue", name]) => self.issue(name, body, frame),
            (Verb::Write, ["sign", name]) => self.sign(name, body, frame),
            (Verb::Write, ["sign-verbatim"] | ["sign-verbatim", _]) => {
                self.sign_by(&Role::verbatim(), body, frame)
            }
            (Verb::Write, ["tidy"]) => Ok(Outcome::Reply(tidied(body))),
            (Verb::Write, ["revoke"]) => self.revoke_asked(body, frame.now),
            (Verb::Write, ["config", "urls"]) => self.set_urls(body),
            (Verb::Write, ["config", "crl"]) => self.set_crl_config(body),
            (Verb::Delete, ["roles", name]) => {
                self.roles.remove(*name);
                Ok(Outcome::Reply(Reply::Empty))
            }
            (Verb::Delete, ["issuer", name]) => Ok(self.delete_authority(name)),
            (Verb::Delete, ["key", name]) => self.delete_key(name),
            (Verb::Delete, ["root"]) => {
                self.authorities.clear();
                (self.default, self.keys) = (None, Keys::default());
                let text = "DELETE /root deletes all keys and issuers; prefer the new DELETE /key/:key_ref and DELETE /issuer/:issuer_ref for finer granularity, unless removal of all keys and issuers is desired.";
                Ok(Outcome::Told { data: Value::Null, warnings: vec![text.to_owned()] })
            }
            (_, parts) => Err(unknown(parts)),
        }
    }

    fn set_role(&mut self, name: &str, body: &Body) -> Result<Outcome, Fault> {
        let role = Role::read(body)?;
        let data = role.shown();
        let lacks_default =
            role.text("issuer_ref") == "default" && self.default_or_none().is_none();
        let leased = role.is("generate_lease").then_some(LEASED);
        let warnings = lacks_default.then_some(NO_DEFAULT).into_iter().chain(leased);
        let warnings = warnings.map(str::to_owned).collect();
        self.roles.insert(name.to_owned(), role);
        Ok(Outcome::Told { data, warnings })
    }

    fn revoke_asked(&mut self, body: &Body, now: SystemTime) -> Result<Outcome, Fault> {
        let Some(serial) = fields::text(body, "serial_number").filter(|text| !text.is_empty())
        else {
            let text = "The serial number or certificate to revoke must be provided.";
            return Err(Fault::new(400, text));
        };
        let is_ours = |own: &&Authority| {
            own.serial == colons(serial) && self.issued.contains_key(&own.serial)
        };
        if let Some(own) = self.authorities.iter().find(is_ours) {
            let text = format!("adding issuer (id: {}) to its own CRL is not allowed", own.id);
            return Err(Fault::new(400, text));
        }
        let revoked = self.revoke(serial, now);
        let missing = || Fault::new(400, format!("certificate with serial {serial} not found."));
        let revoked = revoked.ok_or_else(missing)?;
        Ok(told(json!({
            "revocation_time": unix(revoked),
            "revocation_time_rfc3339": clock::rfc3339(revoked),
            "state": "revoked",
        })))
    }

    /// Takes a certificate back; says when that was done first, and None where there is none.
    pub(super) fn revoke(&mut self, serial: &str, now: SystemTime) -> Option<SystemTime> {
        let issued = self.issued.get_mut(&colons(serial))?;
        if issued.revoked.is_none() {
            issued.revoked = Some(now);
            self.crl_number += 1;
        }
        issued.revoked
    }

    fn set_urls(&mut self, body: &Body) -> Result<Outcome, Fault> {
        for name in URL_LISTS {
            let Some(urls) = fields::strings(body, name) else { continue };
            if let Some(wrong) = urls.iter().find(|url| !url.contains("://")) {
                let text = format!(
                    "invalid URL found in Authority Information Access (AIA) parameter {name}: {wrong}"
                );
                return Err(Fault::new(400, text));
            }
            self.urls.insert(name, urls);
        }
        Ok(told(self.shown_urls()))
    }

    fn shown_urls(&self) -> Value {
        let mut shown = json!({ "enable_templating": false });
        for name in URL_LISTS {
            shown[name] = json!(self.urls.get(name).cloned().unwrap_or_default());
        }
        shown
    }

    fn set_crl_config(&mut self, body: &Body) -> Result<Outcome, Fault> {
        let known = self.shown_crl_config();
        let own = body.iter().filter(|(name, _)| !known[name.as_str()].is_null());
        let own: Vec<_> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        self.crl_config.extend(own);
        Ok(told(self.shown_crl_config()))
    }

    fn shown_crl_config(&self) -> Value {
        let mut shown = json!({
            "allow_expired_cert_revocation": false,
            "auto_rebuild": false,
            "auto_rebuild_grace_period": "12h",
            "delta_rebuild_interval": "15m",
            "disable": false,
            "enable_delta": false,
            "expiry": "72h",
            "ocsp_disable": false,
            "ocsp_expiry": "12h",
        });
        for (name, value) in &self.crl_config {
            shown[name.as_str()] = value.clone();
        }
        shown
    }
}

fn tidied(body: &Body) -> Reply {
    let is_told = body.iter().any(|(name, value)| name.starts_with("tidy_") && *value == true);
    let warning = if is_told {
        "Tidy operation successfully started. Any information from the operation will be printed to OpenBao's server logs."
    } else {
        "Manual tidy requested but no tidy operations were set. Enable at least one tidy operation to be run (tidy_cert_store / tidy_revoked_certs / tidy_invalid_certs / tidy_revoked_cert_issuer_associations / tidy_expired_issuers / tidy_move_legacy_ca_bundle / tidy_acme)."
    };
    let warnings = vec![warning.to_owned()];
    // What only begins has no id, here.
    Reply::Bare { status: 202, body: Envelope { warnings, ..Envelope::new() }.json("") }
}

const NO_DEFAULT: &str = "Issuing Certificate was set to default, but no default issuing certificate (configurable at /config/issuers) is currently set";
const LEASED: &str = "it is encouraged to disable generate_lease and rely on PKI's native capabilities when possible; this option can cause instance-wide issues with large numbers of issued certificates";

fn told(data: Value) -> Outcome {
    Outcome::Told { data, warnings: Vec::new() }
}

fn keys<'a>(keys: impl Iterator<Item = &'a String>) -> Result<Outcome, Fault> {
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() {
        return Err(Fault::no_value());
    }
    Ok(told(json!({ "keys": keys })))
}

fn unknown(parts: &[&str]) -> Fault {
    let known = [
        "ca",
        "ca_chain",
        "cert",
        "certs",
        "config",
        "crl",
        "intermediate",
        "issue",
        "issuer",
        "issuers",
        "key",
        "keys",
        "revoke",
        "roles",
        "root",
        "sign",
        "sign-verbatim",
        "tidy",
    ];
    let is_known = parts.first().is_some_and(|first| known.contains(first));
    if is_known && parts != ["intermediate"] {
        return Fault::unsupported();
    }
    Fault::unsupported_path()
}

/// A serial number may be written with hyphens.
fn colons(serial: &str) -> String {
    serial.replace('-', ":").to_lowercase()
}

#[cfg(test)]
mod tests;
