//! Authorities below another: asking for a certificate, signing for one, taking in what was signed.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{CustomExtension, DistinguishedName};
use serde_json::{Value, json};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::authority::{Authority, BACKDATED, NO_URLS, be_authority};
use super::der::{pem, private_key};
use super::issue::{
    Format, Names, common_name, complete_subject, failed, format, new_serial, params, request,
    warn_of_ttl,
};
use super::keys::Key;
use super::{Body, Fault, Frame, Issued, Outcome, Pki};
use crate::vault::clock::unix;
use crate::vault::fields;

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
/// A sequence that says: an authority.
const IS_AUTHORITY: [u8; 5] = [0x30, 3, 1, 1, 0xff];
const OUTLIVES: &str = "The expiration time for the signed certificate is after the CA's expiration time. If the new certificate is not treated as a root, validation paths with the certificate past the issuing CA's expiration time will fail.";
const IS_LAST: &str = "Max path length of the signed certificate is zero. This certificate cannot be used to issue intermediate CA certificates.";
/// No certificate is shorter than this.
const CERTIFICATE_MIN: usize = 75;

impl Pki {
    /// `intermediate/generate/<kind>`: a key, and a request for a certificate for it.
    pub(super) fn generate_request(&mut self, kind: &str, body: &Body) -> Result<Outcome, Fault> {
        let (names, format) = (Names::given(body)?, format(body)?);
        let made;
        let key = match kind {
            "existing" => self.existing_key(body)?,
            _ => {
                check_kind(kind)?;
                made = Key::generate(body)?;
                self.keys.add(made)?
            }
        };
        let csr = signing_request(key, &names, body)?;
        let (id, pair, kind_of_key) = (key.id.clone(), key.pair()?, key.kind);
        let shown = |label: &str, der: &[u8]| match format {
            Format::Der => BASE64_STANDARD.encode(der),
            Format::Bundle | Format::Pem => pem(label, der),
        };
        let csr = shown("CERTIFICATE REQUEST", &csr);
        let mut data = json!({ "csr": csr, "key_id": id });
        if kind == "exported" {
            let (label, private) = private_key(&pair, kind_of_key, false).ok_or_else(failed)?;
            let private = Zeroizing::new(shown(label, &private));
            if format == Format::Bundle {
                data["csr"] = json!(format!("{}\n{csr}", *private));
            }
            data["private_key"] = json!(*private);
            data["private_key_type"] = json!(kind_of_key.name());
        }
        let text = format!(
            "{NO_URLS} Since this certificate is an intermediate, it might be useful to regenerate this certificate after fixing this problem for the root mount."
        );
        let warnings = self.lacks_urls().map(|_| text).into_iter().collect();
        Ok(Outcome::Told { data, warnings })
    }

    fn existing_key(&self, body: &Body) -> Result<&Key, Fault> {
        if body.contains_key("key_type") || body.contains_key("key_bits") {
            let text = "invalid parameter for the kms/existing path parameter, key_type nor key_bits arguments can be set in this mode";
            return Err(Fault::new(400, text));
        }
        let name = fields::text(body, "key_ref").unwrap_or("default");
        let missing = || {
            let text = format!(
                "failed to lookup public key from existing key: unable to find PKI key for reference: {name}"
            );
            Fault::new(400, text)
        };
        self.keys.find(name).ok_or_else(missing)
    }

    /// `root/sign-intermediate` and `issuer/<name>/sign-intermediate`
    pub(super) fn sign_intermediate(
        &mut self,
        name: &str,
        body: &Body,
        frame: Frame,
    ) -> Result<Outcome, Fault> {
        let (format, request) = (format(body)?, request(body)?);
        let authority = self.signer(name)?;
        let takes_all = fields::flag(body, "use_csr_values") == Some(true);
        let names = if takes_all {
            Names::of_request(&request)
        } else {
            Names::given_or(body, common_name(&request))?
        };
        let asked = fields::duration(body, "ttl")?.unwrap_or(frame.default_ttl);
        let not_after = frame.now + asked.min(frame.max_ttl);
        let (bytes, serial) = new_serial();
        let mut params = params(&names, frame.now - BACKDATED, not_after, &bytes)?;
        if takes_all {
            let subject: &DistinguishedName = &request.params.distinguished_name;
            params.distinguished_name = subject.clone();
        } else {
            complete_subject(&mut params, |member| {
                fields::strings(body, member).and_then(|all| all.into_iter().next())
            });
        }
        let length = fields::number(body, "max_path_length")?;
        be_authority(&mut params, length);
        self.add_urls(&mut params);
        let der = authority.sign(&params, &request.public_key)?;
        let chain: Vec<_> = self.chain(authority).iter().map(|own| &own.certificate).collect();
        let data = answer(format, &der, &chain, unix(not_after), &serial);
        let mut warnings = warn_of_ttl(asked, frame.max_ttl);
        if not_after > authority.not_after {
            warnings.push(OUTLIVES.to_owned());
        }
        warnings.extend(self.lacks_urls());
        if length == Some(0) {
            warnings.push(IS_LAST.to_owned());
        }
        let issued = Issued { der, authority: authority.id.clone(), revoked: None };
        self.issued.insert(serial, issued);
        Ok(Outcome::Told { data, warnings })
    }

