//! Issuing a certificate with a key of its own, or for a key that somebody else holds.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CrlDistributionPoint, DistinguishedName,
    DnType, DnValue, PublicKeyData, SanType, SerialNumber,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::authority::Authority;
use super::der::{authority_information, from_pem, pem, private_key, subject_key_identifier};
use super::role::{KeyKind, Role, is_hostname};
use super::{Body, Fault, Frame, Issued, Outcome, Pki, told};
use crate::vault::clock::{self, go_duration, unix};
use crate::vault::fields;

const SERIAL_BYTES: usize = 20;

/// Who a certificate is for.
#[derive(Default)]
pub(super) struct Names {
    common_name: String,
    hosts: Vec<String>,
    mailboxes: Vec<String>,
    addresses: Vec<IpAddr>,
    uris: Vec<String>,
}

/// How the answer is written.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Format {
    Bundle,
    Der,
    Pem,
}

impl Pki {
    /// `issue/<role>`
    pub(super) fn issue(
        &mut self,
        name: &str,
        body: &Body,
        frame: Frame,
    ) -> Result<Outcome, Fault> {
        let role = self.role(name)?;
        let format = format(body)?;
        if role.text("key_type") == "any" {
            let text = "role key type \"any\" not allowed for issuing certificates without providing key_type and/or key_bits request parameters";
            return Err(Fault::new(400, text));
        }
        let kind = role.key()?;
        let authority = self.signer(role.text("issuer_ref"))?;
        let names = Names::given(body)?;
        names.check(role, "the API")?;
        let key = kind.generate().map_err(|_| failed())?;
        let signed = self.signed(role, authority, &names, &key, body, frame)?;
        let is_pkcs8 = fields::text(body, "private_key_format") == Some("pkcs8");
        let (label, private) = private_key(&key, kind, is_pkcs8).ok_or_else(failed)?;
        let private = Zeroizing::new(match format {
            Format::Der => BASE64_STANDARD.encode(&private),
            Format::Bundle | Format::Pem => pem(label, &private),
        });
        let mut data = signed.data(&self.chain(authority), format, Some(&private));
        data["private_key"] = json!(*private);
        data["private_key_type"] = json!(kind.name());
        let (is_stored, is_leased) = (!role.is("no_store"), role.is("generate_lease"));
        Ok(self.done(signed, data, is_stored, is_leased))
    }

    /// `sign/<role>`
    pub(super) fn sign(&mut self, name: &str, body: &Body, frame: Frame) -> Result<Outcome, Fault> {
        let role = self.role(name)?.clone();
        self.sign_by(&role, body, frame)
    }

    pub(super) fn sign_by(
        &mut self,
        role: &Role,
        body: &Body,
        frame: Frame,
    ) -> Result<Outcome, Fault> {
        let format = format(body)?;
        let authority = self.signer(role.text("issuer_ref"))?;
        let request = request(body)?;
        check_key(role, request.public_key.algorithm())?;
        let given = Names::given(body)?;
        let mut names = if role.is("use_csr_sans") {
            Names { common_name: given.common_name.clone(), ..Names::of_request(&request) }
        } else {
            given
        };
        if let (true, Some(own)) = (role.is("use_csr_common_name"), common_name(&request)) {
            names.common_name = own;
        }
        if !role.is_verbatim() {
            names.add_common_name(body);
        }
        names.check(role, if role.is("use_csr_sans") { "CSR" } else { "the API" })?;
        let mut signed = self.signed(role, authority, &names, &request.public_key, body, frame)?;
        if role.is("use_csr_common_name") && body.get("common_name").is_some_and(|name| name != "")
        {
            let text = "the common_name field was provided but the role is set with \"use_csr_common_name\" set to true";
            signed.warnings.insert(0, text.to_owned());
        }
        let data = signed.data(&self.chain(authority), format, None);
        let (is_stored, is_leased) = (!role.is("no_store"), role.is("generate_lease"));
        Ok(self.done(signed, data, is_stored, is_leased))
    }

