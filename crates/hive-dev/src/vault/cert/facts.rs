//! What a certificate says, as far as a role may ask for it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

use crate::vault::clock::{rfc3339, unix, whole_seconds};

/// A certificate, read.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) common_name: String,
    pub(super) units: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) uris: Vec<String>,
    /// In decimals.
    pub(super) serial: String,
    pub(super) subject_key_id: String,
    pub(super) authority_key_id: String,
    /// By identifier; empty where an extension is no text.
    pub(super) extensions: BTreeMap<String, String>,
    pub(super) is_authority: bool,
    /// Whether it may be used by clients: it says so, or nothing about its use.
    pub(super) is_for_clients: bool,
    has_unknown_demand: bool,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// None: it is none.
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let subject = parsed.subject();
        let units = subject.iter_organizational_unit();
        let usage = parsed.extended_key_usage().ok()?;
        let mut certificate = Self {
            der: der.clone().into_owned(),
            common_name: text(subject.iter_common_name().last().and_then(|n| n.as_str().ok())),
            units: units.filter_map(|unit| unit.as_str().ok()).map(str::to_owned).collect(),
            dns_names: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            serial: parsed.tbs_certificate.serial.to_string(),
            subject_key_id: String::new(),
            authority_key_id: String::new(),
            extensions: BTreeMap::new(),
            is_authority: parsed.is_ca(),
            is_for_clients: usage.is_none_or(|usage| usage.value.any || usage.value.client_auth),
            has_unknown_demand: false,
            not_before: parsed.validity.not_before.timestamp(),
            not_after: parsed.validity.not_after.timestamp(),
        };
        for extension in parsed.extensions() {
            certificate.take(extension);
        }
        Some(certificate)
    }

    /// Those in PEM that can be read.
    pub(super) fn read_all(pem: &str) -> Vec<Self> {
        let all = CertificateDer::pem_slice_iter(pem.as_bytes());
        all.filter_map(|one| Self::read(&one.ok()?)).collect()
    }

    fn take(&mut self, extension: &X509Extension<'_>) {
        self.extensions.insert(extension.oid.to_id_string(), text(extension.value));
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                names.general_names.iter().for_each(|name| self.take_name(name));
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = colons(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let key = id.key_identifier.as_ref();
                self.authority_key_id = key.map(|key| colons(key.0)).unwrap_or_default();
            }
            ParsedExtension::UnsupportedExtension { .. } if extension.critical => {
                self.has_unknown_demand = true;
            }
            _ => {}
        }
    }

    fn take_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            _ => {}
        }
    }

    pub(super) fn spiffe_id(&self) -> Option<&str> {
        self.uris.iter().map(String::as_str).find(|uri| uri.starts_with("spiffe://"))
    }

    /// Why nobody may use it now, whoever vouches for it.
    pub(super) fn fault(&self, now: SystemTime) -> Option<String> {
        if self.has_unknown_demand {
            return Some("x509: unhandled critical extension".to_owned());
        }
        self.out_of_time(now)
    }

    /// Why it is not valid now.
    pub(super) fn out_of_time(&self, now: SystemTime) -> Option<String> {
        let seconds = i64::try_from(unix(now)).unwrap_or(i64::MAX);
        if seconds < self.not_before {
            return Some(not_now(now, "before", self.not_before));
        }
        (seconds > self.not_after).then(|| not_now(now, "after", self.not_after))
    }
}

pub(super) fn not_now(now: SystemTime, how: &str, limit: i64) -> String {
    let since = Duration::from_secs(u64::try_from(limit).unwrap_or_default());
    let (now, limit) = (rfc3339(whole_seconds(now)), rfc3339(SystemTime::UNIX_EPOCH + since));
    format!(
        "x509: certificate has expired or is not yet valid: current time {now} is {how} {limit}"
    )
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// The text that an extension consists of, whatever kind of text that is.
fn text(der: &[u8]) -> String {
    let Ok((_, any)) = Any::from_der(der) else { return String::new() };
    match any.tag() {
        Tag::GeneralString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::PrintableString
        | Tag::T61String
        | Tag::Utf8String => String::from_utf8(any.data.to_vec()).unwrap_or_default(),
        _ => String::new(),
    }
}
