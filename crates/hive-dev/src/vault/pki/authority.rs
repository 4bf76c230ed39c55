//! An authority: a certificate, and the key for it if that is here.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der::{pem, private_key};
use super::issue::{Names, complete_subject, new_serial, params, warn_of_ttl};
use super::keys::Key;
use super::{Body, Fault, Frame, Issued, Outcome, Pki};
use crate::vault::clock::unix;
use crate::vault::fields;
use crate::vault::reply::random_uuid;

const REVOCATIONS_VALID: Duration = Duration::from_secs(72 * 3600);
pub(super) const BACKDATED: Duration = Duration::from_secs(30);
pub(super) const NO_URLS: &str = "This mount hasn't configured any authority information access (AIA) fields; this may make it harder for systems to find missing certificates in the chain or to validate revocation status of certificates. Consider updating /config/urls or the newly generated issuer with this information.";

/// An authority, which signs if its key is here.
pub(super) struct Authority {
    pub(super) id: String,
    pub(super) name: String,
    /// Empty where the key is elsewhere.
    pub(super) key_id: String,
    /// How lists of revoked certificates are signed; empty for one that came from elsewhere.
    signature: &'static str,
    pub(super) serial: String,
    pub(super) certificate: Vec<u8>,
    pub(super) not_after: SystemTime,
    subject: Vec<u8>,
    signed_by: Vec<u8>,
    issuer: Option<Issuer<'static, KeyPair>>,
}

impl Pki {
    /// `root/generate/internal` and `exported`
    pub(super) fn generate(
        &mut self,
        kind: &str,
        body: &Body,
        frame: Frame,
    ) -> Result<Outcome, Fault> {
        if !["exported", "internal"].contains(&kind) {
            let text = "the \"exported\" path parameter must be \"internal\", \"existing\", exported\" or \"kms\"";
            return Err(Fault::new(400, text));
        }
        let key = Key::generate(body)?;
        let name = fields::text(body, "issuer_name").unwrap_or_default();
        if !name.is_empty() && self.authorities.iter().any(|own| own.name == name) {
            return Err(Fault::new(400, "issuer name already in use"));
        }
        let asked = fields::duration(body, "ttl")?.unwrap_or(frame.default_ttl);
        let mut warnings = warn_of_ttl(asked, frame.max_ttl);
        let ttl = asked.min(frame.max_ttl);
        let certificate = self_signed(&key, body, frame.now, ttl)?;
        let mut authority = Authority::of(&certificate, Some(&key)).ok_or_else(failed)?;
        authority.name = name.to_owned();
        authority.signature = key.kind.signature();
        warnings.extend(self.lacks_urls());
        let mut data = json!({
            "certificate": authority.pem(),
            "expiration": unix(authority.not_after),
            "issuer_id": authority.id,
            "issuer_name": authority.name,
            "issuing_ca": authority.pem(),
            "key_id": key.id,
            "key_name": key.name,
            "serial_number": authority.serial,
        });
        if kind == "exported" {
            let (label, private) = private_key(&key.pair()?, key.kind, false).ok_or_else(failed)?;
            data["private_key"] = json!(pem(label, &private));
            data["private_key_type"] = json!(key.kind.name());
        }
        self.keys.add(key)?;
        let (der, by) = (authority.certificate.clone(), authority.id.clone());
        let issued = Issued { der, authority: by, revoked: None };
        self.issued.insert(authority.serial.clone(), issued);
        self.add_authority(authority);
        Ok(Outcome::Told { data, warnings })
    }

    /// The real server's remark on certificates that do not say where more is to be found.
    pub(super) fn lacks_urls(&self) -> Option<String> {
        self.urls.values().all(Vec::is_empty).then(|| NO_URLS.to_owned())
    }
}

fn failed() -> Fault {
    super::issue::failed()
}

fn self_signed(key: &Key, body: &Body, now: SystemTime, ttl: Duration) -> Result<Vec<u8>, Fault> {
    let (bytes, _) = new_serial();
    let names = Names::given(body)?;
    let mut params = params(&names, now - BACKDATED, now + ttl, &bytes)?;
    complete_subject(&mut params, |member| {
        fields::strings(body, member).and_then(|all| all.into_iter().next())
    });
    let length = fields::number(body, "max_path_length")?;
    be_authority(&mut params, length);
    let signed = params.self_signed(&key.pair()?).map_err(|_| failed())?;
    Ok(signed.der().to_vec())
}

