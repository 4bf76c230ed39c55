#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    self, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RsaEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::TrustDomain;
use crate::testing::{Authority, audience, signed_part, unix_now};

const AUDIENCE: &str = "registry.td";

fn verify(authority: &Authority, token: &str) -> Result<VerifiedJwt, Refusal> {
    JwtTrust::new(authority.keys()).verify(token, &audience(AUDIENCE), SystemTime::now())
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "key", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "sub": "spiffe://td/a", "aud": [AUDIENCE, "other"], "iat": unix_now(), "exp": unix_now() + 300 })
}

/// `value` with `name` set, or removed where `to` is null.
fn with(mut value: Value, name: &str, to: Value) -> Value {
    let fields = value.as_object_mut().unwrap();
    if to.is_null() {
        fields.remove(name)
    } else {
        fields.insert(name.to_owned(), to)
    };
    value
}

#[test]
fn a_good_token_says_who_and_until_when() {
    let authority = Authority::new("td");
    let exp = unix_now() + 300;
    let verified =
        verify(&authority, &authority.sign(&header(), &with(claims(), "exp", json!(exp)))).unwrap();
    assert_eq!(verified.spiffe_id(), &authority.id("/a"));
    assert_eq!(verified.expires_at(), UNIX_EPOCH + Duration::from_secs(exp));
}

#[test]
fn harmless_variations_are_accepted() {
    let authority = Authority::new("td");
    let now = unix_now();
    let table = [
        (with(header(), "typ", Value::Null), claims()),
        (with(header(), "typ", json!("JOSE")), claims()),
        (with(header(), "kid", Value::Null), claims()),
        (header(), with(claims(), "aud", json!(AUDIENCE))),
        (header(), with(claims(), "exp", json!(now - 20))),
        (header(), with(claims(), "exp", json!(now as f64 + 60.5))),
        (header(), with(claims(), "nbf", json!(now + 20))),
        (header(), with(claims(), "iat", json!(now + 4000))),
        (header(), with(claims(), "iat", Value::Null)),
        (header(), with(claims(), "anything", json!({ "else": [1] }))),
    ];
    for (header, claims) in table {
        let verified = verify(&authority, &authority.sign(&header, &claims));
        assert!(verified.is_ok(), "{header} {claims}: {verified:?}");
    }
}

/// Header and claims, and whether the refusal is the one that they deserve.
type Case = ((Value, Value), fn(&Refusal) -> bool);

#[test]
fn each_tampering_has_its_own_refusal() {
    let authority = Authority::new("td");
    let now = unix_now();
    let head = |name, to| (with(header(), name, to), claims());
    let claim = |name, to| (header(), with(claims(), name, to));
    let table: Vec<Case> = vec![
        (head("alg", json!("none")), |r| *r == Refusal::Algorithm),
        (head("alg", json!("HS256")), |r| *r == Refusal::Algorithm),
        (head("alg", json!("EdDSA")), |r| *r == Refusal::Algorithm),
        (head("alg", json!("es256")), |r| *r == Refusal::Algorithm),
        (head("alg", Value::Null), |r| matches!(r, Refusal::Malformed { .. })),
        (head("alg", json!(1)), |r| matches!(r, Refusal::Malformed { .. })),
        (head("alg", json!("RS256")), |r| *r == Refusal::KeyMismatch),
        (head("alg", json!("ES384")), |r| *r == Refusal::KeyMismatch),
        (head("typ", json!("at+jwt")), |r| *r == Refusal::Type),
        (head("typ", json!(7)), |r| matches!(r, Refusal::Malformed { .. })),
        (head("crit", json!(["exp"])), |r| *r == Refusal::HeaderParameter),
        (head("jku", json!("https://evil")), |r| *r == Refusal::HeaderParameter),
        (head("jwk", json!({})), |r| *r == Refusal::HeaderParameter),
        (head("kid", json!("unknown")), |r| matches!(r, Refusal::UnknownKey(_))),
        (head("kid", json!({})), |r| matches!(r, Refusal::Malformed { .. })),
        (claim("sub", Value::Null), |r| *r == Refusal::Subject),
        (claim("sub", json!("td/a")), |r| *r == Refusal::Subject),
        (claim("sub", json!("spiffe://td")), |r| *r == Refusal::Subject),
        (claim("sub", json!("spiffe://td/a/../b")), |r| *r == Refusal::Subject),
        (claim("sub", json!("spiffe://elsewhere/a")), |r| {
            matches!(r, Refusal::UnknownTrustDomain(_))
        }),
        (claim("aud", Value::Null), |r| *r == Refusal::NoAudience),
        (claim("aud", json!([])), |r| *r == Refusal::NoAudience),
        (claim("aud", json!("other")), |r| matches!(r, Refusal::Audience { .. })),
        (claim("aud", json!(["registry", "registry.td2"])), |r| {
            matches!(r, Refusal::Audience { .. })
        }),
        (claim("aud", json!([1])), |r| matches!(r, Refusal::Malformed { .. })),
        (claim("exp", Value::Null), |r| *r == Refusal::NoExpiry),
        (claim("exp", json!(now - 31)), |r| matches!(r, Refusal::Expired { .. })),
        (claim("exp", json!("tomorrow")), |r| matches!(r, Refusal::Malformed { .. })),
        (claim("exp", json!(-1)), |r| matches!(r, Refusal::Malformed { .. })),
        (claim("exp", json!(1e300)), |r| matches!(r, Refusal::Malformed { .. })),
        (claim("nbf", json!(now + 60)), |r| matches!(r, Refusal::NotYetValid { .. })),
        (claim("iat", json!("yesterday")), |r| matches!(r, Refusal::Malformed { .. })),
    ];
    for ((header, claims), expected) in table {
        let token = authority.sign(&header, &claims);
        let refusal = verify(&authority, &token).unwrap_err();
        assert!(expected(&refusal), "{header} {claims}: {refusal:?}");
        let shown = format!("{refusal} {refusal:?}");
        assert!(
            token.split('.').all(|part| !shown.contains(part)),
            "the refusal repeats the token: {shown}"
        );
    }
}

