//! What remembering costs: a token that was seen before is judged without allocating.
//!
//! This stands apart from the other integration tests because it counts allocations with a global allocator, and
//! a binary has one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hive_security::{Audience, Refusal, TrustDomain, Verifier};
use serde_json::json;

struct World {
    verifier: Verifier,
    audience: Audience,
    token: String,
}

fn world() -> World {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = pair.public_key().as_ref();
    let document = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": "key",
        "x": encode(&point[1..33]), "y": encode(&point[33..]),
    }] });
    let verifier = Verifier::new([(TrustDomain::parse("td").unwrap(), document.to_string())]);
    let expiry = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(300);
    let claims = json!({ "sub": "spiffe://td/ns/shop/sa/cart", "aud": "registry.td", "exp": expiry.as_secs() });
    let header = json!({ "alg": "ES256", "kid": "key" });
    let signed = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    World {
        verifier: verifier.unwrap(),
        audience: Audience::parse("registry.td").unwrap(),
        token: format!("{signed}.{}", encode(signature.as_ref())),
    }
}

#[test]
fn a_token_that_was_accepted_before_is_accepted_again_without_allocating() {
    let World { verifier, audience, token } = world();
    let now = SystemTime::now();
    let verify = || verifier.verify_jwt(&token, &audience, now).unwrap();
    let first = allocation_counter::measure(|| drop(verify()));
    let again = allocation_counter::measure(|| {
        for _ in 0..100 {
            verify();
        }
    });
    assert!(first.count_total > 0, "the counter counts");
    assert_eq!(again.count_total, 0, "{} bytes", again.bytes_total);
}

#[test]
fn a_forged_token_is_refused_again_without_allocating() {
    let World { verifier, audience, token } = world();
    let now = SystemTime::now();
    let forged =
        format!("{}.{}", token.rsplit_once('.').unwrap().0, URL_SAFE_NO_PAD.encode([7; 64]));
    let verify =
        || assert_eq!(verifier.verify_jwt(&forged, &audience, now), Err(Refusal::Signature));
    verify();
    assert_eq!(allocation_counter::measure(verify).count_total, 0);
}
