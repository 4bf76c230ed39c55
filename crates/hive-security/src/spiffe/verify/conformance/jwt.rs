//! J1 to J11: the JWT-SVID.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaEncoding,
};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::testing::signed_part;

fn assert_header(name: &str, to: &Value, expected: fn(&Refusal) -> bool) {
    let header = with(header(), name, to.clone());
    let refusal = judge(&Authority::new("td"), &header, &claims()).unwrap_err();
    assert!(expected(&refusal), "{header}: {refusal:?}");
}

fn assert_claim(name: &str, to: &Value, expected: fn(&Refusal) -> bool) {
    let claims = with(claims(), name, to.clone());
    let refusal = judge(&Authority::new("td"), &header(), &claims).unwrap_err();
    assert!(expected(&refusal), "{claims}: {refusal:?}");
}

fn malformed(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Malformed { .. })
}

#[test]
fn j1_only_the_compact_serialisation_is_read() {
    let authority = Authority::new("td");
    let verifier = verifier(&[&authority]);
    let token = authority.sign(&header(), &claims());
    assert!(present(&verifier, &token).is_ok());
    let parts: Vec<&str> = token.split('.').collect();
    let flat = json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] });
    let signatures = json!([{ "protected": parts[0], "signature": parts[2] }]);
    let general = json!({ "payload": parts[1], "signatures": signatures });
    let detached = format!("{}..{}", parts[0], parts[2]);
    for other in
        [flat.to_string(), general.to_string(), detached, format!("{token}.x"), parts[0].to_owned()]
    {
        assert!(malformed(&present(&verifier, &other).unwrap_err()), "{other}");
    }
}

#[test]
fn j1_base64url_has_one_spelling() {
    let authority = Authority::new("td");
    let verifier = verifier(&[&authority]);
    let token = authority.sign(&header(), &claims());
    // The last character of a 64-byte signature carries four bits that must be zero.
    let (start, last) = token.split_at(token.len() - 1);
    let next = char::from(last.as_bytes()[0] + 1);
    for other in [format!("{token}=="), format!("{start}{next}"), format!("{token}\n")] {
        assert!(malformed(&present(&verifier, &other).unwrap_err()), "{other}");
    }
}

#[test]
fn j2_a_header_parameter_other_than_alg_kid_and_typ_is_refused() {
    for name in
        ["jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "cty", "crit", "b64", "ALG", "private"]
    {
        assert_header(name, &json!("x"), |refusal| *refusal == Refusal::HeaderParameter);
    }
}

#[test]
fn j3_another_algorithm_is_refused_before_anything_is_looked_up() {
    for name in
        ["none", "None", "", "HS256", "HS512", "EdDSA", "ES256K", "es256", "RS1", "RSA-OAEP"]
    {
        assert_header("alg", &json!(name), |refusal| *refusal == Refusal::Algorithm);
    }
    // Nothing is known of this trust domain, and yet it is the algorithm that is named.
    let stranger = Authority::new("elsewhere");
    let token = stranger.sign(&with(header(), "alg", json!("none")), &claims());
    assert_eq!(present(&verifier(&[]), &token).unwrap_err(), Refusal::Algorithm);
}

#[test]
fn j3_every_permitted_algorithm_is_accepted() {
    for (name, curve, signing) in [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({ "kty": "EC", "crv": curve, "kid": "k", "use": "jwt-svid", "x": encode(x), "y": encode(y) });
        assert_signed(name, &jwk, |signed| {
            pair.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec()
        });
    }
    for bits in [KeySize::Rsa2048, KeySize::Rsa4096] {
        assert_rsa(&rsa::KeyPair::generate(bits).unwrap());
    }
}

fn assert_rsa(pair: &rsa::KeyPair) {
    let algorithms: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    // PKCS#1: two headers of four bytes and the sign byte, then the modulus; the exponent is 65537.
    let modulus = &pair.public_key().as_ref()[9..9 + pair.public_modulus_len()];
    let jwk = json!({ "kty": "RSA", "kid": "k", "use": "jwt-svid", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB" });
    for (name, encoding) in algorithms {
        assert_signed(name, &jwk, |signed| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), signed, &mut signature).unwrap();
            signature
        });
    }
}

fn assert_signed(algorithm: &str, jwk: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) {
    let signed = signed_part(&json!({ "alg": algorithm, "kid": "k" }), &claims());
    let verifier = verifier_of("td", &json!([jwk]));
    let mut signature = sign(signed.as_bytes());
    let token = |signature: &[u8]| format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert!(present(&verifier, &token(&signature)).is_ok(), "{algorithm}");
    signature[7] ^= 1;
    let refusal = present(&verifier, &token(&signature)).unwrap_err();
    assert_eq!(refusal, Refusal::Signature, "{algorithm}");
}

