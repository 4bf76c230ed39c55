//! TLS before the API: who a client is, is for an auth method to say; that it holds its key is for the handshake.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Error;
use super::setup::{Tls, TlsIdentity};
use crate::web::Web;

/// The name of the authority that vouches for a vault to which no certificate was given.
const AUTHORITY: &str = "Neural Hive development vault authority";

/// What a client has to trust, PEM, unless that was given; and what shakes hands.
pub(super) fn acceptor(tls: &Tls) -> Result<(Option<String>, TlsAcceptor), Error> {
    let (authority, chain, key) = match &tls.identity {
        Some(identity) => {
            let (chain, key) = given(identity)?;
            (None, chain, key)
        }
        None => {
            let web = Web::new(AUTHORITY).map_err(|_| refused("none could be made"))?;
            (Some(web.authority), vec![web.certificate], web.key)
        }
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyClient::new(&provider));
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| refused("this build has no TLS"))?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|_| refused("the key does not belong to the certificate"))?;
    // A resumed session would go on with the certificate of the first one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((authority, Arc::new(config).into()))
}

fn given(
    identity: &TlsIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
    let chain: Result<Vec<_>, _> = chain.collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| refused("the certificate is not PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes());
    Ok((chain, key.map_err(|_| refused("the key is not PEM"))?))
}

fn refused(why: &'static str) -> Error {
    Error::Certificate { why }
}

/// Asks for a certificate, demands none, and takes any whose key the client has proved to hold.
#[derive(Debug)]
struct AnyClient(WebPkiSupportedAlgorithms);

impl AnyClient {
    fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    /// With the bare key, for a certificate that says what nobody understands is the auth method's to refuse.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
