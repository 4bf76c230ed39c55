//! What is read of a mount: certificates, lists of revoked ones, and how it is configured.

use std::time::SystemTime;

use serde_json::json;

use super::authority::Authority;
use super::der::pem;
use super::{Fault, Outcome, Pki, colons, told, unknown};
use crate::vault::clock::{self, unix};

const CERTIFICATE: &str = "application/pkix-cert";
const CERTIFICATES: &str = "application/pem-certificate-chain";
const REVOCATIONS: &str = "application/pkix-crl";
const REVOCATIONS_PEM: &str = "application/x-pem-file";

impl Pki {
    pub(super) fn read(&mut self, parts: &[&str], now: SystemTime) -> Result<Outcome, Fault> {
        match *parts {
            ["ca"] => Ok(self.raw_authority(false)),
            ["ca", "pem"] => Ok(self.raw_authority(true)),
            ["ca_chain"] => {
                let mut body = self.default_chain().join("\n");
                // A root that stands alone has a break at its end.
                if self.default_or_none().is_some_and(Authority::is_root) {
                    body.push('\n');
                }
                Ok(Outcome::Raw { content_type: CERTIFICATE, body: body.into_bytes() })
            }
            ["crl"] => Ok(self.raw_revocations(false, now)),
            ["crl", "pem"] => Ok(self.raw_revocations(true, now)),
            ["crl", "rotate"] => {
                self.crl_number += 1;
                Ok(told(json!({ "success": true })))
            }
            ["cert", "ca"] => Ok(shown(&self.default_authority()?.pem())),
            ["cert", "ca_chain"] => {
                self.default_authority()?;
                let all = self.default_chain().join("\n");
                Ok(told(
                    json!({ "ca_chain": all, "certificate": all, "revocation_time": 0, "revocation_time_rfc3339": "" }),
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
            ["config", "issuers"] => Ok(told(self.shown_default())),
            ["config", "keys"] => Ok(told(self.keys.shown_default())),
            ["key", name] => self.keys.read(name),
            ["issuer", name] | ["issuer", name, "json"] => {
                let authority = self.known_authority(name)?;
                Ok(told(authority.shown(&self.chain(authority), parts.len() == 3)))
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
        let body = self.default_or_none().map(|authority| {
            if is_pem { authority.pem().into_bytes() } else { authority.certificate.clone() }
        });
        Outcome::Raw { content_type, body: body.unwrap_or_default() }
    }

    fn raw_revocations(&self, is_pem: bool, now: SystemTime) -> Outcome {
        let content_type = if is_pem { REVOCATIONS_PEM } else { REVOCATIONS };
        let der = self
            .default_or_none()
            .and_then(|authority| authority.revocations(self.revoked(), self.crl_number, now).ok());
        let body = der.map(|der| if is_pem { pem("X509 CRL", &der).into_bytes() } else { der });
        Outcome::Raw { content_type, body: body.unwrap_or_default() }
    }

    /// Of the default authority.
    pub(super) fn revoked(&self) -> Vec<(String, SystemTime)> {
        let of_default = |issued: &&super::Issued| Some(&issued.authority) == self.default.as_ref();
        let ended = self.issued.iter().filter(|(_, issued)| of_default(issued));
        ended.filter_map(|(serial, issued)| Some((serial.clone(), issued.revoked?))).collect()
    }

    fn default_chain(&self) -> Vec<String> {
        let chain = self.default_or_none().map(|own| self.chain(own)).unwrap_or_default();
        chain.into_iter().map(Authority::pem).collect()
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
