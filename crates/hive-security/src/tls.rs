//! TLS between workloads, with X.509-SVIDs on both sides.
//!
//! A config is made once and stays current: the SVID and the bundles are read at every handshake. Only TLS 1.3
//! is spoken unless [`Versions`] says otherwise, and sessions are never resumed, for a resumed session would
//! skip the check of the certificate after its authority was removed from the bundle.
//!
//! [`accept`] and [`connect`] are TLS over any stream, for protocols that bring no layers of their own.

mod gathered;
mod streams;

use std::sync::Arc;

pub(crate) use self::gathered::Gathered;
pub use self::streams::{accept, connect};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::spiffe::trust::{Usage, X509Trust};
use crate::{Error, IdPattern, Refusal, Workload};

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Versions {
    /// TLS 1.3 only, as everywhere in this crate.
    Tls13,
    /// Also TLS 1.2, for peers that have nothing newer. It is weaker: certificates, and so SPIFFE IDs, travel
    /// in the clear. The extended master secret (RFC 7627) is required.
    DangerTls12Too,
}

/// TLS for a server.
///
/// It asks for the client's X.509-SVID and verifies the one that is sent; it does not insist, so that a caller
/// without one can be told so in the protocol spoken above (see [`serve`](crate::serve)).
pub fn server_config(workload: &Workload) -> Result<Arc<ServerConfig>, Error> {
    server_config_for(workload, Versions::Tls13)
}

/// TLS of these versions for a server; else as [`server_config`].
pub fn server_config_for(
    workload: &Workload,
    versions: Versions,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.of_rustls())
        .map_err(Error::tls)?
        .with_client_cert_verifier(Verifier::new(Authorities::Current(workload.clone()), None))
        .with_cert_resolver(Arc::new(CurrentSvid(workload.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.require_ems = true;
    Ok(Arc::new(config))
}

/// TLS for a client of the servers that `server` matches; the client presents its X.509-SVID.
///
/// The name in the address is not looked at: a server is known by its SPIFFE ID.
pub fn client_config(workload: &Workload, server: IdPattern) -> Result<Arc<ClientConfig>, Error> {
    client_config_for(workload, server, Versions::Tls13)
}

/// TLS of these versions for a client; else as [`client_config`].
pub fn client_config_for(
    workload: &Workload,
    server: IdPattern,
    versions: Versions,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.of_rustls())
        .map_err(Error::tls)?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(
            Authorities::Current(workload.clone()),
            Some(server),
        ))
        .with_client_cert_resolver(Arc::new(CurrentSvid(workload.clone())));
    config.resumption = Resumption::disabled();
    config.require_ems = true;
    // SVIDs do not depend on the name that was dialled, so there is no need to send it in the clear.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The certificate of a client that is configured piece by piece: this workload's X.509-SVID, read at every handshake.
///
/// For clients that take no whole config, such as the Temporal SDK; elsewhere [`client_config`] forgets nothing.
pub fn client_cert_resolver(workload: &Workload) -> Arc<dyn ResolvesClientCert> {
    Arc::new(CurrentSvid(workload.clone()))
}

/// What such a client verifies servers with: their X.509-SVID, by the bundles of the moment, must be one of `server`.
pub fn server_cert_verifier(workload: &Workload, server: IdPattern) -> Arc<dyn ServerCertVerifier> {
    Verifier::new(Authorities::Current(workload.clone()), Some(server))
}

static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
static TLS13_AND_12: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

impl Versions {
    fn of_rustls(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls13 => &TLS13,
            Self::DangerTls12Too => &TLS13_AND_12,
        }
    }
}

/// The one cryptography, named wherever it is needed: a process-wide default could be anyone's.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The sentence inside a TLS error, where one of our verifiers refused; else what rustls says.
pub(crate) fn explain(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))) => {
            refusal.to_string()
        }
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

/// Presents the SVID of the moment, or nothing once it was withdrawn.
#[derive(Debug)]
pub(crate) struct CurrentSvid(Workload);

impl CurrentSvid {
    pub(crate) fn of(workload: Workload) -> Self {
        Self(workload)
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let svid = self.0.x509_svid();
        let svid = svid.inspect_err(
            |error| tracing::warn!(%error, "a handshake fails for want of an X.509-SVID"),
        );
        svid.ok().map(|svid| Arc::clone(&svid.certified))
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies the other side's X.509-SVID.
#[derive(Debug)]
pub(crate) struct Verifier {
    authorities: Authorities,
    /// Who the server must be; a client may be anyone, for what it may do is decided for each call.
    server: Option<IdPattern>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whose word is taken.
#[derive(Debug)]
pub(crate) enum Authorities {
    /// Those that the workload knows at each handshake.
    Current(Workload),
    /// These, however long the config is used.
    Fixed(X509Trust),
}

impl Verifier {
    pub(crate) fn new(authorities: Authorities, server: Option<IdPattern>) -> Arc<Self> {
        let algorithms = provider().signature_verification_algorithms;
        Arc::new(Self { authorities, server, algorithms })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let seen = match &self.authorities {
            Authorities::Current(workload) => {
                workload.verify_certificate(leaf, intermediates, usage, now)
            }
            Authorities::Fixed(trust) => trust.verify(leaf, intermediates, usage, now),
        };
        let seen = seen.map_err(refused)?;
        match &self.server {
            Some(expected) if !expected.matches(&seen) => {
                Err(refused(Refusal::UnexpectedIdentity { expected: expected.clone(), seen }))
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Usage::Server, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Usage::Client, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(refusal: Refusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

#[cfg(test)]
mod tests;
