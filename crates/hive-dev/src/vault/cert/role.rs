//! A role: which certificates it trusts, what has to be in them, and what tokens it gives.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::Certificate;
use crate::vault::engine::Ask;
use crate::vault::fields;
use crate::vault::jwt_claims::glob;
use crate::vault::reply::{Envelope, Fault, Reply};
use crate::vault::roles;
use crate::vault::terms::TokenTerms;
use crate::vault::terms_old;
use crate::vault::tokens::object;

const LISTS: [&str; 8] = [
    "allowed_common_names",
    "allowed_dns_sans",
    "allowed_email_sans",
    "allowed_metadata_extensions",
    "allowed_names",
    "allowed_organizational_units",
    "allowed_uri_sans",
    "required_extensions",
];
const DURATIONS: [&str; 7] = [
    "max_ttl",
    "period",
    "token_explicit_max_ttl",
    "token_max_ttl",
    "token_period",
    "token_ttl",
    "ttl",
];
const FLAGS: [&str; 5] = [
    "ocsp_enabled",
    "ocsp_fail_open",
    "ocsp_query_all_servers",
    "token_no_default_policy",
    "token_strictly_bind_ip",
];

/// `auth/cert/certs/<name>`
#[derive(Clone, Default)]
pub(super) struct Role {
    /// As it was given, PEM.
    certificate: String,
    /// What it is, never empty.
    trusted: Vec<Certificate>,
    pub(super) display_name: String,
    /// By the name of the field; what was never given is not in it.
    lists: BTreeMap<&'static str, Vec<String>>,
    pub(super) terms: TokenTerms,
}

impl roles::Role for Role {
    fn write(&mut self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        check_fields(ask)?;
        for name in LISTS {
            if let Some(list) = ask.strings(name) {
                self.lists.insert(name, list);
            }
        }
        self.terms.read(ask, terms_old::FIVE)?;
        self.take_lease(ask)?;
        if !self.terms.max_ttl.is_zero() && self.terms.ttl > self.terms.max_ttl {
            return Err(Fault::new(400, "ttl should be shorter than max_ttl"));
        }
        self.take_names(ask);
        self.take_certificates(ask)?;
        match self.remarks(ask) {
            warnings if warnings.is_empty() => Ok(Reply::Empty),
            warnings => Ok(Reply::Body(Box::new(Envelope { warnings, ..Envelope::new() }))),
        }
    }

    fn read(&self, _name: &str) -> Reply {
        let mut data = object(json!({
            "certificate": self.certificate,
            "display_name": self.display_name,
            "ocsp_ca_certificates": "",
            "ocsp_enabled": false,
            "ocsp_fail_open": false,
            "ocsp_query_all_servers": false,
            "ocsp_servers_override": null,
        }));
        let lists = LISTS.map(|name| (name.to_owned(), json!(self.lists.get(name))));
        data.extend(lists);
        self.terms.describe(&mut data);
        Reply::data(Value::Object(data))
    }
}

impl Role {
    /// The oldest name of all.
    fn take_lease(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        let is_given = |member: &str| ask.call.body.get(member).is_some_and(|v| !v.is_null());
        if is_given("token_ttl") || is_given("ttl") || !is_given("lease") {
            return Ok(());
        }
        let seconds = ask.number("lease").map_err(Fault::of_field)?.unwrap_or_default();
        self.terms.ttl = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        self.terms.old.note("ttl");
        Ok(())
    }

    fn take_names(&mut self, ask: &Ask<'_>) {
        if let Some(name) = ask.text("display_name") {
            name.clone_into(&mut self.display_name);
        }
        if self.display_name.is_empty() {
            self.display_name = ask.below("certs/").unwrap_or_default().to_lowercase();
        }
    }

    fn take_certificates(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        if let Some(pem) = ask.text("certificate") {
            pem.clone_into(&mut self.certificate);
            self.trusted = Certificate::read_all(pem);
        }
        let Some(first) = self.trusted.first() else {
            return Err(Fault::new(400, "failed to parse certificate"));
        };
        if !first.is_authority && !first.is_for_clients {
            let text = "nonCA certificates should have TLS client authentication set as an extended key usage";
            return Err(Fault::new(400, text));
        }
        Ok(())
    }

