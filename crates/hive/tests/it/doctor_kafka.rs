//! Brokers that look at tokens, and one that believes them all: Kafka's own.

use crate::harness::{HIVE, Place, assert_status};
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::kafka::{Config, Kafka};
use hive_dev::tools::kafka_libraries;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

/// What Kafka 4.1.0 does by itself.
const BELIEVES_ALL: &str = "listener.name.oauth.sasl.oauthbearer.jwt.validator.class=\
    org.apache.kafka.common.security.oauthbearer.ClientJwtValidator";

/// What the doctor says of a broker with these further properties, and his exit status says the same.
fn examined(properties: &[&str]) -> Value {
    let (runtime, place) = (Runtime::new().expect("a runtime"), Place::new());
    let config = AuthorityConfig::new(place.path().join("api.sock"));
    let authority = runtime.block_on(Authority::start(config)).expect("it starts");
    let cart = Entry::new("/ns/shop/sa/cart", [Selector::Path(PathBuf::from(HIVE))]);
    authority.add_entry(cart).expect("an entry");
    let kafka = Config {
        libraries: kafka_libraries().expect("`cargo xtask real` puts Kafka there"),
        directory: place.path().join("kafka"),
        properties: properties.iter().map(ToString::to_string).collect(),
        jwks_url: Some(authority.keys_url()),
        scram_users: Vec::new(),
    };
    let kafka = runtime.block_on(Kafka::start(kafka)).expect("it starts");
    let output = Command::new(HIVE)
        .args(["doctor", "--json", "--kafka", &kafka.oauth])
        .env_clear()
        .env("TMPDIR", place.tmp())
        .env("SPIFFE_ENDPOINT_SOCKET", authority.endpoint())
        .output()
        .expect("hive can be run");
    runtime.block_on(kafka.stop());
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_status(&output, if report["ok"] == true { 0 } else { 1 });
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == "Kafka").expect("it was examined").clone()
}

#[test]
fn a_broker_that_refuses_forged_tokens_passes() {
    let check = examined(&[]);
    assert_eq!(check["ok"], true, "{check:#}");
}

#[test]
fn a_broker_that_accepts_forged_tokens_is_named_with_what_to_do() {
    let check = examined(&[BELIEVES_ALL]);
    assert_eq!(check["ok"], false, "{check:#}");
    let cause = check["cause"].as_str().expect("a cause");
    assert!(cause.contains("signature was broken"), "{cause}");
    assert!(check["remedy"].as_str().expect("a remedy").contains("4.3.0"), "{check:#}");
}
