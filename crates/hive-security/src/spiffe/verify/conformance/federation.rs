//! B1 to B4 and B6 to B9 for those who fetch bundles: what is read of a document besides its keys, and bundle maps.

use std::time::Duration;

use super::*;

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn parse(document: &Value) -> Result<BundleDocument, Refusal> {
    BundleDocument::parse(&td("td"), document.to_string().as_bytes())
}

fn map(text: &str) -> Result<BundleMap, Refusal> {
    BundleMap::parse(text.as_bytes())
}

#[test]
fn b1_a_document_may_be_empty_and_must_have_keys() {
    assert!(parse(&json!({ "keys": [] })).unwrap().is_empty());
    let not_understood = json!({ "keys": [{ "kty": "new", "use": "x509-svid" }, {}, 7] });
    assert!(parse(&not_understood).unwrap().is_empty());
    assert!(parse(&json!({ "spiffe_sequence": 1 })).is_err());
    assert!(parse(&json!({ "Keys": [] })).is_err());
}

#[test]
fn b2_b3_and_b4_what_is_not_understood_is_left_out_and_the_others_are_kept() {
    let authority = Authority::new("td");
    let odd = [
        with(jwt_element(&authority), "kty", json!("oct")),
        with(x509_element(&authority.root), "kty", Value::Null),
        with(jwt_element(&authority), "use", json!("sig")),
        with(x509_element(&authority.root), "use", json!("X509-SVID")),
        with(jwt_element(&authority), "kid", Value::Null),
        with(x509_element(&authority.root), "x5c", json!([])),
        with(
            x509_element(&authority.root),
            "x5c",
            json!(["AAAA", STANDARD.encode(&authority.root)]),
        ),
    ];
    assert!(parse(&json!({ "keys": odd })).unwrap().is_empty());
    let mut keys = odd.to_vec();
    keys.extend([jwt_element(&authority), x509_element(&authority.root)]);
    let document = parse(&json!({ "keys": keys })).unwrap();
    assert_eq!(document.jwt_bundle().key_ids().collect::<Vec<_>>(), ["key"]);
    assert_eq!(document.x509_bundle().authorities(), std::slice::from_ref(&authority.root));
}

#[test]
fn b6_the_sequence_is_a_whole_number_of_64_bits_and_orders_documents() {
    for sequence in [0, 1, (1 << 53) + 1, 1 << 63, u64::MAX] {
        let document = parse(&json!({ "keys": [], "spiffe_sequence": sequence })).unwrap();
        assert_eq!(document.sequence(), Some(sequence));
    }
    for odd in [json!("1"), json!(-1), json!(1.5), json!([1]), json!(true), json!(1e20)] {
        assert!(parse(&json!({ "keys": [], "spiffe_sequence": odd })).is_err(), "{odd}");
    }
    let numbered =
        |sequence: Value| parse(&json!({ "keys": [], "spiffe_sequence": sequence })).unwrap();
    for (new, known, supersedes) in [
        (json!(2), json!(1), true),
        (json!(2), json!(2), true),
        (json!(1), json!(2), false),
        (json!((1_u64 << 53) - 1), json!(1_u64 << 53), false),
        (json!(u64::MAX - 1), json!(u64::MAX), false),
        (Value::Null, json!(2), true),
        (json!(1), Value::Null, true),
    ] {
        let found = numbered(new.clone()).supersedes(&numbered(known.clone()));
        assert_eq!(found, supersedes, "{new} after {known}");
    }
}

#[test]
fn b7_the_refresh_hint_is_in_whole_seconds_and_no_reason_to_refuse_keys() {
    let hint = |hint: Value| {
        parse(&json!({ "keys": [], "spiffe_refresh_hint": hint })).unwrap().refresh_hint()
    };
    for seconds in [0, 1, 300, 1 << 63, u64::MAX] {
        assert_eq!(hint(json!(seconds)), Some(Duration::from_secs(seconds)));
    }
    assert_eq!(hint(json!(1e30)), Some(Duration::from_secs(u64::MAX)));
    for odd in [Value::Null, json!(-1), json!(0.5), json!("300"), json!([300])] {
        assert_eq!(hint(odd.clone()), None, "{odd}");
    }
    assert_eq!(parse(&json!({ "keys": [] })).unwrap().refresh_hint(), None);
}

#[test]
fn b8_nothing_but_keys_is_required_and_what_is_not_known_is_ignored() {
    let authority = Authority::new("td");
    let bare = json!({ "keys": [x509_element(&authority.root)] });
    let mut rich = bare.clone();
    rich["keys"][0]["x5t#S256"] = json!("AAAA");
    rich["keys"][0]["nbf"] = json!({ "a": 1 });
    rich["issuer"] = json!(["a"]);
    rich["trust_domain"] = json!("other");
    assert_eq!(parse(&rich).unwrap(), parse(&bare).unwrap());
}

#[test]
fn b9_a_map_has_the_bundles_of_its_trust_domains_each_apart() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let text =
        json!({ "trust_domains": { "one": document(&one), "two": document(&two) }, "more": 1 });
    let map = map(&text.to_string()).unwrap();
    assert_eq!(map.documents().count(), 2);
    assert!(map.document(&td("three")).is_none());
    let verifier = Verifier::of_documents(map.documents()).unwrap();
    let claims = |of: &Authority| with(claims(), "sub", json!(of.id("/a").to_string()));
    for (signer, of, good) in [(&one, &one, true), (&two, &two, true), (&one, &two, false)] {
        let token = signer.sign(&header(), &claims(of));
        assert_eq!(present(&verifier, &token).is_ok(), good);
    }
}

#[test]
fn b9_a_map_without_trust_domains_or_with_a_name_twice_is_refused() {
    assert_eq!(map(r#"{"trust_domains":{}}"#).unwrap().documents().count(), 0);
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"trust_domains":null}"#,
        r#"{"trust_domains":[]}"#,
        r#"{"keys":[]}"#,
        r#"{"trust_domains":{"td":{}}}"#,
        r#"{"trust_domains":{"td":null}}"#,
        r#"{"trust_domains":{"td":{"keys":[]},"td":{"keys":[]}}}"#,
        r#"{"trust_domains":{"td":{"keys":[]},"a":{"keys":[]},"\u0074d":{"keys":[]}}}"#,
        r#"{"trust_domains":{"td":{"keys":[],"keys":[]}}}"#,
        r#"{"trust_domains":{},"trust_domains":{}}"#,
        r#"{"trust_domains":{"TD":{"keys":[]}}}"#,
        r#"{"trust_domains":{"spiffe://td":{"keys":[]}}}"#,
        r#"{"trust_domains":{"":{"keys":[]}}}"#,
        r#"{"trust_domains":{"td":{"keys":[],"spiffe_sequence":"1"}}}"#,
    ] {
        assert!(map(bad).is_err(), "{bad}");
    }
}

#[test]
fn b9_the_refresh_hint_of_a_bundle_says_nothing_about_the_map() {
    let hint =
        r#"{"trust_domains":{"td":{"keys":[],"spiffe_sequence":4,"spiffe_refresh_hint":1}}}"#;
    let map = map(hint).unwrap();
    let document = map.document(&td("td")).unwrap();
    assert_eq!((document.sequence(), document.refresh_hint()), (Some(4), None));
}
