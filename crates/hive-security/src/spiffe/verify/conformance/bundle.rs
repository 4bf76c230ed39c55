//! B1 to B4: bundle documents, as their consumer reads them.

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};

use super::*;

fn token(authority: &Authority) -> String {
    authority.sign(&header(), &claims())
}

fn chain(authority: &Authority) -> Vec<CertificateDer<'static>> {
    authority.issue(&leaf("spiffe://td/a")).0
}

#[test]
fn b1_a_document_without_keys_is_none() {
    for document in
        ["", "[]", "{}", r#"{"keys":null}"#, r#"{"keys":{}}"#, r#"{"spiffe_sequence":1}"#]
    {
        let refusal = Verifier::new([(TrustDomain::parse("td").unwrap(), document)]).unwrap_err();
        assert!(matches!(refusal, Refusal::Bundle { .. }), "{document}: {refusal:?}");
    }
}

#[test]
fn b1_empty_keys_mean_that_nothing_is_trusted_any_more() {
    let authority = Authority::new("td");
    let revoked = verifier_of("td", &json!([]));
    let refusal = present(&revoked, &token(&authority)).unwrap_err();
    assert!(matches!(refusal, Refusal::UnknownKey(_)), "{refusal:?}");
    let refusal = present_chain(&revoked, &chain(&authority)).unwrap_err();
    assert!(matches!(refusal, Refusal::Untrusted { .. }), "{refusal:?}");
}

#[test]
fn b2_an_element_of_an_unknown_type_is_ignored_alone() {
    let authority = Authority::new("td");
    for kty in [json!("oct"), json!("unheard-of"), json!(7), Value::Null] {
        let odd = [
            with(jwt_element(&authority), "kty", kty.clone()),
            with(x509_element(&authority.root), "kty", kty.clone()),
        ];
        let with_others =
            json!([odd[0], odd[1], jwt_element(&authority), x509_element(&authority.root)]);
        assert!(present(&verifier_of("td", &with_others), &token(&authority)).is_ok(), "{kty}");
        assert!(
            present_chain(&verifier_of("td", &with_others), &chain(&authority)).is_ok(),
            "{kty}"
        );
        assert!(present(&verifier_of("td", &json!(odd)), &token(&authority)).is_err(), "{kty}");
        assert!(
            present_chain(&verifier_of("td", &json!(odd)), &chain(&authority)).is_err(),
            "{kty}"
        );
    }
}

#[test]
fn b3_an_element_of_an_unknown_use_is_ignored_alone() {
    let authority = Authority::new("td");
    for uses in [
        json!("X509-SVID"),
        json!("jwt-svid "),
        json!("sig"),
        json!("wit-svid"),
        json!(["jwt-svid"]),
        Value::Null,
    ] {
        let odd = [
            with(jwt_element(&authority), "use", uses.clone()),
            with(x509_element(&authority.root), "use", uses.clone()),
        ];
        assert!(present(&verifier_of("td", &json!(odd)), &token(&authority)).is_err(), "{uses}");
        assert!(
            present_chain(&verifier_of("td", &json!(odd)), &chain(&authority)).is_err(),
            "{uses}"
        );
        let with_others =
            json!([odd[0], odd[1], jwt_element(&authority), x509_element(&authority.root)]);
        assert!(present(&verifier_of("td", &with_others), &token(&authority)).is_ok(), "{uses}");
    }
}

#[test]
fn b4_an_x509_element_without_certificate_is_ignored_and_only_the_first_counts() {
    let (ours, other) = (Authority::new("td"), Authority::new("td"));
    let encode = |authority: &Authority| STANDARD.encode(&authority.root);
    let judge = |x5c: Value| {
        let verifier = verifier_of("td", &json!([with(x509_element(&ours.root), "x5c", x5c)]));
        present_chain(&verifier, &chain(&ours))
    };
    assert!(judge(json!([encode(&ours), encode(&other)])).is_ok());
    for none in [
        Value::Null,
        json!([]),
        json!([""]),
        json!("x"),
        json!(["*"]),
        json!([encode(&other), encode(&ours)]),
    ] {
        let refusal = judge(none.clone()).unwrap_err();
        assert!(matches!(refusal, Refusal::Untrusted { .. }), "{none}: {refusal:?}");
    }
}

#[test]
fn b4_a_certificate_that_may_not_sign_is_no_authority() {
    let authority = Authority::new("td");
    let published = |is_ca, usage| {
        let mut params = CertificateParams::default();
        (params.is_ca, params.key_usages) = (is_ca, vec![usage]);
        let chain = chain_through(&authority, vec![params], &leaf("spiffe://td/a"));
        present_chain(&verifier_of("td", &json!([x509_element(&chain[1])])), &chain[..1])
    };
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    assert!(published(ca(), KeyUsagePurpose::KeyCertSign).is_ok());
    for (is_ca, usage) in [
        (IsCa::NoCa, KeyUsagePurpose::DigitalSignature),
        (IsCa::ExplicitNoCa, KeyUsagePurpose::KeyCertSign),
        (ca(), KeyUsagePurpose::CrlSign),
    ] {
        let refusal = published(is_ca, usage).unwrap_err();
        assert!(matches!(refusal, Refusal::Untrusted { .. }), "{refusal:?}");
    }
}

#[test]
fn b5_a_jwt_element_without_kid_is_ignored() {
    let authority = Authority::new("td");
    for kid in [Value::Null, json!(""), json!(7)] {
        let verifier =
            verifier_of("td", &json!([with(jwt_element(&authority), "kid", kid.clone())]));
        let nameless = authority.sign(&with(header(), "kid", Value::Null), &claims());
        assert!(present(&verifier, &nameless).is_err(), "{kid}");
    }
}

#[test]
fn bundles_of_one_trust_domain_are_not_merged() {
    let authority = Authority::new("td");
    let twice = [0, 1].map(|_| (authority.trust_domain.clone(), document(&authority).to_string()));
    assert!(matches!(Verifier::new(twice).unwrap_err(), Refusal::Bundle { .. }));
}
