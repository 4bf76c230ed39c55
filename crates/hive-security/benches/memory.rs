//! How much memory a verifier holds: 100,000 accepted tokens, and the bundles of 1,000 trust domains.
//!
//! `cargo bench -p hive-security --bench memory`. Each is measured in a process of its own, as the difference of its
//! resident memory; what is needed to bring it about is made before and kept until after.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hive_security::{Audience, TrustDomain, Verifier};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::{Value, json};

const AUDIENCE: &str = "registry.example.org";
const TOKENS: usize = 100_000;
const BUNDLES: usize = 1_000;
const KEYS_EACH: usize = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("tokens") => tokens(),
        Some("bundles") => bundles(),
        _ => ["tokens", "bundles"].into_iter().for_each(apart),
    }
}

fn apart(what: &str) {
    let status = Command::new(std::env::current_exe().unwrap()).arg(what).status().unwrap();
    assert!(status.success(), "{what}: {status}");
}

fn tokens() {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let document = json!({ "keys": [jwk(&key, "key")] }).to_string();
    let verifier = Verifier::new([(TrustDomain::parse("example.org").unwrap(), document)]).unwrap();
    let audience = Audience::parse(AUDIENCE).unwrap();
    let now = SystemTime::now();
    let tokens: Vec<String> = (0..TOKENS).map(|number| token(&key, number, now)).collect();
    // What is made once, by the first of all.
    verifier.verify_jwt(&token(&key, TOKENS, now), &audience, now).unwrap();
    let before = resident_bytes();
    for token in &tokens {
        verifier.verify_jwt(token, &audience, now).unwrap();
    }
    report(&format!("{TOKENS} accepted tokens"), resident_bytes() - before, TOKENS);
    black_box((verifier, tokens));
}

fn bundles() {
    let documents: Vec<(TrustDomain, String)> = (0..BUNDLES).map(bundle).collect();
    let bytes: usize = documents.iter().map(|(_, document)| document.len()).sum();
    let small = bundle(BUNDLES);
    black_box(Verifier::new([small]).unwrap());
    let before = resident_bytes();
    let borrowed = documents.iter().map(|(domain, document)| (domain.clone(), document.as_bytes()));
    let verifier = Verifier::new(borrowed).unwrap();
    let what = format!("{BUNDLES} bundles of {KEYS_EACH} X.509 authorities and {KEYS_EACH} keys");
    report(&what, resident_bytes() - before, BUNDLES);
    println!("  (their documents have {} bytes each)", bytes / BUNDLES);
    black_box((verifier, documents));
}

fn report(what: &str, bytes: usize, count: usize) {
    let mib = bytes as f64 / 1_048_576.0;
    println!("{what}: {mib:.1} MiB, {} bytes each", bytes / count);
}

/// As SPIRE writes them, from as many workloads.
fn token(key: &EcdsaKeyPair, number: usize, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "aud": [AUDIENCE], "exp": now + Duration::from_secs(3600).as_secs(), "iat": now,
        "sub": format!("spiffe://example.org/ns/shop/sa/cart-{number}"),
    });
    let header = json!({ "alg": "ES256", "kid": "key", "typ": "JWT" });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn bundle(number: usize) -> (TrustDomain, String) {
    let name = format!("domain-{number}.example.org");
    let authorities = (0..KEYS_EACH).map(
        |_| json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(authority(&name))] }),
    );
    let keys = (0..KEYS_EACH).map(|index| {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        jwk(&key, &format!("key-{index}"))
    });
    let keys: Vec<Value> = authorities.chain(keys).collect();
    (TrustDomain::parse(&name).unwrap(), json!({ "keys": keys }).to_string())
}

fn authority(trust_domain: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, trust_domain);
    let id = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn jwk(key: &EcdsaKeyPair, kid: &str) -> Value {
    let point = key.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    json!({ "kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": kid, "x": x, "y": y })
}

/// proc(5), `status`.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
