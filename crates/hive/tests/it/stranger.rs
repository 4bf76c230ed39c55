//! A client that has no identity and does not care who the server is.

use crate::harness::{Place, Up};
use hive_api::orchestrator::ListPlansRequest;
use hive_api::orchestrator::plans_client::PlansClient;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// The opposite of what every client of ours does.
#[derive(Debug)]
struct TrustEverybody;

impl ServerCertVerifier for TrustEverybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn connect(address: SocketAddr) -> Channel {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is supported")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustEverybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let dial = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::from(address.ip());
            std::io::Result::Ok(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://orchestrator");
    endpoint.connect_with_connector(dial).await.expect("the handshake itself succeeds")
}

#[test]
fn a_call_without_identity_is_unauthenticated_and_says_what_is_missing() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let address = up.environment["HIVE_ORCHESTRATOR_ADDR"].trim_start_matches("https://");
    let address = address.parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut plans = PlansClient::new(connect(address).await);
        let refused = plans.list(ListPlansRequest { limit: 1 }).await.expect_err("nobody may list");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("X.509-SVID"), "{}", refused.message());

        let mut request = Request::new(ListPlansRequest { limit: 1 });
        let token = "Bearer e30.e30.e30".parse().expect("a header");
        request.metadata_mut().insert("authorization", token);
        let refused = plans.list(request).await.expect_err("a token alone is not enough");
        assert_eq!(refused.code(), Code::Unauthenticated);
    });
    assert_eq!(up.stop(), Some(0));
}
