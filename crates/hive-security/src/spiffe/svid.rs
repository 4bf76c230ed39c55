//! The documents that prove who this workload is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::Error;
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::trust::workload_id;

/// An X.509-SVID: certificate chain, private key and the SPIFFE ID they prove.
pub struct X509Svid {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) private_key: SecretSlice<u8>,
    pub(crate) hint: Option<Box<str>>,
    pub(crate) valid_from: SystemTime,
    pub(crate) expires_at: SystemTime,
    /// The same, parsed once for TLS and signatures.
    pub(crate) certified: Arc<CertifiedKey>,
}

/// A JWT-SVID for one audience.
pub struct JwtSvid {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) audience: Audience,
    token: SecretString,
    pub(crate) expires_at: SystemTime,
    authorization: Option<HeaderValue>,
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
        let (valid_from, expires_at) =
            validity(leaf).ok_or_else(|| unusable(&"its validity cannot be read"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private_key));
        // Borrowed all the way, so no copy of the key is left behind.
        let key = any_supported_type(&key).map_err(|error| unusable(&error))?;
        let certified = CertifiedKey::new(chain.clone(), key);
        certified.keys_match().map_err(|error| unusable(&error))?;
        Ok(Self {
            spiffe_id,
            chain,
            private_key: SecretSlice::from(private_key.to_vec()),
            hint: None,
            valid_from,
            expires_at,
            certified: Arc::new(certified),
        })
    }

    pub(crate) fn with_hint(mut self, hint: Option<&str>) -> Self {
        self.hint = hint.map(Box::from);
        self
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

    /// How the operator told it from the workload's other X.509-SVIDs (Workload API §8).
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// When the leaf certificate begins to be valid.
    pub fn valid_from(&self) -> SystemTime {
        self.valid_from
    }

    /// When the leaf certificate expires.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

impl JwtSvid {
    pub(crate) fn new(
        spiffe_id: SpiffeId,
        audience: Audience,
        token: SecretString,
        expires_at: SystemTime,
    ) -> Self {
        let authorization = authorization(&token);
        Self { spiffe_id, audience, token, expires_at, authorization }
    }

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

    /// The value of an `authorization` header, made once for all calls; `None` if the token holds what a header cannot.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.clone()
    }
}

/// Wiped with its last clone, as the token is.
fn authorization(token: &SecretString) -> Option<HeaderValue> {
    let value = Zeroizing::new(["Bearer ", token.expose_secret()].concat().into_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).ok()?;
    // Keeps it out of `Debug` and out of HPACK's table.
    value.set_sensitive(true);
    Some(value)
}

pub(crate) fn validity(leaf: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let time =
        |seconds: i64| UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
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
