//! X1 to X13, B1 to B5: the X.509-SVIDs that are issued, and the bundle document.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::engine::general_purpose::STANDARD;
use hive_dev::authority::KeyKind;

use super::*;

#[tokio::test]
async fn x1_to_x8_what_is_issued_is_a_leaf() {
    let place = named("td").await;
    let svid = x509_svid(&place).await;
    let leaf = &certificates(&svid.x509_svid)[0];
    assert_eq!(uris(leaf), [svid.spiffe_id], "one URI, which has a path");
    let names = leaf.subject_alternative_name().expect("one extension").expect("present");
    assert!(names.critical || leaf.subject().iter().next().is_some(), "it names somebody");
    let constraints = leaf.basic_constraints().expect("one extension").expect("present");
    assert!(!constraints.value.ca);
    let usage = leaf.key_usage().expect("one extension").expect("present");
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let extended = leaf.extended_key_usage().expect("one extension").expect("present");
    assert!(extended.value.server_auth && extended.value.client_auth);
}

#[tokio::test]
async fn x4_to_x7_what_signs_is_an_authority_of_the_leafs_trust_domain() {
    let place = named("td").await;
    let svid = x509_svid(&place).await;
    let (leaf, authority) = (&certificates(&svid.x509_svid)[0], &certificates(&svid.bundle)[0]);
    assert_eq!(leaf.issuer(), authority.subject());
    assert_eq!(uris(authority), ["spiffe://td"], "a trust domain, without a path");
    let constraints = authority.basic_constraints().expect("one extension").expect("present");
    assert!(constraints.critical && constraints.value.ca);
    let usage = authority.key_usage().expect("one extension").expect("present");
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
}

#[tokio::test]
async fn x13_the_chain_begins_with_the_leaf_the_key_is_pkcs8_and_bundles_are_concatenated() {
    let place = named("td").await;
    let signs = place.authority.signing_keys(KeyKind::X509).remove(0).0;
    place.authority.prepare(KeyKind::X509).await.expect("prepared");
    let svid = x509_svid(&place).await;
    let chain = certificates(&svid.x509_svid);
    assert_eq!(uris(&chain[0]), [svid.spiffe_id]);
    assert_eq!(crate::authority_rotation::signer(&chain[0]), signs.id());
    // Version 0 of RFC 5208, which an encrypted key has not.
    assert_eq!(svid.x509_svid_key[..2], [0x30, 0x81]);
    assert_eq!(svid.x509_svid_key[3..6], [2, 1, 0]);
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &svid.x509_svid_key);
    let public = pair.expect("PKCS#8").public_key().as_ref().to_vec();
    assert_eq!(chain[0].public_key().subject_public_key.data.as_ref(), public);
    assert_eq!(certificates(&svid.bundle).len(), 2, "one DER after the other, and no byte more");
}

fn elements(place: &Place, purpose: &str) -> Vec<Value> {
    let document: Value =
        serde_json::from_str(&place.authority.bundle_document()).expect("a JSON document");
    let keys = document["keys"].as_array().expect("keys are always there").clone();
    assert!(
        keys.iter().all(|key| key["use"] == "x509-svid" || key["use"] == "jwt-svid"),
        "the case counts: {keys:?}"
    );
    keys.into_iter().filter(|key| key["use"] == purpose).collect()
}

#[tokio::test]
async fn b1_b3_the_document_has_keys_and_each_key_a_use() {
    let place = named("td").await;
    assert_eq!(elements(&place, "x509-svid").len(), 1);
    assert_eq!(elements(&place, "jwt-svid").len(), 1);
    for key in elements(&place, "x509-svid").iter().chain(&elements(&place, "jwt-svid")) {
        assert_eq!(key["kty"], "EC");
    }
}

#[tokio::test]
async fn b1_who_publishes_no_key_vouches_for_nobody_any_more() {
    let place = named("td").await;
    let foreign = Foreign::of(&place);
    let token = foreign.sign(&Foreign::header(), &Foreign::claims());
    assert!(validate(&place, &token).await.is_ok());
    assert!(place.authority.federate("there.org", r#"{"keys":[]}"#).expect("all are revoked"));
    assert_eq!(validate(&place, &token).await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn b4_an_authority_is_published_as_one_certificate_without_kid() {
    let place = named("td").await;
    place.authority.prepare(KeyKind::X509).await.expect("prepared");
    let elements = elements(&place, "x509-svid");
    assert_eq!(elements.len(), 2, "one element for each");
    let mut published = Vec::new();
    for element in &elements {
        assert!(element.get("kid").is_none());
        let [certificate] = element["x5c"].as_array().expect("certificates").as_slice() else {
            panic!("{element}")
        };
        let text = certificate.as_str().expect("text");
        published.extend(STANDARD.decode(text).expect("base64, and not base64url"));
    }
    assert_eq!(published, x509_svid(&place).await.bundle);
    assert!(certificates(&published).iter().all(|one| one.issuer() == one.subject()));
}

#[tokio::test]
async fn b5_a_key_for_jwt_svids_is_published_with_the_kid_of_its_tokens() {
    let place = named("td").await;
    let keys = elements(&place, "jwt-svid");
    assert_eq!(open(&token(&place).await).0["kid"], keys[0]["kid"]);
    assert!(keys[0]["kid"].as_str().is_some_and(|kid| !kid.is_empty()));
}