#[test]
fn j4_a_token_without_kid_is_tried_against_the_keys_of_its_algorithm() {
    let (ours, other) = (Authority::new("td"), Authority::new("td"));
    let keys = |named: [(&Authority, &str); 2]| {
        let key = |(authority, kid)| with(jwt_element(authority), "kid", json!(kid));
        verifier_of("td", &json!(named.map(key)))
    };
    let nameless = ours.sign(&with(header(), "kid", Value::Null), &claims());
    assert!(present(&keys([(&other, "1"), (&ours, "2")]), &nameless).is_ok());
    assert_eq!(
        present(&keys([(&other, "1"), (&other, "2")]), &nameless).unwrap_err(),
        Refusal::Signature
    );
    // With a name, the key of that name decides, and no other is asked.
    let named = ours.sign(&with(header(), "kid", json!("1")), &claims());
    assert_eq!(
        present(&keys([(&other, "1"), (&ours, "2")]), &named).unwrap_err(),
        Refusal::Signature
    );
    assert!(present(&keys([(&ours, "1"), (&other, "2")]), &named).is_ok());
    let unknown = ours.sign(&with(header(), "kid", json!("3")), &claims());
    let refusal = present(&keys([(&ours, "1"), (&ours, "2")]), &unknown).unwrap_err();
    assert!(matches!(refusal, Refusal::UnknownKey(_)), "{refusal:?}");
}

#[test]
fn j5_typ_is_jwt_or_jose_or_absent() {
    let authority = Authority::new("td");
    for typ in [json!("JWT"), json!("JOSE"), Value::Null] {
        assert!(judge(&authority, &with(header(), "typ", typ), &claims()).is_ok());
    }
    for typ in ["jwt", "at+jwt", "wit+jwt", "", "application/jwt"] {
        assert_header("typ", &json!(typ), |refusal| *refusal == Refusal::Type);
    }
}

#[test]
fn j6_the_subject_is_the_spiffe_id_of_a_workload() {
    let authority = Authority::new("td");
    let verified = judge(&authority, &header(), &claims()).unwrap();
    assert_eq!(verified.spiffe_id(), &authority.id("/a"));
    for sub in
        [Value::Null, json!(""), json!("a"), json!("spiffe://td"), json!("spiffe://td/a/../b")]
    {
        assert_claim("sub", &sub, |refusal| *refusal == Refusal::Subject);
    }
    assert_claim("sub", &json!(["spiffe://td/a"]), malformed);
}

#[test]
fn j7_the_audience_is_there_and_ours() {
    assert_claim("aud", &Value::Null, |refusal| *refusal == Refusal::NoAudience);
    assert_claim("aud", &json!([]), |refusal| *refusal == Refusal::NoAudience);
    for aud in [
        json!("other"),
        json!(""),
        json!(["registry"]),
        json!("REGISTRY.td"),
        json!("registry.td2"),
        json!([" registry.td"]),
    ] {
        assert_claim("aud", &aud, |refusal| matches!(refusal, Refusal::Audience { .. }));
    }
    for aud in [json!([1]), json!({ "registry.td": true }), json!([[AUDIENCE]])] {
        assert_claim("aud", &aud, malformed);
    }
}

#[test]
fn j7_more_audiences_than_the_limit_are_refused() {
    let authority = Authority::new("td");
    let several = |count: usize| {
        let names: Vec<String> =
            (1..count).map(|n| format!("other-{n}")).chain([AUDIENCE.to_owned()]).collect();
        judge(&authority, &header(), &with(claims(), "aud", json!(names)))
    };
    assert!(several(AUDIENCES_MAX).is_ok());
    assert_eq!(
        several(AUDIENCES_MAX + 1).unwrap_err(),
        Refusal::TooManyAudiences { limit: AUDIENCES_MAX }
    );
}

#[test]
fn j8_the_expiry_is_there_and_to_come() {
    let authority = Authority::new("td");
    let now = unix_now();
    assert_claim("exp", &Value::Null, |refusal| *refusal == Refusal::NoExpiry);
    for past in [0, now - 3600, now - 31] {
        assert_claim("exp", &json!(past), |refusal| matches!(refusal, Refusal::Expired { .. }));
    }
    for wrong in [json!("2100-01-01"), json!(-1), json!(1e300), json!([now])] {
        assert_claim("exp", &wrong, malformed);
    }
    assert!(
        judge(&authority, &header(), &with(claims(), "exp", json!(now - 20))).is_ok(),
        "the leeway"
    );
}

#[test]
fn j9_nbf_is_honoured_and_iat_informs() {
    let authority = Authority::new("td");
    let now = unix_now();
    assert_claim("nbf", &json!(now + 60), |refusal| matches!(refusal, Refusal::NotYetValid { .. }));
    assert_claim("nbf", &json!("now"), malformed);
    assert_claim("iat", &json!("now"), malformed);
    for (name, time) in [("nbf", now + 20), ("nbf", now - 60), ("iat", now + 4000)] {
        assert!(judge(&authority, &header(), &with(claims(), name, json!(time))).is_ok(), "{name}");
    }
}

