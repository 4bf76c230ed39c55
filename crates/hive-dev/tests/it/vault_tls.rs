//! The development vault over TLS, and the certificates that clients show there.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hive_dev::vault::{Error, Sensitive, Setup, Tls, TlsEndpoint, TlsIdentity, Vault};
use hive_dev::witness::Witness;
use hive_security::clock::Clock;
use hive_security::vault::{VaultClient, VaultConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3_600);

/// A certificate, and a key for it that may be another's.
struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

/// An authority whose certificates are for clients and servers alike.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = pem("CERTIFICATE", params.self_signed(&key).expect("a certificate").der());
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str, life: Duration) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = (std::time::SystemTime::now() + life).into();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate: certificate.der().clone(), key: key.serialize_der() }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// A client that trusts the vault, and shows this.
fn http(
    tls: &TlsEndpoint,
    identity: Option<&Identity>,
    version: &'static rustls::SupportedProtocolVersion,
) -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca = tls.ca_pem.as_deref().expect("it has made one");
    roots.add_parsable_certificates(CertificateDer::from_pem_slice(ca.as_bytes()));
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_protocol_versions(&[version]).expect("a version");
    let config = config.with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.clone()));
            let key = provider.key_provider.load_private_key(key).expect("a key");
            let chain = vec![identity.certificate.clone()];
            let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
            config.with_client_cert_resolver(Arc::new(shown))
        }
    };
    let client = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy();
    client.build().expect("a client")
}

async fn put(
    http: &reqwest::Client,
    address: &str,
    path: &str,
    body: Value,
) -> Result<(u16, Value), reqwest::Error> {
    let request = http.put(format!("{address}/v1/{path}")).header("x-vault-token", "root");
    let answer = request.json(&body).send().await?;
    let (status, text) = (answer.status().as_u16(), answer.text().await?);
    Ok((status, serde_json::from_str(&text).unwrap_or_default()))
}

fn over_tls() -> Setup {
    Setup { tls: Some(Tls::default()), ..Setup::danger_root("root") }
}

/// Over plain HTTP, so that the client is known to show nothing.
async fn trust(vault: &Vault, authority: &Authority) {
    let plain = crate::fixture::plain_http();
    let role = json!({ "certificate": authority.pem });
    for (path, body) in
        [("sys/auth/cert", json!({ "type": "cert" })), ("auth/cert/certs/cart", role)]
    {
        let answer = put(&plain, &vault.address, path, body).await.expect("it answers");
        assert_eq!(answer.0, 204, "{path}: {}", answer.1);
    }
}

#[tokio::test]
async fn who_shows_a_certificate_has_to_hold_its_key() {
    let (authority, vault) =
        (Authority::new(), Vault::start(over_tls(), Witness::none()).await.expect("it starts"));
    trust(&vault, &authority).await;
    let good = authority.issue("cart", HOUR);
    let thief = authority.issue("thief", HOUR);
    let stolen = Identity { certificate: good.certificate.clone(), key: thief.key };
    let tls = vault.tls.as_ref().expect("it was asked for");
    for version in [&TLS12, &TLS13] {
        let login = |identity| {
            let client = http(tls, identity, version);
            async move { put(&client, &tls.address, "auth/cert/login", json!({})).await }
        };
        let (status, answer) = login(Some(&good)).await.expect("it answers");
        assert_eq!((status, &answer["auth"]["metadata"]["common_name"]), (200, &json!("cart")));
        login(Some(&stolen)).await.expect_err("the handshake fails");
        let (status, answer) = login(None).await.expect("nothing is demanded");
        assert_eq!((status, &answer["errors"][0]), (400, &json!("no client certificate found")));
    }
    vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn a_certificate_ends_by_the_clock_that_was_handed_in() {
    let (clock, hands) = Clock::by_hand();
    let vault = Vault::start_with_clock(over_tls(), Witness::none(), clock).await;
    let (authority, vault) = (Authority::new(), vault.expect("it starts"));
    trust(&vault, &authority).await;
    let tls = vault.tls.as_ref().expect("it was asked for");
    let client = http(tls, Some(&authority.issue("cart", HOUR)), &TLS13);
    let login = async || {
        let answer = put(&client, &tls.address, "auth/cert/login", json!({})).await;
        answer.expect("it answers").0
    };
    assert_eq!(login().await, 200);
    hands.advance(2 * HOUR);
    assert_eq!(login().await, 500);
}

#[tokio::test]
async fn both_ports_close_when_the_vault_goes_down_and_open_when_it_comes_up() {
    let mut vault = Vault::start(over_tls(), Witness::none()).await.expect("it starts");
    let tls = vault.tls.clone().expect("it was asked for");
    let clients = || {
        let config = VaultConfig { ca_pem: tls.ca_pem.clone(), ..VaultConfig::at(&tls.address) };
        [config, VaultConfig::at(&vault.address)]
            .map(|config| VaultClient::new(config).expect("good settings"))
    };
    let clients = clients();
    vault.go_down().await;
    for client in &clients {
        client.health().await.expect_err("it is gone");
    }
    vault.come_up().await.expect("the ports are free");
    for client in &clients {
        assert!(client.health().await.expect("it is back").initialized);
    }
}

#[tokio::test]
async fn a_certificate_that_is_given_is_shown_and_its_key_is_not() {
    let authority = Authority::new();
    let identity = authority.issue("vault", HOUR);
    let key = pem("PRIVATE KEY", &identity.key);
    let given = |key: &str| {
        let identity = TlsIdentity {
            certificate_pem: pem("CERTIFICATE", &identity.certificate),
            key_pem: Sensitive::new(key.to_owned()),
        };
        let tls = Tls { identity: Some(identity), ..Tls::default() };
        Setup { tls: Some(tls), ..Setup::danger_root("root") }
    };
    let secret = key.lines().nth(1).expect("a line of the key");
    assert!(!format!("{:?}", given(&key)).contains(secret));
    let vault = Vault::start(given(&key), Witness::none()).await.expect("it starts");
    let tls = vault.tls.clone().expect("it was asked for");
    assert_eq!(tls.ca_pem, None);
    let ca_pem = Some(authority.pem.clone());
    let config = VaultConfig { ca_pem, ..VaultConfig::at(&tls.address) };
    let client = VaultClient::new(config).expect("good settings");
    assert!(client.health().await.expect("it serves").initialized);

    let other = pem("PRIVATE KEY", &authority.issue("other", HOUR).key);
    for wrong in [other.as_str(), "nonsense"] {
        let refused = Vault::start(given(wrong), Witness::none()).await.expect_err("no pair");
        assert!(matches!(refused, Error::Certificate { .. }), "{refused}");
    }
    let mut open = over_tls();
    open.tls = Some(Tls { listen: "0.0.0.0:0".parse().expect("an address"), identity: None });
    let refused = Vault::start(open, Witness::none()).await.expect_err("it must not listen");
    assert!(matches!(refused, Error::NotLoopback(_)), "{refused}");
}