#[test]
fn a_changed_form_is_malformed_and_a_changed_signature_does_not_verify() {
    let authority = Authority::new("td");
    let token = authority.sign(&header(), &claims());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let foreign = Authority::new("td").sign(&header(), &claims());
    let foreign_signature = foreign.rsplit_once('.').unwrap().1;
    for malformed in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        signed.to_owned(),
        format!("{token}."),
        format!("{token}.x"),
        format!("{signed}."),
        format!(".{payload}.{signature}"),
        format!("{head}..{signature}"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}="),
        format!("{head}.{payload}.{signature}*"),
        json!({ "protected": head, "payload": payload, "signature": signature }).to_string(),
    ] {
        let refusal = verify(&authority, &malformed).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed { .. }), "{malformed}: {refusal:?}");
    }
    for forged in [
        format!("{signed}.{foreign_signature}"),
        format!("{signed}.{}", &signature[..40]),
        format!(
            "{}.{signature}",
            signed_part(&header(), &with(claims(), "sub", json!("spiffe://td/root")))
        ),
    ] {
        assert_eq!(verify(&authority, &forged).unwrap_err(), Refusal::Signature);
    }
}

#[test]
fn a_parameter_that_is_given_twice_is_refused() {
    let authority = Authority::new("td");
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let payload = encode(&claims().to_string());
    let header = encode(r#"{"alg":"none","alg":"ES256","kid":"key"}"#);
    let refusal = verify(&authority, &format!("{header}.{payload}.AAAA")).unwrap_err();
    assert!(matches!(refusal, Refusal::Malformed { .. }), "{refusal:?}");
}

#[test]
fn a_token_that_is_too_long_is_not_read() {
    let authority = Authority::new("td");
    let token =
        authority.sign(&header(), &with(claims(), "pad", json!("x".repeat(TOKEN_MAX_BYTES))));
    assert_eq!(
        verify(&authority, &token).unwrap_err(),
        Refusal::TooLong { limit: TOKEN_MAX_BYTES }
    );
}

#[test]
fn a_key_of_another_trust_domain_does_not_vouch() {
    let (ours, theirs) = (Authority::new("td"), Authority::new("other"));
    let mut keys = ours.keys();
    keys.extend(theirs.keys());
    let forged = theirs.sign(&header(), &claims());
    let refusal =
        JwtTrust::new(keys).verify(&forged, &audience(AUDIENCE), SystemTime::now()).unwrap_err();
    assert_eq!(refusal, Refusal::Signature);
}

#[test]
fn without_kid_a_bounded_number_of_keys_is_tried() {
    let authority = Authority::new("td");
    let others = |count| -> Vec<Key> {
        (0..count)
            .map(|_| Authority::new("td").keys().into_values().next().unwrap().remove(0))
            .collect()
    };
    let token = authority.sign(&with(header(), "kid", Value::Null), &claims());
    for (before, expected) in [(KEYS_TRIED_MAX - 1, true), (KEYS_TRIED_MAX, false)] {
        let mut keys = others(before);
        let jwk = authority.jwk().to_string();
        keys.push(Key::from_jwk(jwk.as_bytes()).unwrap());
        let trust = JwtTrust::new(Keys::from([(authority.trust_domain.clone(), keys)]));
        let verified = trust.verify(&token, &audience(AUDIENCE), SystemTime::now());
        assert_eq!(verified.is_ok(), expected, "behind {before} others");
    }
}

fn remembered(trust: &JwtTrust, token: &str, audience: &Audience, now: SystemTime) -> bool {
    trust.recall(&fingerprint(token), audience, now).is_some()
}

#[test]
fn a_verified_token_is_remembered_for_its_audience_its_life_and_its_bundles_only() {
    let authority = Authority::new("td");
    let token = authority.sign(&header(), &with(claims(), "exp", json!(unix_now() + 10)));
    let now = SystemTime::now();
    let trust = JwtTrust::new(authority.keys());
    trust.verify(&token, &audience(AUDIENCE), now).unwrap();
    assert!(remembered(&trust, &token, &audience(AUDIENCE), now));
    assert!(!remembered(&trust, &token, &audience("elsewhere"), now));
    assert!(!remembered(
        &trust,
        &token,
        &audience(AUDIENCE),
        now + Duration::from_secs(10) + LEEWAY
    ));
    let after_rotation = JwtTrust::new(Authority::new("td").keys());
    assert_eq!(
        after_rotation.verify(&token, &audience(AUDIENCE), now).unwrap_err(),
        Refusal::Signature
    );
}

#[test]
fn a_token_that_was_verified_for_one_audience_is_judged_again_for_another() {
    let authority = Authority::new("td");
    let token = authority.sign(&header(), &with(claims(), "aud", json!([AUDIENCE])));
    let now = SystemTime::now();
    let trust = JwtTrust::new(authority.keys());
    for _ in 0..2 {
        assert!(trust.verify(&token, &audience(AUDIENCE), now).is_ok());
        let refusal = trust.verify(&token, &audience("elsewhere"), now).unwrap_err();
        assert_eq!(refusal, Refusal::Audience { expected: audience("elsewhere") });
    }
}

#[test]
fn a_refusal_is_remembered_unless_time_may_change_it() {
    let authority = Authority::new("td");
    let now = SystemTime::now();
    let forged = Authority::new("td").sign(&header(), &claims());
    let sign = |name, to| authority.sign(&header(), &with(claims(), name, to));
    let early = sign("nbf", json!(unix_now() + 100));
    for (token, kept) in [
        (forged, true),
        (sign("aud", json!("elsewhere")), true),
        (sign("aud", json!([])), true),
        (sign("exp", Value::Null), true),
        (sign("exp", json!(unix_now() - 100)), true),
        (early.clone(), false),
        (sign("sub", json!("spiffe://unknown/a")), false),
    ] {
        let trust = JwtTrust::new(authority.keys());
        let first = trust.verify(&token, &audience(AUDIENCE), now).unwrap_err();
        assert_eq!(remembered(&trust, &token, &audience(AUDIENCE), now), kept, "{first:?}");
        assert_eq!(trust.verify(&token, &audience(AUDIENCE), now).unwrap_err(), first);
    }
    let trust = JwtTrust::new(authority.keys());
    assert!(trust.verify(&early, &audience(AUDIENCE), now).is_err());
    assert!(trust.verify(&early, &audience(AUDIENCE), now + Duration::from_secs(80)).is_ok());
}

#[test]
fn a_clock_that_is_put_back_makes_an_expired_token_good_again() {
    let authority = Authority::new("td");
    let token = authority.sign(&header(), &with(claims(), "exp", json!(unix_now() + 60)));
    let now = SystemTime::now();
    let trust = JwtTrust::new(authority.keys());
    let later = now + Duration::from_secs(100);
    for _ in 0..2 {
        let refusal = trust.verify(&token, &audience(AUDIENCE), later).unwrap_err();
        assert!(matches!(refusal, Refusal::Expired { ago_s: 39..=40 }), "{refusal:?}");
    }
    assert!(trust.verify(&token, &audience(AUDIENCE), now).is_ok());
}

#[test]
fn the_memory_is_bounded_and_gives_up_what_is_not_asked_for() {
    let now = SystemTime::now();
    let until = now + Duration::from_secs(60);
    let memory = Memory::new(2, 4);
    let ours = audience(AUDIENCE);
    let keep = |name: &str, until| {
        let seen = memory.seen(fingerprint(name), &ours, until);
        memory.remember(&Arc::new(Refused { seen, why: Why::Other(Refusal::Signature) }), now);
    };
    let known = |name: &str| memory.recall(&fingerprint(name), &ours, now).is_some();
    keep("asked for", until);
    for stranger in 0..1000 {
        assert!(known("asked for"), "pushed out by stranger {stranger}");
        keep(&stranger.to_string(), until);
    }
    assert!(known("999"), "the newest is kept");
    assert_eq!(memory.len(), 8);
}

#[test]
fn what_has_expired_gives_way_first() {
    let now = SystemTime::now();
    let memory = Memory::new(1, 3);
    let ours = audience(AUDIENCE);
    let keep = |name: &str, life: u64, now| {
        let until = now + Duration::from_secs(life);
        let seen = memory.seen(fingerprint(name), &ours, until);
        memory.remember(&Arc::new(Refused { seen, why: Why::Other(Refusal::Signature) }), now);
    };
    keep("long", 60, now);
    keep("short", 1, now);
    keep("longer", 90, now);
    let later = now + Duration::from_secs(2);
    keep("new", 60, later);
    let known = |name: &str| memory.recall(&fingerprint(name), &ours, later).is_some();
    assert_eq!(["long", "short", "longer", "new"].map(known), [true, false, true, true]);
}

#[test]
fn every_ecdsa_algorithm_verifies() {
    for (name, curve, signing) in [
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        assert_ecdsa(name, curve, signing);
    }
}

fn assert_ecdsa(name: &str, curve: &str, signing: &'static EcdsaSigningAlgorithm) {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({
        "kty": "EC", "crv": curve, "kid": "k", "use": "jwt-svid",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    });
    let signed = signed_part(&json!({ "alg": name, "kid": "k" }), &claims());
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    assert_accepts(name, &jwk, &signed, signature.as_ref());
}