#[test]
fn j9_an_audience_is_text_or_a_list_of_texts() {
    let authority = Authority::new("td");
    for aud in [json!(AUDIENCE), json!([AUDIENCE]), json!(["other", AUDIENCE])] {
        assert!(judge(&authority, &header(), &with(claims(), "aud", aud.clone())).is_ok(), "{aud}");
    }
}

#[test]
fn j9_crit_is_refused_whatever_it_lists() {
    for crit in [json!([]), json!(["exp"]), json!(["b64"]), json!("alg")] {
        assert_header("crit", &crit, |refusal| *refusal == Refusal::HeaderParameter);
    }
}

#[test]
fn j9_the_algorithm_must_fit_the_type_and_the_curve_of_the_key() {
    for name in ["RS256", "PS256", "ES384", "ES512"] {
        assert_header("alg", &json!(name), |refusal| *refusal == Refusal::KeyMismatch);
    }
}

#[test]
fn j9_a_signature_by_another_algorithm_of_the_same_key_is_refused() {
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let modulus = URL_SAFE_NO_PAD.encode(&pair.public_key().as_ref()[9..265]);
    let jwk = json!({ "kty": "RSA", "kid": "k", "use": "jwt-svid", "n": modulus, "e": "AQAB" });
    let signed = signed_part(&json!({ "alg": "RS256", "kid": "k" }), &claims());
    let mut signature = vec![0; pair.public_modulus_len()];
    let random = SystemRandom::new();
    pair.sign(&signature::RSA_PSS_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    let refusal = present(&verifier_of("td", &json!([jwk])), &token).unwrap_err();
    assert_eq!(refusal, Refusal::Signature);
}

#[test]
fn j9_a_parameter_or_a_claim_that_is_given_twice_is_refused() {
    let authority = Authority::new("td");
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = authority.sign(&header(), &claims());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let twice_alg = encode(r#"{"alg":"none","alg":"ES256","kid":"key"}"#);
    let twice_sub = encode(&claims().to_string().replacen('{', r#"{"sub":"spiffe://td/b","#, 1));
    for twice in
        [format!("{twice_alg}.{payload}.{signature}"), format!("{head}.{twice_sub}.{signature}")]
    {
        assert!(malformed(&present(&verifier(&[&authority]), &twice).unwrap_err()), "{twice}");
    }
}

#[test]
fn j9_a_changed_payload_does_not_verify() {
    let authority = Authority::new("td");
    let token = authority.sign(&header(), &claims());
    let signature = token.rsplit_once('.').unwrap().1;
    let forged = signed_part(&header(), &with(claims(), "sub", json!("spiffe://td/root")));
    let refusal = present(&verifier(&[&authority]), &format!("{forged}.{signature}")).unwrap_err();
    assert_eq!(refusal, Refusal::Signature);
}

#[test]
fn j10_the_key_comes_from_the_bundle_of_the_subjects_trust_domain() {
    let (ours, theirs) = (Authority::new("td"), Authority::new("td.example"));
    let both = verifier(&[&ours, &theirs]);
    for kid in [json!("key"), Value::Null] {
        let forged = theirs.sign(&with(header(), "kid", kid), &claims());
        assert_eq!(present(&both, &forged).unwrap_err(), Refusal::Signature);
    }
    let token = theirs.sign(&header(), &with(claims(), "sub", json!("spiffe://td.example/a")));
    assert!(present(&both, &token).is_ok());
    let refusal = present(&verifier(&[&ours]), &token).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownTrustDomain(theirs.trust_domain.clone()));
}

#[test]
fn j11_only_keys_for_jwt_svids_are_used_from_a_bundle_document() {
    let authority = Authority::new("td");
    let token = authority.sign(&header(), &claims());
    let judge = |key: Value| present(&verifier_of("td", &json!([key])), &token);
    assert!(judge(jwt_element(&authority)).is_ok());
    for another in [
        json!("x509-svid"),
        json!("wit-svid"),
        json!("JWT-SVID"),
        json!("sig"),
        json!("enc"),
        Value::Null,
    ] {
        let refusal = judge(with(authority.jwk(), "use", another.clone())).unwrap_err();
        assert!(matches!(refusal, Refusal::UnknownKey(_)), "{another}: {refusal:?}");
    }
}

#[test]
fn limits_of_token_and_header_are_enforced_before_they_are_read() {
    let authority = Authority::new("td");
    let pad = |length| json!("x".repeat(length));
    let refusal =
        judge(&authority, &header(), &with(claims(), "pad", pad(TOKEN_MAX_BYTES))).unwrap_err();
    assert_eq!(refusal, Refusal::TooLong { limit: TOKEN_MAX_BYTES });
    let refusal =
        judge(&authority, &with(header(), "kid", pad(HEADER_MAX_BYTES)), &claims()).unwrap_err();
    assert_eq!(refusal, Refusal::HeaderTooLong { limit: HEADER_MAX_BYTES });
}