    /// `intermediate/set-signed`: certificates for keys that are here, and those above them.
    pub(super) fn set_signed(&mut self, body: &Body) -> Result<Outcome, Fault> {
        let refused = |text: &str| Fault::new(400, text);
        let text = fields::text(body, "certificate").unwrap_or_default();
        if text.is_empty() {
            return Err(refused("'pem_bundle' and 'certificate' parameters were empty"));
        }
        if text.len() < CERTIFICATE_MIN {
            return Err(refused(
                "provided data for import was too short; perhaps a path was passed to the API rather than the contents of a PEM file",
            ));
        }
        let (mut existing, mut imported) = (Vec::new(), Vec::new());
        let mut mapping = json!({});
        for certificate in certificates(text)? {
            let known = self.authorities.iter().find(|own| own.certificate == certificate.der);
            let (id, key_id) = match known {
                Some(known) => {
                    existing.push(known.id.clone());
                    (known.id.clone(), known.key_id.clone())
                }
                None => {
                    let key = self.keys.of(&certificate.public);
                    let authority = Authority::of(&certificate.der, key).ok_or_else(failed)?;
                    let both = (authority.id.clone(), authority.key_id.clone());
                    imported.push(authority.id.clone());
                    self.add_authority(authority);
                    both
                }
            };
            mapping[id] = json!(key_id);
        }
        let or_null = |ids: Vec<String>| if ids.is_empty() { Value::Null } else { json!(ids) };
        let data = json!({
            "existing_issuers": or_null(existing),
            "existing_keys": null,
            "imported_issuers": or_null(imported),
            "imported_keys": null,
            "mapping": mapping,
        });
        Ok(Outcome::Told { data, warnings: self.lacks_urls().into_iter().collect() })
    }
}

fn check_kind(kind: &str) -> Result<(), Fault> {
    match kind {
        "exported" | "internal" => Ok(()),
        "kms" => {
            let text = "must specify \"external_key_ref\" on \"kms\"-typed generation requests";
            Err(Fault::new(400, text))
        }
        _ => {
            let text = "the \"exported\" path parameter must be \"internal\", \"existing\", exported\" or \"kms\"";
            Err(Fault::new(400, text))
        }
    }
}

fn signing_request(key: &Key, names: &Names, body: &Body) -> Result<Vec<u8>, Fault> {
    let (bytes, _) = new_serial();
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    let mut params = params(names, epoch, epoch, &bytes)?;
    // Whoever signs it gives it a number.
    params.serial_number = None;
    complete_subject(&mut params, |member| {
        fields::strings(body, member).and_then(|all| all.into_iter().next())
    });
    if fields::flag(body, "add_basic_constraints") == Some(true) {
        let mut extension =
            CustomExtension::from_oid_content(BASIC_CONSTRAINTS, IS_AUTHORITY.to_vec());
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    }
    let made = params.serialize_request(&key.pair()?);
    made.map(|request| request.der().to_vec()).map_err(|_| failed())
}

fn answer(format: Format, own: &[u8], above: &[&Vec<u8>], expiration: u64, serial: &str) -> Value {
    let shown = |der: &[u8]| match format {
        Format::Der => BASE64_STANDARD.encode(der),
        Format::Bundle | Format::Pem => pem("CERTIFICATE", der),
    };
    let above: Vec<_> = above.iter().map(|der| shown(der)).collect();
    let chain: Vec<_> = std::iter::once(shown(own)).chain(above.iter().cloned()).collect();
    let certificate = if format == Format::Bundle { chain.join("\n") } else { shown(own) };
    json!({
        "ca_chain": chain,
        "certificate": certificate,
        "expiration": expiration,
        "issuing_ca": above.first(),
        "serial_number": serial,
    })
}

/// A certificate of an authority, and the public key in it.
struct Certificate {
    der: Vec<u8>,
    public: Vec<u8>,
}

fn certificates(text: &str) -> Result<Vec<Certificate>, Fault> {
    let refused = |text: String| Fault::new(400, text);
    let blocks: Result<Vec<_>, _> = Pem::iter_from_buffer(text.as_bytes()).collect();
    let blocks = blocks.ok().filter(|blocks| !blocks.is_empty());
    let no_pem = || refused("error when parsing block 1: invalid PEM data".to_owned());
    let read = |(at, block): (usize, Pem)| {
        let wrong = |why: &str| {
            let shown = pem(&block.label, &block.contents);
            refused(format!("Error parsing issuer {at}: {why}\n{shown}\n"))
        };
        if block.label.ends_with("PRIVATE KEY") {
            let text = "private keys found in the PEM bundle but not allowed by the path; use /issuers/import/bundle";
            return Err(refused(text.to_owned()));
        }
        let (_, parsed) = X509Certificate::from_der(&block.contents)
            .map_err(|_| wrong("x509: malformed certificate"))?;
        if !parsed.is_ca() {
            return Err(wrong("Refusing to import non-CA certificate"));
        }
        let public = parsed.public_key().subject_public_key.data.to_vec();
        Ok(Certificate { der: block.contents.clone(), public })
    };
    blocks.ok_or_else(no_pem)?.into_iter().enumerate().map(read).collect()
}