    fn role(&self, name: &str) -> Result<&Role, Fault> {
        self.roles.get(name).ok_or_else(|| Fault::new(400, format!("unknown role: {name}")))
    }

    fn signed(
        &self,
        role: &Role,
        authority: &Authority,
        names: &Names,
        key: &impl PublicKeyData,
        body: &Body,
        frame: Frame,
    ) -> Result<Signed, Fault> {
        let (ttl, warnings) = time_to_live(role, body, frame)?;
        let not_after = frame.now + ttl;
        if not_after > authority.not_after {
            let text = format!(
                "cannot satisfy request, as TTL would result in notAfter of {} that is beyond the expiration of the CA certificate at {}",
                clock::rfc3339(not_after),
                clock::rfc3339(authority.not_after)
            );
            return Err(Fault::new(400, text));
        }
        let not_before = frame.now - role.duration("not_before_duration");
        let (bytes, serial) = new_serial();
        let mut params = params(names, not_before, not_after, &bytes)?;
        params.key_usages = role.usages();
        params.extended_key_usages = role.extended_usages();
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions.push(subject_key_identifier(key.der_bytes()));
        self.add_urls(&mut params);
        complete_subject(&mut params, |member| {
            role.list(member).first().map(|one| (*one).to_owned())
        });
        let der = authority.sign(&params, key)?;
        let authority = authority.id.clone();
        Ok(Signed { der, serial, authority, not_before, not_after, ttl, warnings })
    }

    pub(super) fn add_urls(&self, params: &mut CertificateParams) {
        let urls = |name: &str| self.urls.get(name).cloned().unwrap_or_default();
        let (issuers, ocsp) = (urls("issuing_certificates"), urls("ocsp_servers"));
        if !issuers.is_empty() || !ocsp.is_empty() {
            params.custom_extensions.push(authority_information(&issuers, &ocsp));
        }
        let points = urls("crl_distribution_points");
        params.crl_distribution_points =
            points.into_iter().map(|url| CrlDistributionPoint { uris: vec![url] }).collect();
    }

    fn done(&mut self, signed: Signed, data: Value, is_stored: bool, is_leased: bool) -> Outcome {
        let Signed { der, serial, authority, ttl, warnings, .. } = signed;
        // What lives by a lease is kept, so that its end can be told.
        if is_stored || is_leased {
            self.issued.insert(serial.clone(), Issued { der, authority, revoked: None });
        }
        if is_leased {
            return Outcome::Leased { data, serial, ttl };
        }
        if warnings.is_empty() { told(data) } else { Outcome::Told { data, warnings } }
    }
}

/// A certificate that was just made.
struct Signed {
    der: Vec<u8>,
    serial: String,
    authority: String,
    not_before: SystemTime,
    not_after: SystemTime,
    ttl: Duration,
    warnings: Vec<String>,
}

impl Signed {
    fn data(&self, above: &[&Authority], format: Format, private: Option<&str>) -> Value {
        let shown = |der: &[u8]| match format {
            Format::Der => BASE64_STANDARD.encode(der),
            Format::Bundle | Format::Pem => pem("CERTIFICATE", der),
        };
        let own = shown(&self.der);
        let above: Vec<_> = above.iter().map(|one| shown(&one.certificate)).collect();
        let certificate = if format == Format::Bundle {
            let all = private.into_iter().chain([own.as_str()]);
            all.chain(above.iter().map(String::as_str)).collect::<Vec<_>>().join("\n")
        } else {
            own
        };
        json!({
            "ca_chain": above,
            "certificate": certificate,
            "expiration": unix(self.not_after),
            "issuing_ca": above.first(),
            "not_before": unix(self.not_before),
            "serial_number": self.serial,
        })
    }
}

