//! Keys that are prepared, activated, tainted and revoked, one step at a time.

use hive_dev::authority::{KeyKind, SigningKey, Stage};
use serde_json::Value;
use tonic::Streaming;

use crate::authority::{Place, next, wire, with_header};

fn stages(place: &Place, kind: KeyKind) -> Vec<Stage> {
    place.authority.signing_keys(kind).into_iter().map(|(_, stage)| stage).collect()
}

fn active(place: &Place, kind: KeyKind) -> SigningKey {
    place.authority.signing_keys(kind).remove(0).0
}

/// How many authorities are in the bundle, and which one signed the SVID.
async fn x509(stream: &mut Streaming<wire::X509svidResponse>) -> (usize, String) {
    let svid = next(stream).await.svids.remove(0);
    let (mut roots, mut rest) = (0, svid.bundle.as_slice());
    while !rest.is_empty() {
        (rest, _) = x509_parser::parse_x509_certificate(rest).expect("DER");
        roots += 1;
    }
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.x509_svid).expect("DER");
    (roots, signer(&leaf))
}

/// The authority key identifier, as the names of our keys are written.
pub(crate) fn signer(leaf: &x509_parser::certificate::X509Certificate<'_>) -> String {
    use x509_parser::extensions::ParsedExtension;
    let found = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
        _ => None,
    });
    found.expect("it names its signer").0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn an_x509_authority_is_prepared_activated_tainted_and_revoked() {
    let place = Place::mine().await;
    let (authority, kind) = (&place.authority, KeyKind::X509);
    let mut stream = place.x509_svids().await;
    let old = active(&place, kind);
    assert_eq!(x509(&mut stream).await, (1, old.id().to_owned()));

    let new = authority.prepare(kind).await.expect("prepared");
    assert_eq!(x509(&mut stream).await, (2, old.id().to_owned()), "published, not used");
    assert_eq!(stages(&place, kind), [Stage::Active, Stage::Prepared]);

    authority.activate(&new).await.expect("activated");
    assert_eq!(x509(&mut stream).await, (2, new.id().to_owned()), "used");
    assert_eq!(stages(&place, kind), [Stage::Active, Stage::Old]);

    authority.taint(&old).expect("tainted");
    assert_eq!(x509(&mut stream).await, (2, new.id().to_owned()), "reissued at once");
    assert_eq!(stages(&place, kind), [Stage::Active, Stage::Tainted]);

    authority.revoke(&old).expect("revoked");
    assert_eq!(x509(&mut stream).await, (1, new.id().to_owned()), "gone from the bundle");
    assert_eq!(stages(&place, kind), [Stage::Active]);
}

#[tokio::test]
async fn a_token_of_a_revoked_key_is_valid_no_more() {
    let place = Place::mine().await;
    let (authority, kind, client) = (&place.authority, KeyKind::Jwt, place.client().await);
    let (old, before) = (active(&place, kind), token(&place).await);
    let new = authority.prepare(kind).await.expect("prepared");
    assert_eq!(kid(&token(&place).await), old.id(), "not used yet");
    authority.activate(&new).await.expect("activated");
    assert_eq!(kid(&token(&place).await), new.id());
    authority.taint(&old).expect("tainted");
    assert!(client.validate_jwt_token("a", &before).await.is_ok(), "still in the bundle");
    authority.revoke(&old).expect("revoked");
    assert!(client.validate_jwt_token("a", &before).await.is_err());
    let keys = client.fetch_jwt_bundles().await.expect("bundles");
    let domain = spiffe::TrustDomain::new(authority.trust_domain()).expect("a good name");
    let ours = keys.get(&domain).expect("our own");
    let kids = ours.jwt_authorities().map(|key| key.key_id().to_owned());
    assert_eq!(kids.collect::<Vec<_>>(), [new.id()]);
}

#[tokio::test]
async fn steps_out_of_turn_are_refused_and_change_nothing() {
    let place = Place::mine().await;
    for kind in [KeyKind::Jwt, KeyKind::X509] {
        let (authority, first) = (&place.authority, active(&place, kind));
        assert!(authority.activate(&first).await.is_err(), "it is active");
        assert!(authority.taint(&first).is_err() && authority.revoke(&first).is_err());
        let dropped = authority.prepare(kind).await.expect("prepared");
        let second = authority.prepare(kind).await.expect("prepared again");
        assert!(authority.activate(&dropped).await.is_err(), "another one took its place");
        assert_eq!(stages(&place, kind), [Stage::Active, Stage::Prepared]);
        authority.activate(&second).await.expect("activated");
        let refused = authority.revoke(&first).expect_err("it is not tainted");
        assert!(refused.to_string().contains("tainted"), "{refused}");
        assert_eq!(active(&place, kind), second);
    }
}

async fn token(place: &Place) -> String {
    let wanted = wire::JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: String::new() };
    let answer = place.raw().await.fetch_jwtsvid(with_header(wanted)).await.expect("a token");
    answer.into_inner().svids.remove(0).svid
}

fn kid(token: &str) -> String {
    use base64::Engine;
    let (header, _) = token.split_once('.').expect("a header");
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).expect("base64");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}
