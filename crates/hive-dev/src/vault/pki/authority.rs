//! The authority itself: a self-signed certificate and its key.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};

use super::der::{pem, private_key};
use super::issue::{Names, complete_subject, new_serial, params, warn_of_ttl};
use super::role::KeyKind;
use super::{Body, Fault, Frame, Issued, Outcome, Pki};
use crate::vault::clock::unix;
use crate::vault::fields;
use crate::vault::reply::random_uuid;

const REVOCATIONS_VALID: Duration = Duration::from_secs(72 * 3600);
const BACKDATED: Duration = Duration::from_secs(30);
const NO_URLS: &str = "This mount hasn't configured any authority information access (AIA) fields; this may make it harder for systems to find missing certificates in the chain or to validate revocation status of certificates. Consider updating /config/urls or the newly generated issuer with this information.";

/// An authority, which signs.
pub(super) struct Authority {
    pub(super) id: String,
    pub(super) name: String,
    key_id: String,
    key: KeyKind,
    pub(super) serial: String,
    pub(super) certificate: Vec<u8>,
    pub(super) not_after: SystemTime,
    pub(super) issuer: Issuer<'static, KeyPair>,
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
        let bits = fields::number(body, "key_bits")?.unwrap_or(0);
        let key = KeyKind::parse(fields::text(body, "key_type").unwrap_or("rsa"), bits)?;
        let name = fields::text(body, "issuer_name").unwrap_or_default();
        if !name.is_empty() && self.authorities.iter().any(|own| own.name == name) {
            return Err(Fault::new(400, "issuer name already in use"));
        }
        let asked = fields::duration(body, "ttl")?.unwrap_or(frame.default_ttl);
        let mut warnings = warn_of_ttl(asked, frame.max_ttl);
        let ttl = asked.min(frame.max_ttl);
        let (authority, private) = Authority::new(name, key, body, frame.now, ttl)?;
        if self.urls.values().all(Vec::is_empty) {
            warnings.push(NO_URLS.to_owned());
        }
        let mut data = json!({
            "certificate": authority.pem(),
            "expiration": unix(authority.not_after),
            "issuer_id": authority.id,
            "issuer_name": authority.name,
            "issuing_ca": authority.pem(),
            "key_id": authority.key_id,
            "key_name": fields::text(body, "key_name").unwrap_or_default(),
            "serial_number": authority.serial,
        });
        if kind == "exported" {
            data["private_key"] = json!(private);
            data["private_key_type"] = json!(key.name());
        }
        let issued = Issued {
            der: authority.certificate.clone(),
            authority: authority.id.clone(),
            revoked: None,
        };
        self.issued.insert(authority.serial.clone(), issued);
        self.authorities.push(authority);
        Ok(Outcome::Told { data, warnings })
    }

    /// As it is looked up by its own path.
    pub(super) fn known_authority(&self, name: &str) -> Result<&Authority, Fault> {
        if name != "default" && self.authority(name).is_err() {
            let text = format!("unable to find PKI issuer for reference: {name}");
            return Err(Fault::listed(500, &text));
        }
        self.authority(name)
    }
}

impl Authority {
    /// And its private key, as PEM.
    fn new(
        name: &str,
        kind: KeyKind,
        body: &Body,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<(Self, String), Fault> {
        let failed = |_| super::issue::failed();
        let key = kind.generate().map_err(failed)?;
        let (bytes, serial) = new_serial();
        let names = Names::of_authority(body)?;
        let mut params = params(&names, now - BACKDATED, now + ttl, &bytes)?;
        complete_subject(&mut params, |member| {
            fields::strings(body, member).and_then(|all| all.into_iter().next())
        });
        let length = fields::number(body, "max_path_length")?;
        let length = length.and_then(|length| u8::try_from(length).ok());
        params.is_ca =
            IsCa::Ca(length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?.der().to_vec();
        let (label, private) = private_key(&key, kind, false).ok_or_else(super::issue::failed)?;
        let authority = Self {
            id: random_uuid(),
            name: name.to_owned(),
            key_id: random_uuid(),
            key: kind,
            serial,
            certificate,
            not_after: now + ttl,
            issuer: Issuer::new(params, key),
        };
        Ok((authority, pem(label, &private)))
    }

    pub(super) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Signs for somebody else.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<Vec<u8>, Fault> {
        let signed = params.signed_by(key, &self.issuer);
        signed.map(|certificate| certificate.der().to_vec()).map_err(|_| super::issue::failed())
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
        let signed = params.signed_by(&self.issuer).map_err(|_| super::issue::failed())?;
        Ok(signed.der().to_vec())
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
    pub(super) fn shown(&self, is_brief: bool) -> Value {
        let pem = self.pem();
        let chain = [format!("{pem}\n")];
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
            "revocation_signature_algorithm": self.key.signature(),
            "revoked": false,
            "usage": "crl-signing,issuing-certificates,ocsp-signing,read-only",
        })
    }
}

fn serial_bytes(serial: &str) -> Vec<u8> {
    serial.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}