impl Names {
    pub(super) fn given(body: &Body) -> Result<Self, Fault> {
        let common_name = fields::text(body, "common_name").unwrap_or_default().to_owned();
        let mut names = Self { common_name, ..Self::default() };
        names.add_common_name(body);
        for name in fields::strings(body, "alt_names").unwrap_or_default() {
            names.add(name);
        }
        for text in fields::strings(body, "ip_sans").unwrap_or_default() {
            let wrong =
                |_| Fault::new(400, format!("the value {text:?} is not a valid IP address"));
            names.addresses.push(text.parse().map_err(wrong)?);
        }
        names.uris = fields::strings(body, "uri_sans").unwrap_or_default();
        Ok(names)
    }

    /// What is given, and this common name where none is.
    pub(super) fn given_or(body: &Body, other: Option<String>) -> Result<Self, Fault> {
        let mut names = Self::given(body)?;
        if names.common_name.is_empty() {
            names.common_name = other.unwrap_or_default();
            names.add_common_name(body);
        }
        Ok(names)
    }

    pub(super) fn of_request(request: &CertificateSigningRequestParams) -> Self {
        let mut names = Self::default();
        for name in &request.params.subject_alt_names {
            match name {
                SanType::DnsName(host) => names.hosts.push(host.to_string()),
                SanType::IpAddress(address) => names.addresses.push(*address),
                SanType::Rfc822Name(mailbox) => names.mailboxes.push(mailbox.to_string()),
                SanType::URI(uri) => names.uris.push(uri.to_string()),
                _ => {}
            }
        }
        names
    }

    fn add_common_name(&mut self, body: &Body) {
        if fields::flag(body, "exclude_cn_from_sans") != Some(true) {
            self.add(self.common_name.clone());
        }
    }

    fn add(&mut self, name: String) {
        let list = if name.contains('@') {
            &mut self.mailboxes
        } else if is_hostname(&name) {
            &mut self.hosts
        } else {
            return;
        };
        if !list.contains(&name) {
            list.push(name);
        }
    }

    fn check(&self, role: &Role, source: &str) -> Result<(), Fault> {
        let refused = |text: String| Err(Fault::new(400, text));
        if self.common_name.is_empty() && role.is("require_cn") {
            return refused("the common_name field is required, or must be provided in a CSR with \"use_csr_common_name\" set to true, unless \"require_cn\" is set to false".into());
        }
        if !self.common_name.is_empty() && !role.allows_name(&self.common_name) {
            return refused(format!("common name {} not allowed by this role", self.common_name));
        }
        if let Some(name) = self.hosts.iter().find(|name| !role.allows_name(name)) {
            return refused(format!("subject alternate name {name} not allowed by this role"));
        }
        if let Some(name) = self.mailboxes.iter().find(|name| !role.allows_name(name)) {
            return refused(format!("email address {name} not allowed by this role"));
        }
        if !self.addresses.is_empty() && !role.is("allow_ip_sans") {
            return refused(format!(
                "IP Subject Alternative Names are not allowed in this role, but was provided via {source}"
            ));
        }
        self.uris.iter().try_for_each(|uri| role.check_uri(uri, source))
    }
}

/// What stands in the subject beside the common name, and before it, in the real server's order.
pub(super) fn complete_subject(
    params: &mut CertificateParams,
    value: impl Fn(&str) -> Option<String>,
) {
    let name = std::mem::take(&mut params.distinguished_name);
    let parts = [
        ("country", DnType::CountryName),
        ("province", DnType::StateOrProvinceName),
        ("locality", DnType::LocalityName),
        ("street_address", DnType::from_oid(&[2, 5, 4, 9])),
        ("postal_code", DnType::from_oid(&[2, 5, 4, 17])),
        ("organization", DnType::OrganizationName),
        ("ou", DnType::OrganizationalUnitName),
    ];
    for (member, kind) in parts {
        if let Some(value) = value(member).filter(|value| !value.is_empty()) {
            params.distinguished_name.push(kind, value);
        }
    }
    for (kind, value) in name.iter() {
        params.distinguished_name.push(kind.clone(), value.clone());
    }
}

