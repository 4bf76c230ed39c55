//! A workload of a trust domain: attached as any service would be.

use std::sync::Arc;
use std::time::Duration;

use hive_dev::authority::KeyKind;
use hive_security::{Audience, IdPattern, TrustDomain, Workload, WorkloadConfig, X509Svid, tls};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::ExposeSecret;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use x509_parser::extensions::ParsedExtension;

use crate::domain::Domain;
use crate::waiting::{in_time, until};

const ATTACH_DEADLINE: Duration = Duration::from_secs(60);

/// A [`Workload`] and the task that keeps it current.
pub(crate) struct Member {
    pub(crate) workload: Workload,
    _upkeep: DropGuard,
}

impl Member {
    pub(crate) async fn attach(endpoint: &str) -> Self {
        let config = WorkloadConfig::new(endpoint, ATTACH_DEADLINE);
        let (workload, upkeep) = Workload::attach(config).await.expect("an identity");
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        Self { workload, _upkeep: stop.drop_guard() }
    }

    pub(crate) async fn of(domain: &impl Domain) -> Self {
        Self::attach(&domain.endpoint()).await
    }

    pub(crate) async fn token(&self, audience: &Audience) -> String {
        let svid = in_time("a JWT-SVID", self.workload.jwt_svid(audience)).await;
        svid.expect("a JWT-SVID").token().expose_secret().to_owned()
    }

    /// The keys of a trust domain that are published, as this workload knows them.
    pub(crate) fn published(&self, kind: KeyKind, domain: &TrustDomain) -> Vec<String> {
        match kind {
            KeyKind::Jwt => {
                let bundles = self.workload.jwt_bundles().current();
                let bundle = bundles.as_ref().as_ref().expect("bundles").bundle(domain);
                bundle.into_iter().flat_map(|one| one.key_ids().map(str::to_owned)).collect()
            }
            KeyKind::X509 => {
                let material = self.workload.x509().current();
                let bundle = material.as_ref().as_ref().expect("bundles").bundle(domain);
                let der = bundle.into_iter().flat_map(|one| one.authorities());
                der.map(|der| key_id(der, Whose::Own)).collect()
            }
        }
    }

    /// Waits until this workload knows a key, or knows it no more.
    pub(crate) async fn knows(&self, kind: KeyKind, domain: &TrustDomain, key: &str, known: bool) {
        let what = format!("{key} is {} the bundle", if known { "in" } else { "gone from" });
        until(&what, async || self.published(kind, domain).iter().any(|one| one == key) == known)
            .await;
    }

    /// The key that signed what this workload presents.
    pub(crate) async fn signer(&self, kind: KeyKind, audience: &Audience) -> String {
        match kind {
            KeyKind::Jwt => kid(&self.token(audience).await),
            KeyKind::X509 => {
                let svid = self.workload.x509_svid().expect("an X.509-SVID");
                key_id(&svid.certificate_chain()[0], Whose::Signer)
            }
        }
    }
}

pub(crate) fn audience(text: &str) -> Audience {
    Audience::parse(text).expect("a good audience")
}

pub(crate) fn pattern(text: &str) -> IdPattern {
    IdPattern::parse(text).expect("a good pattern")
}

/// The member of a trust domain at this path, and nobody else.
pub(crate) fn exactly(domain: &TrustDomain, path: &str) -> IdPattern {
    IdPattern::in_trust_domain(domain, path).expect("a good pattern")
}

/// Presents `svid` to a server, which is `expected`: the signer of its certificate, or why it is not to be talked to.
pub(crate) async fn greet(
    workload: &Workload,
    svid: &X509Svid,
    expected: IdPattern,
    address: &str,
) -> std::io::Result<String> {
    let config = tls::client_config(workload, expected).expect("a good configuration");
    let mut config: ClientConfig = Arc::unwrap_or_clone(config);
    let key = PrivatePkcs8KeyDer::from(svid.private_key().expose_secret());
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(key)).expect("a good key");
    let certified = CertifiedKey::new(svid.certificate_chain().to_vec(), key);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("server").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = in_time("a handshake", connector.connect(name, tcp)).await?;
    // In TLS 1.3 a client learns here whether it is welcome; a server of HTTP/2 speaks first.
    in_time("a first word", stream.read_u8()).await?;
    let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
    Ok(key_id(&chain[0], Whose::Signer))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Signer,
}

/// A key identifier, as SPIRE writes it: hexadecimal digits.
fn key_id(certificate: &CertificateDer<'_>, whose: Whose) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).expect("DER");
    let mut extensions = certificate.extensions().iter();
    let found = extensions.find_map(|extension| match (extension.parsed_extension(), whose) {
        (ParsedExtension::SubjectKeyIdentifier(id), Whose::Own) => Some(id.0),
        (ParsedExtension::AuthorityKeyIdentifier(id), Whose::Signer) => {
            id.key_identifier.as_ref().map(|id| id.0)
        }
        _ => None,
    });
    found.expect("a key identifier").iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kid(token: &str) -> String {
    use base64::Engine;
    let header = token.split('.').next().expect("a header");
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).expect("base64");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}
