//! The PKI engine: an authority that signs certificates by roles, and takes them back.
//!
//! Not here: intermediates and imported authorities, ACME, OCSP, delta revocation lists. Tidying finds nothing to do.

mod authority;
pub(super) mod der;
mod issue;
mod role;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use hive_security::clock::Clock;
use serde_json::{Map, Value, json};

use self::authority::Authority;
use self::der::pem;
use self::role::Role;
use super::clock::unix;
use super::core::Lease;
use super::engine::{Ask, Engine};
use super::reply::{Envelope, Fault, Reply};
use super::routes::Verb;
use super::terms::Terms;
use super::{clock, fields};

pub(super) type Body = Map<String, Value>;

const CERTIFICATE: &str = "application/pkix-cert";
const CERTIFICATES: &str = "application/pem-certificate-chain";
const REVOCATIONS: &str = "application/pkix-crl";
const REVOCATIONS_PEM: &str = "application/x-pem-file";
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
    /// The first is the default one.
    authorities: Vec<Authority>,
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
            (Verb::Write, ["root", "generate", kind]) => self.generate(kind, body, frame),
            (Verb::Write, ["roles", name]) => {
                let role = Role::read(body)?;
                let data = role.shown();
                let warnings = role.is("generate_lease").then(|| LEASED.to_owned());
                self.roles.insert((*name).to_owned(), role);
                Ok(Outcome::Told { data, warnings: warnings.into_iter().collect() })
            }
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
            (Verb::Delete, ["root"]) => {
                self.authorities.clear();
                let text = "DELETE /root deletes all keys and issuers; prefer the new DELETE /key/:key_ref and DELETE /issuer/:issuer_ref for finer granularity, unless removal of all keys and issuers is desired.";
                Ok(Outcome::Told { data: Value::Null, warnings: vec![text.to_owned()] })
            }
            (_, parts) => Err(unknown(parts)),
        }
    }

    fn read(&mut self, parts: &[&str], now: SystemTime) -> Result<Outcome, Fault> {
        match *parts {
            ["ca"] => Ok(self.raw_authority(false)),
            ["ca", "pem"] => Ok(self.raw_authority(true)),
            ["ca_chain"] => match self.raw_authority(true) {
                Outcome::Raw { body, .. } => {
                    Ok(Outcome::Raw { content_type: CERTIFICATE, body: joined(body) })
                }
                other => Ok(other),
            },
            ["crl"] => Ok(self.raw_revocations(false, now)),
            ["crl", "pem"] => Ok(self.raw_revocations(true, now)),
            ["crl", "rotate"] => {
                self.crl_number += 1;
                Ok(told(json!({ "success": true })))
            }
            ["cert", "ca"] => Ok(shown(&self.default_authority()?.pem())),
            ["cert", "ca_chain"] => {
                let pem = self.default_authority()?.pem();
                Ok(told(
                    json!({ "ca_chain": pem, "certificate": pem, "revocation_time": 0, "revocation_time_rfc3339": "" }),
                ))
            }
            ["cert", "crl"] => {
                let der =
                    self.default_authority()?.revocations(self.revoked(), self.crl_number, now)?;
                Ok(shown(&pem("X509 CRL", &der)))
            }
            ["cert", serial, ..] if !is_serial(serial) => Err(Fault::new(404, "unsupported path")),
            ["cert", serial] => self.certificate(serial),
            ["cert", serial, "raw"] => self.raw_certificate(serial, false),
            ["cert", serial, "raw", "pem"] => self.raw_certificate(serial, true),
            ["roles", name] => {
                let role = self.roles.get(name).ok_or_else(Fault::no_value)?;
                Ok(told(role.shown()))
            }
            ["config", "urls"] => Ok(told(self.shown_urls())),
            ["config", "crl"] => Ok(told(self.shown_crl_config())),
            ["issuer", name] | ["issuer", name, "json"] => {
                Ok(told(self.known_authority(name)?.shown(parts.len() == 3)))
            }
            ["issuer", name, "der"] => {
                let body = self.known_authority(name)?.certificate.clone();
                Ok(Outcome::Raw { content_type: CERTIFICATE, body })
            }
            ["issuer", name, "pem"] => {
                let body = self.known_authority(name)?.pem().into_bytes();
                Ok(Outcome::Raw { content_type: CERTIFICATES, body })
            }
            _ => Err(unknown(parts)),
        }
    }

    fn raw_authority(&self, is_pem: bool) -> Outcome {
        let content_type = if is_pem { CERTIFICATES } else { CERTIFICATE };
        let body = self.authorities.first().map(|authority| {
            if is_pem { authority.pem().into_bytes() } else { authority.certificate.clone() }
        });
        Outcome::Raw { content_type, body: body.unwrap_or_default() }
    }

    fn raw_revocations(&self, is_pem: bool, now: SystemTime) -> Outcome {
        let content_type = if is_pem { REVOCATIONS_PEM } else { REVOCATIONS };
        let der = self
            .authorities
            .first()
            .and_then(|authority| authority.revocations(self.revoked(), self.crl_number, now).ok());
        let body = der.map(|der| if is_pem { pem("X509 CRL", &der).into_bytes() } else { der });
        Outcome::Raw { content_type, body: body.unwrap_or_default() }
    }

    /// Of the default authority.
    fn revoked(&self) -> Vec<(String, SystemTime)> {
        let own = self.authorities.first().map(|authority| authority.id.clone());
        let ended =
            self.issued.iter().filter(|(_, issued)| Some(&issued.authority) == own.as_ref());
        ended.filter_map(|(serial, issued)| Some((serial.clone(), issued.revoked?))).collect()
    }

    fn certificate(&self, serial: &str) -> Result<Outcome, Fault> {
        let issued = self.issued.get(&colons(serial)).ok_or_else(Fault::no_value)?;
        let Some(revoked) = issued.revoked else {
            return Ok(shown(&pem("CERTIFICATE", &issued.der)));
        };
        Ok(told(json!({
            "certificate": pem("CERTIFICATE", &issued.der),
            "issuer_id": issued.authority,
            "revocation_time": unix(revoked),
            "revocation_time_rfc3339": clock::rfc3339(revoked),
        })))
    }

    fn raw_certificate(&self, serial: &str, is_pem: bool) -> Result<Outcome, Fault> {
        let issued = self.issued.get(&colons(serial)).ok_or_else(Fault::no_value)?;
        Ok(if is_pem {
            let body = pem("CERTIFICATE", &issued.der).into_bytes();
            Outcome::Raw { content_type: CERTIFICATES, body }
        } else {
            Outcome::Raw { content_type: CERTIFICATE, body: issued.der.clone() }
        })
    }

    fn revoke_asked(&mut self, body: &Body, now: SystemTime) -> Result<Outcome, Fault> {
        let Some(serial) = fields::text(body, "serial_number").filter(|text| !text.is_empty())
        else {
            let text = "The serial number or certificate to revoke must be provided.";
            return Err(Fault::new(400, text));
        };
        if let Some(own) = self.authorities.iter().find(|own| own.serial == colons(serial)) {
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

    fn list_authorities(&self) -> Result<Outcome, Fault> {
        if self.authorities.is_empty() {
            return Err(Fault::no_value());
        }
        let default = self.authorities.first().map(|own| own.id.as_str());
        let mut own: Vec<_> = self.authorities.iter().collect();
        own.sort_by_key(|authority| authority.id.as_str());
        let info = own.iter().map(|own| (own.id.clone(), own.summary(default == Some(&own.id))));
        let info: Map<_, _> = info.collect();
        Ok(told(json!({ "key_info": info, "keys": info.keys().collect::<Vec<_>>() })))
    }

    fn default_authority(&self) -> Result<&Authority, Fault> {
        let none = || Fault::new(400, "no default issuer currently configured");
        self.authorities.first().ok_or_else(none)
    }

    fn authority(&self, name: &str) -> Result<&Authority, Fault> {
        if name == "default" {
            return self.default_authority();
        }
        let found = self.authorities.iter().find(|own| own.id == name || own.name == name);
        let missing = || Fault::new(400, format!("unable to find issuer for reference: {name}"));
        found.ok_or_else(missing)
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

fn is_serial(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_hexdigit() || c == '-' || c == ':')
}

fn shown(pem: &str) -> Outcome {
    told(json!({
        "certificate": pem,
        "revocation_time": 0,
        "revocation_time_rfc3339": "",
    }))
}

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
        "issue",
        "issuer",
        "issuers",
        "revoke",
        "roles",
        "root",
        "sign",
        "sign-verbatim",
        "tidy",
    ];
    if parts.first().is_some_and(|first| known.contains(first)) {
        return Fault::unsupported();
    }
    Fault::unsupported_path()
}

/// A serial number may be written with hyphens.
fn colons(serial: &str) -> String {
    serial.replace('-', ":").to_lowercase()
}

/// PEM in a chain has a break at its end.
fn joined(mut pem: Vec<u8>) -> Vec<u8> {
    if !pem.is_empty() {
        pem.push(b'\n');
    }
    pem
}

#[cfg(test)]
mod tests;