    /// What the mount will not grant, though the role says so.
    fn remarks(&self, ask: &Ask<'_>) -> Vec<String> {
        let (default_ttl, max_ttl) = ask.mount.limits();
        let (ttl, longest, period) = (self.terms.ttl, self.terms.max_ttl, self.terms.period);
        let default = "greater than current mount/system default of";
        let most = "greater than the backend's maximum TTL of";
        let table = [
            ("ttl", ttl, default, default_ttl),
            ("max_ttl", longest, default, max_ttl),
            ("period", period, most, max_ttl),
        ];
        let too_long = table.iter().filter(|(_, given, _, limit)| given > limit);
        let text = |(name, given, how, limit): &(&str, std::time::Duration, &str, _)| {
            let (given, limit): (_, std::time::Duration) = (given.as_secs(), *limit);
            format!("Given {name} of {given} seconds is {how} {} seconds", limit.as_secs())
        };
        too_long.map(text).collect()
    }

    /// The first certificate that it trusts, DER.
    pub(super) fn first(&self) -> Option<&[u8]> {
        self.trusted.first().map(|certificate| &*certificate.der)
    }

    /// What may vouch for a certificate: nothing, if the role trusts a certificate that is no authority's.
    pub(super) fn authorities(&self) -> &[Certificate] {
        match self.trusted.first() {
            Some(first) if first.is_authority => &self.trusted,
            _ => &[],
        }
    }

    /// Whether it trusts this very certificate, and no authority.
    pub(super) fn holds(&self, shown: &Certificate) -> bool {
        self.trusted.first().is_some_and(|own| !own.is_authority && own.der == shown.der)
    }

    /// Whether all that has to be in a certificate is.
    pub(super) fn admits(&self, shown: &Certificate) -> bool {
        let common_name = std::slice::from_ref(&shown.common_name);
        let names = [common_name, &shown.dns_names, &shown.emails].concat();
        self.has("allowed_names", &names)
            && self.has("allowed_common_names", common_name)
            && self.has("allowed_dns_sans", &shown.dns_names)
            && self.has("allowed_email_sans", &shown.emails)
            && self.has("allowed_uri_sans", &shown.uris)
            && self.has("allowed_organizational_units", &shown.units)
            && self.list("required_extensions").iter().all(|wanted| demands(wanted, shown))
    }

    /// One of them, or any where none is listed.
    fn has(&self, list: &str, given: &[String]) -> bool {
        let patterns = self.list(list);
        patterns.is_empty()
            || patterns.iter().any(|pattern| given.iter().any(|name| glob(pattern, name)))
    }

    fn list(&self, name: &str) -> &[String] {
        self.lists.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// What a certificate says about its holder that the token is to say, too.
    pub(super) fn metadata(&self, shown: &Certificate) -> BTreeMap<String, String> {
        let wanted = self.list("allowed_metadata_extensions").iter();
        let found = wanted.filter_map(|id| Some((id.replace('.', "-"), shown.extensions.get(id)?)));
        found.map(|(id, text)| (id, text.clone())).collect()
    }
}

/// `identifier:pattern`
fn demands(wanted: &str, shown: &Certificate) -> bool {
    let Some((id, pattern)) = wanted.split_once(':') else { return false };
    shown.extensions.get(id).is_some_and(|text| glob(pattern, text))
}

/// Before anything is taken over, as the real server does.
fn check_fields(ask: &Ask<'_>) -> Result<(), Fault> {
    let body = &ask.call.body;
    for name in DURATIONS {
        ask.duration(name).map_err(Fault::of_field)?;
    }
    for name in ["lease", "token_num_uses"] {
        ask.number(name).map_err(Fault::of_field)?;
    }
    let mut asked = Vec::new();
    for name in FLAGS {
        asked.push((name, fields::whole_flag(body, name)? == Some(true)));
    }
    let has = |name: &'static str| (name, ask.strings(name).is_some_and(|list| !list.is_empty()));
    asked.extend(["ocsp_ca_certificates", "ocsp_servers_override"].map(has));
    match asked.iter().find(|(name, is_asked)| *is_asked && name.starts_with("ocsp_")) {
        Some((name, _)) => {
            let text = format!("'{name}' is not served by the development vault: use 'crls'");
            Err(Fault::new(400, text))
        }
        None => Ok(()),
    }
}
