//! Keys change under go-spiffe and py-spiffe, and nobody loses anybody.

use hive_dev::authority::{KeyKind, SigningKey};
use hive_security::Audience;
use serde_json::json;

use crate::authority::{Place, in_time};
use crate::interop::{Library, Other, World};

fn active(place: &Place, kind: KeyKind) -> SigningKey {
    place.authority.signing_keys(kind).remove(0).0
}

/// Waits until their bundle has so many authorities and their SVID is another one, if it should be.
async fn x509_becomes(
    other: &mut Other,
    authorities: usize,
    not: Option<&str>,
) -> (Vec<String>, String) {
    in_time(async {
        loop {
            let (held, serial) = other.x509().await;
            if held.len() == authorities && not.is_none_or(|not| not != serial) {
                return (held, serial);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn keys_become(other: &mut Other, wanted: &[&SigningKey]) {
    let mut wanted: Vec<&str> = wanted.iter().map(|key| key.id()).collect();
    wanted.sort_unstable();
    in_time(async {
        while other.keys().await != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Waits until our side has so many X.509 authorities of its own trust domain.
async fn ours_become(world: &World, authorities: usize) {
    let domain = world.workload.trust_domain();
    crate::authority::until(async || {
        let current = world.workload.x509().current();
        let material = current.as_ref().as_ref().expect("an identity");
        material.bundle(&domain).is_some_and(|bundle| bundle.authorities().len() == authorities)
    })
    .await;
}

async fn x509_authorities_change(library: Library) {
    let mut world = World::start(library).await;
    let kind = KeyKind::X509;
    let old = active(&world.place, kind);
    let (first, serial) = x509_becomes(&mut world.other, 1, None).await;

    let new = world.place.authority.prepare(kind).await.expect("prepared");
    let (both, _) = x509_becomes(&mut world.other, 2, None).await;
    assert!(both.contains(&first[0]));
    ours_become(&world, 2).await;
    world.agree().await;

    world.place.authority.activate(&new).await.expect("activated");
    x509_becomes(&mut world.other, 2, Some(&serial)).await;
    world.agree().await;

    world.place.authority.taint(&old).expect("tainted");
    world.place.authority.revoke(&old).expect("revoked");
    let (last, _) = x509_becomes(&mut world.other, 1, None).await;
    assert_ne!(last, first, "the new authority is the only one");
    ours_become(&world, 1).await;
    world.agree().await;
}

#[tokio::test]
async fn go_spiffe_and_we_follow_a_change_of_the_x509_authority() {
    x509_authorities_change(Library::Go).await;
}

#[tokio::test]
async fn py_spiffe_and_we_follow_a_change_of_the_x509_authority() {
    x509_authorities_change(Library::Python).await;
}

async fn jwt_keys_change(library: Library) {
    let mut world = World::start(library).await;
    let (kind, audience) = (KeyKind::Jwt, Audience::parse("orders.test").expect("a good name"));
    let old = active(&world.place, kind);
    keys_become(&mut world.other, &[&old]).await;
    let before = world.other.token(&audience).await;

    let new = world.place.authority.prepare(kind).await.expect("prepared");
    keys_become(&mut world.other, &[&old, &new]).await;
    world.place.authority.activate(&new).await.expect("activated");
    world.agree().await;
    let known = world.other.judge("verify", &before, &audience).await;
    known.expect("the old key is still in the bundle");

    world.place.authority.taint(&old).expect("tainted");
    world.place.authority.revoke(&old).expect("revoked");
    keys_become(&mut world.other, &[&new]).await;
    crate::authority::until(async || world.workload.verify_jwt(&before, &audience).is_err()).await;
    for verify in ["verify", "validate"] {
        let refused = world.other.judge(verify, &before, &audience).await;
        refused.expect_err("its key is gone");
    }
    let fresh = Audience::parse("fresh.test").expect("a good name");
    let token = world.other.token(&fresh).await;
    world.workload.verify_jwt(&token, &fresh).expect("the new key signed it");
}

#[tokio::test]
async fn go_spiffe_and_we_follow_a_change_of_the_jwt_key() {
    jwt_keys_change(Library::Go).await;
}

#[tokio::test]
async fn py_spiffe_and_we_follow_a_change_of_the_jwt_key() {
    jwt_keys_change(Library::Python).await;
}

async fn tokens_of_a_federated_trust_domain(library: Library) {
    let mut world = World::start(library).await;
    let there = Place::mine().await;
    let foreign =
        there.client().await.fetch_jwt_svid(["orders.test"], None).await.expect("a token");
    let order = json!({ "do": "validate", "token": foreign.token(), "audience": "orders.test" });
    world.other.obey(order.clone()).await.expect_err("nobody trusts it yet");

    let (name, bundle) = (there.authority.trust_domain(), there.authority.bundle_document());
    assert!(world.place.authority.federate(name, &bundle).expect("a good document"));
    let said = world.other.obey(order).await.expect("the Workload API trusts it");
    assert_eq!(said["spiffe_id"], there.id("/ns/test/sa/me"));
    let audience = Audience::parse("orders.test").expect("a good name");
    in_time(async {
        while world.other.judge("verify", foreign.token(), &audience).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    crate::authority::until(async || world.workload.verify_jwt(foreign.token(), &audience).is_ok())
        .await;
}

#[tokio::test]
async fn go_spiffe_and_we_believe_a_federated_trust_domain() {
    tokens_of_a_federated_trust_domain(Library::Go).await;
}

#[tokio::test]
async fn py_spiffe_and_we_believe_a_federated_trust_domain() {
    tokens_of_a_federated_trust_domain(Library::Python).await;
}
