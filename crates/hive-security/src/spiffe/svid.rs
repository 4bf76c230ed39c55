//! The documents that prove who this workload is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::{SecretSlice, SecretString};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::Error;
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::trust::workload_id;

/// An X.509-SVID: certificate chain, private key and the SPIFFE ID they prove.
pub struct X509Svid {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) private_key: SecretSlice<u8>,
    pub(crate) expires_at: SystemTime,
    /// The same, parsed once for TLS and signatures.
    pub(crate) certified: Arc<CertifiedKey>,
}

/// A JWT-SVID for one audience.
pub struct JwtSvid {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) audience: Audience,
    pub(crate) token: SecretString,
    pub(crate) expires_at: SystemTime,
}

impl X509Svid {
    /// Takes over what the Workload API sent, if the key fits the certificate and TLS can use both.
    pub(crate) fn from_der(
        chain: Vec<CertificateDer<'static>>,
        private_key: &[u8],
    ) -> Result<Self, Error> {
        let unusable =
            |reason: &dyn fmt::Display| Error::UnusableSvid { reason: reason.to_string() };
        let leaf = chain.first().ok_or_else(|| unusable(&"it has no certificate"))?;
        let spiffe_id = workload_id(leaf).map_err(|refusal| unusable(&refusal))?;
        let expires_at = expiry(leaf).ok_or_else(|| unusable(&"its expiry cannot be read"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private_key));
        // Borrowed all the way, so no copy of the key is left behind.
        let key = any_supported_type(&key).map_err(|error| unusable(&error))?;
        let certified = CertifiedKey::new(chain.clone(), key);
        certified.keys_match().map_err(|error| unusable(&error))?;
        Ok(Self {
            spiffe_id,
            chain,
            private_key: SecretSlice::from(private_key.to_vec()),
            expires_at,
            certified: Arc::new(certified),
        })
    }

    /// Who it proves the holder to be.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The certificates, leaf first.
    pub fn certificate_chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key, PKCS#8 DER.
    pub fn private_key(&self) -> &SecretSlice<u8> {
        &self.private_key
    }

    /// When the leaf certificate expires.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

impl JwtSvid {
    /// Who it proves the bearer to be.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// Whom it is meant for.
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    /// The token itself, to be sent to the audience and to nobody else.
    pub fn token(&self) -> &SecretString {
        &self.token
    }

    /// When it expires by this machine's clock.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
