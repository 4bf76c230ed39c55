//! Certificates.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, Reply, whole_seconds};
use super::lease::Lease;
use super::route::Route;

/// A PKI engine.
#[derive(Clone, Debug)]
pub struct Pki {
    vault: VaultClient,
    mount: String,
}

/// What a certificate is asked to say.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CertificateRequest {
    /// The common name, and with the default settings of a role a DNS name as well.
    pub common_name: Option<String>,
    /// Further DNS names and addresses of mail.
    pub alt_names: Vec<String>,
    /// IP addresses.
    pub ip_sans: Vec<String>,
    /// URIs, such as a SPIFFE ID.
    pub uri_sans: Vec<String>,
    /// How long it is valid; None: as long as the role says.
    pub ttl: Option<Duration>,
}

/// A certificate without a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Who signed it, and who signed that, PEM each.
    pub chain_pem: Vec<String>,
    /// Its serial number, hexadecimal with colons.
    pub serial_number: String,
    /// When it ends, in seconds since 1970 (UTC).
    pub expires_at_s: u64,
    /// The lease, where the role makes one.
    pub lease: Option<Lease>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key, PEM.
    pub private_key_pem: SecretString,
}

impl CertificateRequest {
    /// A certificate of this common name.
    pub fn named(common_name: impl Into<String>) -> Self {
        Self { common_name: Some(common_name.into()), ..Self::default() }
    }

    fn body(&self) -> Body {
        let list = |names: &[String]| Some(names.join(",")).filter(|names| !names.is_empty());
        Body::new()
            .maybe("common_name", self.common_name.clone())
            .maybe("alt_names", list(&self.alt_names))
            .maybe("ip_sans", list(&self.ip_sans))
            .maybe("uri_sans", list(&self.uri_sans))
            .maybe("ttl", self.ttl.map(|ttl| format!("{}s", whole_seconds(ttl))))
    }
}

impl Pki {
    pub(super) fn new(vault: VaultClient, mount: &str) -> Self {
        Self { vault, mount: mount.to_owned() }
    }

    /// Has Vault make a key and a certificate for it.
    pub async fn issue(
        &self,
        token: &SecretString,
        role: &str,
        wanted: &CertificateRequest,
    ) -> Result<IssuedCertificate, VaultError> {
        let route = Route::mount(&self.mount)?.then("issue").name(role)?;
        let reply = self.post(token, route, wanted.body()).await?;
        let mut raw = reply.data::<RawCertificate>()?;
        let key = raw.private_key.take().ok_or_else(|| reply.odd("it carries no key"))?;
        Ok(IssuedCertificate { certificate: raw.into(&reply)?, private_key_pem: key })
    }

    /// Has a certificate made for the key of a certificate signing request, PEM. The key stays here.
    pub async fn sign(
        &self,
        token: &SecretString,
        role: &str,
        csr_pem: &str,
        wanted: &CertificateRequest,
    ) -> Result<Certificate, VaultError> {
        let route = Route::mount(&self.mount)?.then("sign").name(role)?;
        let reply = self.post(token, route, wanted.body().text("csr", csr_pem)).await?;
        reply.data::<RawCertificate>()?.into(&reply)
    }

    /// Puts a certificate on the list of those that are revoked.
    pub async fn revoke(
        &self,
        token: &SecretString,
        serial_number: &str,
    ) -> Result<(), VaultError> {
        let route = Route::mount(&self.mount)?.then("revoke");
        let body = Body::new().text("serial_number", serial_number);
        self.post(token, route, body).await.map(drop)
    }

    /// The certificates of the authority and of those above it, PEM, one after the other. Anyone may ask.
    pub async fn ca_chain(&self) -> Result<String, VaultError> {
        self.certificate("ca_chain").await
    }

    /// The list of revoked certificates, PEM. Anyone may ask.
    pub async fn crl(&self) -> Result<String, VaultError> {
        self.certificate("crl").await
    }

    async fn certificate(&self, what: &str) -> Result<String, VaultError> {
        #[derive(Deserialize)]
        struct Raw {
            certificate: String,
        }
        let route = Route::mount(&self.mount)?.then("cert").name(what)?;
        let call = Call::new(Operation::Pki, Method::GET, route);
        Ok(self.vault.call(call).await?.data::<Raw>()?.certificate)
    }

    async fn post(
        &self,
        token: &SecretString,
        route: Route,
        body: Body,
    ) -> Result<Reply, VaultError> {
        let call = Call::new(Operation::Pki, Method::POST, route).token(token);
        self.vault.call(call.body(body.bytes())).await
    }
}

#[derive(Deserialize)]
struct RawCertificate {
    certificate: String,
    #[serde(default)]
    ca_chain: Option<Vec<String>>,
    #[serde(default)]
    issuing_ca: String,
    serial_number: String,
    #[serde(default)]
    expiration: u64,
    #[serde(default)]
    private_key: Option<SecretString>,
}

impl RawCertificate {
    fn into(self, reply: &Reply) -> Result<Certificate, VaultError> {
        let chain = self.ca_chain.filter(|chain| !chain.is_empty());
        Ok(Certificate {
            certificate_pem: self.certificate,
            chain_pem: chain.unwrap_or_else(|| vec![self.issuing_ca]),
            serial_number: self.serial_number,
            expires_at_s: self.expiration,
            lease: reply.envelope()?.lease(),
        })
    }
}
