//! Brokers that look at tokens, with TLS and without, and two that do not: Kafka's own.

use crate::harness::{HIVE, Place, assert_status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::kafka::{Config, Kafka, tls_for_tokens};
use hive_dev::tools::kafka_libraries;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

/// What Kafka 4.1.0 does by itself.
const BELIEVES_ALL: &str = "listener.name.oauth.sasl.oauthbearer.jwt.validator.class=\
    org.apache.kafka.common.security.oauthbearer.ClientJwtValidator";
/// It is there for others as well.
const TAKES_WHAT_IS_FOR_OTHERS: &str = "listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience=\
    kafka,hive-probe-of-a-broker";
const NOT_FOR_US: &str =
    "listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience=another";

/// A workload with an identity, beside a broker.
struct World {
    runtime: Runtime,
    place: Place,
    authority: Authority,
    kafka: Kafka,
}

impl World {
    /// The broker has these further properties.
    fn start(place: Place, properties: Vec<String>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let config = AuthorityConfig::new(place.path().join("api.sock"));
        let authority = runtime.block_on(Authority::start(config)).expect("it starts");
        let cart = Entry::new("/ns/shop/sa/cart", [Selector::Path(PathBuf::from(HIVE))]);
        authority.add_entry(cart).expect("an entry");
        let kafka = Config {
            libraries: kafka_libraries().expect("`cargo xtask real` puts Kafka there"),
            directory: place.path().join("kafka"),
            properties,
            jwks_url: Some(authority.keys_url()),
            scram_users: Vec::new(),
        };
        let kafka = runtime.block_on(Kafka::start(kafka)).expect("it starts");
        Self { runtime, place, authority, kafka }
    }

    /// What the doctor says of the broker, and his exit status says the same.
    fn examined(&self, arguments: &[&str]) -> Value {
        let output = Command::new(HIVE)
            .args(["doctor", "--json", "--kafka", &self.kafka.oauth])
            .args(arguments)
            .env_clear()
            .env("TMPDIR", self.place.tmp())
            .env("SPIFFE_ENDPOINT_SOCKET", self.authority.endpoint())
            .output()
            .expect("hive can be run");
        let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        assert_status(&output, if report["ok"] == true { 0 } else { 1 });
        let checks = report["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["name"] == "Kafka").expect("it was examined").clone()
    }

    /// Not well, and this is why, and what to do.
    fn assert_ill(&self, arguments: &[&str], cause: &str, remedy: &str) {
        let check = self.examined(arguments);
        assert_eq!(check["ok"], false, "{check:#}");
        assert!(check["cause"].as_str().expect("a cause").contains(cause), "{check:#}");
        assert!(check["remedy"].as_str().expect("a remedy").contains(remedy), "{check:#}");
    }

    fn stop(self) {
        self.runtime.block_on(self.kafka.stop());
    }
}

fn plain(properties: &[&str]) -> World {
    World::start(Place::new(), properties.iter().map(ToString::to_string).collect())
}

/// A broker with TLS; the files of its authority, and of one that has nothing to do with it.
fn with_tls(properties: &[&str]) -> (World, String, String) {
    let place = Place::new();
    let file = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.to_str().expect("a UTF-8 path").to_owned()
    };
    let (ca, ca_pem) = ca();
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.signed_by(&key, &ca).expect("a certificate");
    let key = pem("PRIVATE KEY", &key.serialize_der());
    let identity = file("broker.pem", &(key + &pem("CERTIFICATE", certificate.der())));
    let (ours, other) = (file("ca.pem", &ca_pem), file("other.pem", &self::ca().1));
    let mut lines = tls_for_tokens(identity.as_ref());
    lines.extend(properties.iter().map(ToString::to_string));
    (World::start(place, lines), ours, other)
}

fn ca() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the authority of a test");
    let certificate = params.self_signed(&key).expect("a certificate");
    (Issuer::new(params, key), pem("CERTIFICATE", certificate.der()))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn a_broker_that_refuses_forged_tokens_passes_and_needs_the_tls_that_is_asked_for() {
    let world = plain(&[]);
    let check = world.examined(&[]);
    assert_eq!(check["ok"], true, "{check:#}");
    let ca = world.place.path().join("ca.pem");
    std::fs::write(&ca, self::ca().1).expect("it can be written");
    let ca = ca.to_str().expect("a UTF-8 path");
    world.assert_ill(&["--kafka-ca", ca], "one for TLS", "--kafka-ca");
    world.stop();
}

#[test]
fn a_broker_that_accepts_forged_tokens_is_named_with_what_to_do() {
    let world = plain(&[BELIEVES_ALL]);
    world.assert_ill(&[], "signature was broken", "4.3.0");
    world.stop();
}

#[test]
fn a_broker_that_takes_tokens_for_others_or_none_of_ours_is_named() {
    let world = plain(&[TAKES_WHAT_IS_FOR_OTHERS]);
    world.assert_ill(&[], "for another audience", "expected.audience");
    world.stop();
    let world = plain(&[NOT_FOR_US]);
    world.assert_ill(&[], "refuses this workload's JWT-SVID for kafka", "audience kafka");
    world.stop();
}

#[test]
fn behind_tls_a_broker_is_examined_with_its_authority_and_with_no_other() {
    let (world, ca, other) = with_tls(&[]);
    let check = world.examined(&["--kafka-ca", &ca]);
    assert_eq!(check["ok"], true, "{check:#}");
    world.assert_ill(&["--kafka-ca", &other], "certificate is of another authority", "--kafka-ca");
    world.assert_ill(&["--kafka-ca", "/nowhere/ca.pem"], "configuration", "PEM");
    world.assert_ill(&[], "one for TLS", "with TLS");
    world.stop();
}

#[test]
fn behind_tls_a_broker_that_accepts_forged_tokens_is_found_out_as_well() {
    let (world, ca, _) = with_tls(&[BELIEVES_ALL]);
    world.assert_ill(&["--kafka-ca", &ca], "signature was broken", "4.3.0");
    world.stop();
}