/// Of one that may sign, and below which there may be so many more.
pub(super) fn be_authority(params: &mut CertificateParams, length: Option<i64>) {
    let length = length.and_then(|length| u8::try_from(length).ok());
    let limit = length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
    params.is_ca = IsCa::Ca(limit);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

impl Authority {
    /// The one with this certificate, DER. None: it is not one of an authority.
    pub(super) fn of(certificate: &[u8], key: Option<&Key>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        if !parsed.is_ca() {
            return None;
        }
        let not_after = u64::try_from(parsed.validity.not_after.timestamp()).ok()?;
        let issuer = match key {
            Some(key) => {
                let der = certificate.into();
                Some(Issuer::from_ca_cert_der(&der, key.pair().ok()?).ok()?)
            }
            None => None,
        };
        let serial = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}"));
        Some(Self {
            id: random_uuid(),
            name: String::new(),
            key_id: key.map(|key| key.id.clone()).unwrap_or_default(),
            signature: "",
            serial: serial.collect::<Vec<_>>().join(":"),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after),
            subject: parsed.subject.as_raw().to_vec(),
            signed_by: parsed.issuer.as_raw().to_vec(),
            issuer,
            certificate: certificate.to_vec(),
        })
    }

    pub(super) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub(super) fn signs(&self) -> bool {
        self.issuer.is_some()
    }

    pub(super) fn is_root(&self) -> bool {
        self.is_signed_by(self)
    }

    /// As far as the names go.
    pub(super) fn is_signed_by(&self, other: &Self) -> bool {
        self.signed_by == other.subject
    }

    /// Signs for somebody else.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<Vec<u8>, Fault> {
        let issuer = self.issuer.as_ref().ok_or_else(failed)?;
        let signed = params.signed_by(key, issuer);
        signed.map(|certificate| certificate.der().to_vec()).map_err(|_| failed())
    }

    /// The list of what was taken back, DER.
    pub(super) fn revocations(
        &self,
        revoked: Vec<(String, SystemTime)>,
        number: u64,
        now: SystemTime,
    ) -> Result<Vec<u8>, Fault> {
        let revoked = revoked.into_iter().map(|(serial, at)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial_bytes(&serial)),
            revocation_time: at.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + REVOCATIONS_VALID).into(),
            crl_number: SerialNumber::from(number + 1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(self.issuer.as_ref().ok_or_else(failed)?);
        Ok(signed.map_err(|_| failed())?.der().to_vec())
    }

    pub(super) fn summary(&self, is_default: bool) -> Value {
        json!({
            "is_default": is_default,
            "issuer_name": self.name,
            "key_id": self.key_id,
            "serial_number": self.serial,
        })
    }

    /// Read with a token; without one, only the certificates are shown.
    pub(super) fn shown(&self, chain: &[&Self], is_brief: bool) -> Value {
        let pem = self.pem();
        let chain: Vec<_> = chain.iter().map(|one| format!("{}\n", one.pem())).collect();
        if is_brief {
            return json!({
                "ca_chain": chain,
                "certificate": format!("{pem}\n"),
                "issuer_id": self.id,
                "issuer_name": self.name,
            });
        }
        json!({
            "ca_chain": chain,
            "certificate": format!("{pem}\n"),
            "crl_distribution_points": [],
            "delta_crl_distribution_points": [],
            "issuer_id": self.id,
            "issuer_name": self.name,
            "issuing_certificates": [],
            "key_id": self.key_id,
            "leaf_not_after_behavior": "err",
            "manual_chain": null,
            "ocsp_servers": [],
            "revocation_signature_algorithm": self.signature,
            "revoked": false,
            "usage": "crl-signing,issuing-certificates,ocsp-signing,read-only",
        })
    }
}

fn serial_bytes(serial: &str) -> Vec<u8> {
    serial.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}