#[test]
fn every_rsa_algorithm_verifies() {
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let algorithms: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    let jwk = json!({
        "kty": "RSA", "kid": "k", "use": "sig",
        // PKCS#1: two headers of four bytes and the sign byte, then 2048 bits; the exponent is 65537.
        "n": URL_SAFE_NO_PAD.encode(&pair.public_key().as_ref()[9..265]), "e": "AQAB",
    });
    for (name, encoding) in algorithms {
        let signed = signed_part(&json!({ "alg": name, "kid": "k" }), &claims());
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        assert_accepts(name, &jwk, &signed, &signature);
    }
}

fn assert_accepts(name: &str, jwk: &Value, signed: &str, signature: &[u8]) {
    let key = |jwk: &Value| Key::from_jwk(jwk.to_string().as_bytes());
    let verify = |key| {
        let trust = JwtTrust::new(Keys::from([(TrustDomain::parse("td").unwrap(), vec![key])]));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        trust.verify(&token, &audience(AUDIENCE), SystemTime::now())
    };
    assert!(verify(key(jwk).unwrap()).is_ok(), "{name}");
    // The same key, declared for this algorithm only, and for another one only.
    assert!(verify(key(&with(jwk.clone(), "alg", json!(name))).unwrap()).is_ok(), "{name}");
    match key(&with(jwk.clone(), "alg", json!(if name == "RS256" { "PS256" } else { "RS256" }))) {
        Ok(key) => assert_eq!(verify(key).unwrap_err(), Refusal::KeyMismatch, "{name}"),
        Err(_) => assert!(name.starts_with("ES"), "{name}"),
    }
}