pub(super) fn params(
    names: &Names,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: &[u8],
) -> Result<CertificateParams, Fault> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (not_before.into(), not_after.into());
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = DistinguishedName::new();
    if !names.common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, names.common_name.as_str());
    }
    let text = |name: &String| {
        let wrong = |_| Fault::new(400, format!("the name {name:?} cannot be in a certificate"));
        rcgen::string::Ia5String::try_from(name.as_str()).map_err(wrong)
    };
    let sans = &mut params.subject_alt_names;
    for name in &names.hosts {
        sans.push(SanType::DnsName(text(name)?));
    }
    for name in &names.mailboxes {
        sans.push(SanType::Rfc822Name(text(name)?));
    }
    sans.extend(names.addresses.iter().copied().map(SanType::IpAddress));
    for name in &names.uris {
        sans.push(SanType::URI(text(name)?));
    }
    Ok(params)
}

/// Positive, and never shorter than its length says.
pub(super) fn new_serial() -> (Vec<u8>, String) {
    let mut bytes = [0; SERIAL_BYTES];
    rand::fill(&mut bytes);
    bytes[0] = bytes[0] & 0x7f | 0x01;
    let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes.to_vec(), text.join(":"))
}

/// The real server's remark when less is granted than was asked for.
pub(super) fn warn_of_ttl(asked: Duration, most: Duration) -> Vec<String> {
    let text = || {
        format!(
            "TTL \"{}\" is longer than permitted maxTTL \"{}\", so maxTTL is being used",
            go_duration(asked),
            go_duration(most)
        )
    };
    (asked > most).then(text).into_iter().collect()
}

fn time_to_live(role: &Role, body: &Body, frame: Frame) -> Result<(Duration, Vec<String>), Fault> {
    let first = |own: Duration, other: Duration| if own.is_zero() { other } else { own };
    let asked = fields::duration(body, "ttl")?.unwrap_or_default();
    let asked = first(first(asked, role.duration("ttl")), frame.default_ttl);
    let most = first(role.duration("max_ttl"), frame.max_ttl);
    // A role that says only how long at most is not asked for more than that by default.
    Ok((asked.min(most), warn_of_ttl(asked, most)))
}

pub(super) fn format(body: &Body) -> Result<Format, Fault> {
    match fields::text(body, "format").unwrap_or("pem") {
        "der" => Ok(Format::Der),
        "pem" => Ok(Format::Pem),
        "pem_bundle" => Ok(Format::Bundle),
        _ => {
            let text = "the \"format\" path parameter must be \"pem\", \"der\", or \"pem_bundle\"";
            Err(Fault::new(400, text))
        }
    }
}

pub(super) fn request(body: &Body) -> Result<CertificateSigningRequestParams, Fault> {
    let refused = |text: &str| Fault::new(400, text);
    let text = fields::text(body, "csr").filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| refused("\"csr\" is empty"))?;
    let der = from_pem(text).ok_or_else(|| refused("csr contains no data"))?;
    let parsed = CertificateSigningRequestParams::from_der(&der.into());
    parsed.map_err(|error| refused(&format!("certificate request could not be parsed: {error}")))
}

pub(super) fn common_name(request: &CertificateSigningRequestParams) -> Option<String> {
    let text = match request.params.distinguished_name.get(&DnType::CommonName)? {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.to_string(),
        DnValue::Ia5String(text) => text.to_string(),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

fn check_key(role: &Role, algorithm: &rcgen::SignatureAlgorithm) -> Result<(), Fault> {
    let wanted = role.text("key_type");
    let kinds = [
        ("ec", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ec", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ec", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("ed25519", &rcgen::PKCS_ED25519),
    ];
    let own = kinds.into_iter().find(|(_, known)| **known == *algorithm);
    let own = own.map_or_else(|| KeyKind::Rsa(0).name(), |(name, _)| name);
    if wanted == "any" || wanted == own {
        return Ok(());
    }
    Err(Fault::new(400, format!("role requires keys of type {wanted}")))
}

pub(super) fn failed() -> Fault {
    Fault::new(500, "1 error occurred:\n\t* error signing certificate\n\n")
}
