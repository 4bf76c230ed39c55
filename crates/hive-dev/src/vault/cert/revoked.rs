//! The lists of certificates that were taken back: a login is refused if anything in its chain is on one of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use x509_parser::pem::Pem;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::vault::engine::Ask;
use crate::vault::reply::{Fault, Reply};
use crate::vault::roles;
use crate::vault::routes::Verb;

/// By the name that was given to each; the serials in decimals.
#[derive(Default)]
pub(super) struct Lists(BTreeMap<String, BTreeSet<String>>);

impl Lists {
    pub(super) fn hold(&self, serial: &str) -> bool {
        self.0.values().any(|list| list.contains(serial))
    }

    pub(super) fn list(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        roles::page(ask, self.0.keys())
    }

    /// Answers a call that is about one list.
    pub(super) fn answer(&mut self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let unknown = || Fault::new(400, format!("no such CRL {name}"));
        match ask.verb() {
            Verb::Delete => self.0.remove(name).map(|_| Reply::Empty).ok_or_else(unknown),
            Verb::Read => self.0.get(name).map(shown).ok_or_else(unknown),
            Verb::Write => {
                self.0.insert(name.to_owned(), given(ask)?);
                Ok(Reply::Empty)
            }
            _ => Err(Fault::unsupported()),
        }
    }
}

fn shown(serials: &BTreeSet<String>) -> Reply {
    if serials.is_empty() {
        return Reply::data(json!({}));
    }
    let nothing = || Value::Object(Map::new());
    let serials: Map<_, _> = serials.iter().map(|one| (one.clone(), nothing())).collect();
    Reply::data(json!({ "serials": serials }))
}

fn given(ask: &Ask<'_>) -> Result<BTreeSet<String>, Fault> {
    let refused = |text: &str| Fault::new(400, text);
    if let Some(text) = ask.text("crl") {
        let serials = serials(text);
        return serials.ok_or_else(|| refused("failed to parse CRL: it is neither PEM nor DER"));
    }
    Err(refused(match ask.text("url") {
        None => "one of 'crl' or 'url' must be provided",
        Some("") => "empty CRL url",
        Some(_) => "'url' is not served by the development vault: use 'crl'",
    }))
}

fn serials(text: &str) -> Option<BTreeSet<String>> {
    let pem = Pem::iter_from_buffer(text.as_bytes()).next().and_then(Result::ok);
    let der = pem.map(|pem| pem.contents);
    let (_, list) =
        CertificateRevocationList::from_der(der.as_deref().unwrap_or(text.as_bytes())).ok()?;
    Some(list.iter_revoked_certificates().map(|one| one.user_certificate.to_string()).collect())
}