#[test]
fn a_key_that_is_not_for_verifying_jwt_svids_is_left_out() {
    let jwk = Authority::new("td").jwk();
    let read = |jwk: &Value| Key::from_jwk(jwk.to_string().as_bytes());
    assert!(read(&jwk).is_ok());
    for (name, value) in [
        ("use", json!("x509-svid")),
        ("use", json!("enc")),
        ("use", json!("JWT-SVID")),
        ("key_ops", json!(["sign"])),
        ("kty", json!("oct")),
        ("crv", json!("secp256k1")),
        ("crv", json!("P-384")),
        ("alg", json!("ES384")),
        ("alg", json!("HS256")),
        ("x", json!("AAAA")),
        ("x", json!(URL_SAFE_NO_PAD.encode([7; 32]))),
        ("x", json!("*")),
        ("y", Value::Null),
    ] {
        assert!(read(&with(jwk.clone(), name, value.clone())).is_err(), "{name}: {value}");
    }
    let weak = json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB" });
    assert!(read(&weak).is_err(), "1024 bits");
}

#[test]
fn an_accepted_token_is_early_again_when_the_clock_is_put_back() {
    let authority = Authority::new("td");
    let trust = JwtTrust::new(authority.keys());
    let now = SystemTime::now();
    let token = authority.sign(&header(), &with(claims(), "nbf", json!(unix_now())));
    let at = |moment| trust.verify(&token, &audience(AUDIENCE), moment);
    assert!(at(now).is_ok());
    let refusal = at(now - Duration::from_secs(600)).unwrap_err();
    assert!(matches!(refusal, Refusal::NotYetValid { .. }), "{refusal:?}");
    assert!(at(now).is_ok());
}
