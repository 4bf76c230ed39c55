//! How the client trusts Vault, and who it says that it is.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::error::VaultError;
use crate::Workload;
use crate::tls::CurrentSvid;

/// The CA given and no other: the machine's own roots have no say about Vault.
pub(super) fn settings(
    ca_pem: Option<&str>,
    identity: Option<&Workload>,
) -> Result<ClientConfig, VaultError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.unwrap_or_default().as_bytes()) {
        let certificate = certificate.map_err(|_| config("a CA file that is not PEM"))?;
        roots
            .add(certificate)
            .map_err(|_| config("a CA file with a certificate that cannot be read"))?;
    }
    if ca_pem.is_some() && roots.is_empty() {
        return Err(config("a CA file without any certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|_| config("the TLS versions of this build"))?;
    let builder = builder.with_root_certificates(roots);
    let Some(workload) = identity else { return Ok(builder.with_no_client_auth()) };
    let mut settings =
        builder.with_client_cert_resolver(Arc::new(CurrentSvid::of(workload.clone())));
    // A resumed session would go on with the certificate of the first one.
    settings.resumption = Resumption::disabled();
    Ok(settings)
}

pub(super) fn checked_base(address: &str, has_ca: bool) -> Result<Url, VaultError> {
    let url = Url::parse(address)
        .map_err(|_| config("an address that is no URL: write http://127.0.0.1:8200"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(config("an address that holds a user name or password: remove it"));
    }
    match url.scheme() {
        "https" if has_ca => Ok(url),
        "https" => Err(config(
            "an https address without a CA: name the PEM file that Vault's certificate comes from",
        )),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(config(
            "plain http to another host: tokens would travel in the clear, use https and a CA",
        )),
        _ => Err(config("an address that is neither http nor https")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn config(what: &str) -> VaultError {
    VaultError::Config { what: what.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{HandshakeKind, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::testing::Authority;
    use crate::tls::{Authorities, Verifier, provider};

    /// A server that would resume sessions, and a client that is given its certificate as the CA.
    fn both_ends(workload: &Workload) -> (TlsAcceptor, TlsConnector) {
        let made = rcgen::generate_simple_self_signed(["vault.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let clients = Verifier::new(Authorities::Current(workload.clone()), None);
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let text = STANDARD.encode(made.cert.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let client = settings(Some(&pem), Some(workload)).unwrap();
        (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)))
    }

    /// How the server saw one connection, and how many certificates it was shown.
    async fn meet(
        server: &TlsAcceptor,
        client: &TlsConnector,
        name: &'static str,
    ) -> std::io::Result<(Option<HandshakeKind>, usize)> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name).unwrap();
        let (near, far) = tokio::join!(client.connect(name, near), server.accept(far));
        let (mut near, mut far) = (near?, far?);
        // Tickets come with the first bytes after the handshake.
        far.write_all(b"!").await?;
        near.read_exact(&mut [0]).await?;
        let session = far.get_ref().1;
        let shown = session.peer_certificates().map_or(0, <[_]>::len);
        Ok((session.handshake_kind(), shown))
    }

    #[tokio::test]
    async fn whoever_shows_a_certificate_shows_it_in_every_handshake() {
        let stand = Authority::new("td").workload("/client");
        let (server, client) = both_ends(&stand.workload);
        for _ in 0..3 {
            let (kind, shown) = meet(&server, &client, "vault.test").await.unwrap();
            assert_ne!(kind, Some(HandshakeKind::Resumed));
            assert_eq!(shown, 1);
        }
    }

    #[tokio::test]
    async fn a_vault_of_another_authority_or_name_is_not_spoken_to() {
        let stand = Authority::new("td").workload("/client");
        let ((server, client), (other, _)) =
            (both_ends(&stand.workload), both_ends(&stand.workload));
        meet(&server, &client, "vault.test").await.unwrap();
        meet(&other, &client, "vault.test").await.unwrap_err();
        meet(&server, &client, "other.test").await.unwrap_err();
        settings(Some("no certificate"), None).unwrap_err();
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in ["http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost:8200"] {
            assert!(checked_base(good, false).is_ok(), "{good}");
        }
        for bad in [
            "http://10.0.0.1:8200",
            "http://vault:8200",
            "https://vault:8200",
            "ftp://127.0.0.1",
            "vault",
        ] {
            assert!(checked_base(bad, false).is_err(), "{bad}");
        }
        assert!(checked_base("https://vault:8200", true).is_ok());
        assert!(checked_base("http://user:pass@127.0.0.1", false).is_err());
    }
}
