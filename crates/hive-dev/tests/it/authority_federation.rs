//! Two trust domains that know each other's keys.

use std::sync::Arc;
use std::time::Duration;

use hive_dev::authority::{AuthorityConfig, BundleEndpoint, BundleProfile, KeyKind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use spiffe::TrustDomain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::{Place, in_time, next, until, wire, with_header};

pub(crate) async fn named(name: &str, change: impl FnOnce(&mut AuthorityConfig)) -> Place {
    let place = Place::empty(|config| {
        config.trust_domain = Some(name.to_owned());
        change(config);
    })
    .await;
    place.add("/me", hive_dev::authority::Selector::Pid(std::process::id()));
    place
}

#[tokio::test]
async fn a_federated_bundle_is_in_every_message_that_has_a_place_for_it() {
    let (here, there) = (named("here.org", |_| {}).await, named("there.org", |_| {}).await);
    let mut svids = here.x509_svids().await;
    let mut raw = here.raw().await;
    let asked = with_header(wire::X509BundlesRequest {});
    let mut x509 = raw.fetch_x509_bundles(asked).await.expect("a stream").into_inner();
    let asked = with_header(wire::JwtBundlesRequest {});
    let mut jwt = raw.fetch_jwt_bundles(asked).await.expect("a stream").into_inner();
    assert!(next(&mut svids).await.federated_bundles.is_empty());
    assert_eq!((next(&mut x509).await.bundles.len(), next(&mut jwt).await.bundles.len()), (1, 1));

    let document = there.authority.bundle_document();
    assert!(here.authority.federate("there.org", &document).expect("a good document"));
    let theirs = next(&mut there.x509_svids().await).await.svids.remove(0).bundle;
    let message = next(&mut svids).await;
    assert_eq!(
        message.federated_bundles,
        [("spiffe://there.org".to_owned(), theirs.clone())].into()
    );
    assert_ne!(message.svids[0].bundle, theirs, "bundles are never mixed");
    let bundles = next(&mut x509).await.bundles;
    assert_eq!((bundles.len(), &bundles["spiffe://there.org"]), (2, &theirs));
    let bundles = next(&mut jwt).await.bundles;
    assert!(bundles.contains_key("spiffe://here.org"));
    let keys: Value = serde_json::from_slice(&bundles["spiffe://there.org"]).expect("a JWKS");
    let uses: Vec<&str> = keys["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .filter_map(|key| key["use"].as_str())
        .collect();
    assert_eq!(uses, ["jwt-svid"], "and no keys of other uses");

    assert!(here.authority.end_federation("there.org").expect("a good name"));
    assert!(next(&mut svids).await.federated_bundles.is_empty());
    assert_eq!((next(&mut x509).await.bundles.len(), next(&mut jwt).await.bundles.len()), (1, 1));
}

#[tokio::test]
async fn a_federated_token_is_valid_by_the_keys_of_its_own_trust_domain_only() {
    let (here, there) = (named("here.org", |_| {}).await, named("there.org", |_| {}).await);
    let token = there.client().await.fetch_jwt_svid(["a"], None).await.expect("a token");
    let client = here.client().await;
    assert!(client.validate_jwt_token("a", token.token()).await.is_err(), "unknown so far");
    here.authority.federate("there.org", &there.authority.bundle_document()).expect("good");
    let valid = client.validate_jwt_token("a", token.token()).await.expect("valid");
    assert_eq!(valid.spiffe_id().to_string(), "spiffe://there.org/me");
    // The same keys under another name vouch for nobody of there.org.
    let third = named("third.org", |_| {}).await;
    third.authority.federate("elsewhere.org", &there.authority.bundle_document()).expect("good");
    assert!(third.client().await.validate_jwt_token("a", token.token()).await.is_err());
}

#[tokio::test]
async fn an_independent_client_sees_both_trust_domains() {
    let (here, there) = (named("here.org", |_| {}).await, named("there.org", |_| {}).await);
    here.authority.federate("there.org", &there.authority.bundle_document()).expect("good");
    let source = here.x509_source().await;
    for name in ["here.org", "there.org"] {
        let domain = TrustDomain::new(name).expect("a good name");
        let bundle = source.bundle_set().expect("bundles").get(&domain).expect("known");
        assert_eq!(bundle.authorities().len(), 1, "{name}");
    }
    let kind = KeyKind::X509;
    there.authority.prepare(kind).await.expect("prepared");
    here.authority.federate("there.org", &there.authority.bundle_document()).expect("good");
    let domain = TrustDomain::new("there.org").expect("a good name");
    until(async || {
        let set = source.bundle_set().expect("bundles");
        set.get(&domain).is_some_and(|bundle| bundle.authorities().len() == 2)
    })
    .await;
}

#[tokio::test]
async fn what_is_no_other_trust_domains_bundle_is_refused() {
    let place = named("here.org", |_| {}).await;
    let document = place.authority.bundle_document();
    for (name, document) in
        [("here.org", document.as_str()), ("Not/a", &document), ("a.org", "{}"), ("a.org", "")]
    {
        assert!(place.authority.federate(name, document).is_err(), "{name}");
    }
    assert!(place.authority.federate("a.org", r#"{"keys":[]}"#).expect("all keys are gone"));
}

#[tokio::test]
async fn the_document_is_what_the_standard_describes_and_its_sequence_grows() {
    let place = named("here.org", |config| config.publish_ahead = Duration::from_secs(15)).await;
    let read = || serde_json::from_str::<Value>(&place.authority.bundle_document()).expect("JSON");
    let document = read();
    assert_eq!(document["spiffe_refresh_hint"], 5, "a third of the time a key is published ahead");
    let members = |value: &Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    assert_eq!(members(&document), ["keys", "spiffe_refresh_hint", "spiffe_sequence"]);
    let keys = document["keys"].as_array().expect("keys");
    let [x509, jwt] = keys.as_slice() else { panic!("{keys:?}") };
    // RFC 7517 and RFC 7518 define all of them, and nothing else is there.
    assert_eq!(members(x509), ["crv", "kty", "use", "x", "x5c", "y"]);
    assert_eq!(members(jwt), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!((&x509["use"], &jwt["use"]), (&"x509-svid".into(), &"jwt-svid".into()));
    assert!(x509.get("kid").is_none() && jwt["kid"].is_string() && jwt.get("x5c").is_none());
    assert_eq!(x509["x5c"].as_array().map(Vec::len), Some(1));
    let mut last = document["spiffe_sequence"].as_u64().expect("a number");
    assert_eq!(read()["spiffe_sequence"], last, "nothing has changed");
    for kind in [KeyKind::X509, KeyKind::Jwt] {
        let old = place.authority.signing_keys(kind).remove(0).0;
        let new = place.authority.prepare(kind).await.expect("prepared");
        place.authority.activate(&new).await.expect("activated");
        assert_eq!(read()["keys"].as_array().map(Vec::len), Some(3));
        place.authority.taint(&old).expect("tainted");
        place.authority.revoke(&old).expect("revoked");
        let now = read()["spiffe_sequence"].as_u64().expect("a number");
        assert!(now > last);
        last = now;
    }
}

#[tokio::test]
async fn the_bundle_is_served_to_clients_of_the_web_profile() {
    let endpoint = Some(BundleEndpoint::new(BundleProfile::HttpsWeb));
    let place = named("here.org", |config| config.bundle_endpoint = endpoint).await;
    let (url, pem) =
        (place.authority.bundle_url().expect("a URL"), place.authority.web_authority_pem());
    let authority = pem_to_der(pem.expect("an authority"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(authority)).expect("a certificate");
    let config = client().with_root_certificates(roots).with_no_client_auth();
    let (head, body) = get(&url, config).await.expect("it is trusted");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/json"), "{head}");
    assert_eq!(body, place.authority.bundle_document());
    let strangers = client().with_root_certificates(rustls::RootCertStore::empty());
    assert!(get(&url, strangers.with_no_client_auth()).await.is_err());
    let missing = url.replace("/bundle", "/other");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(pem_to_der(pem.expect("an authority")))).expect("a certificate");
    let config = client().with_root_certificates(roots).with_no_client_auth();
    assert!(get(&missing, config).await.expect("an answer").0.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn the_bundle_endpoint_proves_itself_with_an_svid_of_the_current_authority() {
    let profile = BundleProfile::HttpsSpiffe { spiffe_path: "/bundle-endpoint".to_owned() };
    let endpoint = Some(BundleEndpoint::new(profile));
    let place = named("here.org", |config| config.bundle_endpoint = endpoint).await;
    let url = place.authority.bundle_url().expect("a URL");
    assert!(place.authority.web_authority_pem().is_none());
    for _ in 0..2 {
        let issuer = place.authority.signing_keys(KeyKind::X509).remove(0).0;
        let seen = Arc::new(Seen::default());
        let config = client().dangerous().with_custom_certificate_verifier(Arc::clone(&seen) as _);
        let (_, body) = get(&url, config.with_no_client_auth()).await.expect("it answers");
        assert_eq!(body, place.authority.bundle_document());
        let leaf = seen.0.lock().expect("not poisoned").clone().expect("a certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).expect("DER");
        let names = leaf.subject_alternative_name().expect("one").expect("present");
        let names: Vec<String> =
            names.value.general_names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["URI(spiffe://here.org/bundle-endpoint)"]);
        assert!(leaf.validity().is_valid());
        let signer = crate::authority_rotation::signer(&leaf);
        assert_eq!(signer, issuer.id());
        place.authority.rotate_x509().await.expect("rotated");
    }
}

/// Notes the certificate, and trusts it: the test looks at it afterwards.
#[derive(Debug, Default)]
struct Seen(std::sync::Mutex<Option<Vec<u8>>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().expect("not poisoned") = Some(leaf.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn client() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()));
    builder.with_safe_default_protocol_versions().expect("they are supported")
}

/// As plain as HTTPS gets: head and body of one answer.
async fn get(url: &str, config: ClientConfig) -> std::io::Result<(String, String)> {
    let rest = url.strip_prefix("https://").expect("HTTPS");
    let (host, path) = rest.split_once('/').expect("a path");
    let stream = tokio::net::TcpStream::connect(host).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = in_time(connector.connect(name, stream)).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    Ok((head.to_owned(), body.to_owned()))
}

fn pem_to_der(pem: &str) -> Vec<u8> {
    use base64::Engine;
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(lines).expect("base64")
}
