//! The identity that a service logs in with: its source, and the keys that Vault believes.

use hive_dev::authority::KeyKind;
use hive_security::credentials::Policy;
use serde_json::json;

use super::ends::{flawless, number, rotates, seconds};
use super::stage::Stage;
use super::world::{Cluster, Terms, World};

#[tokio::test]
async fn an_identity_is_needed_for_logins_only() {
    let cluster = Cluster::start().await;
    let world = World::start(&cluster, Terms::MINUTE).await;
    a_key_of_the_authority_may_be_replaced_and_revoked_between_two_logins(world).await;
    a_source_of_identity_that_is_down_costs_nothing_that_is_held(&cluster).await;
    cluster.stop().await;
}

pub(crate) async fn a_key_of_the_authority_may_be_replaced_and_revoked_between_two_logins(
    world: impl Stage,
) {
    let service = world.serve(Policy::default()).await;
    let authority = world.authority();
    authority.rotate_jwt().await.expect("a new key");
    rotates(&world, &service, seconds(400)).await;
    flawless(&service);
    let fresh = authority.prepare(KeyKind::Jwt).await.expect("a key");
    authority.activate(&fresh).await.expect("it is used");
    // The JWT-SVID that is held was signed by one of them.
    for (old, _) in authority.signing_keys(KeyKind::Jwt) {
        if old.id() != fresh.id() {
            authority.taint(&old).expect("it is known");
            authority.revoke(&old).expect("it is tainted");
        }
    }
    // Vault believes the keys that it has fetched until it meets one that it does not know, or is configured.
    let config = json!({ "jwks_url": authority.keys_url() });
    let (status, _) = world.operate("POST", "auth/jwt/config", config).await;
    assert!((200..300).contains(&status), "{status}");
    rotates(&world, &service, seconds(400)).await;
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn a_source_of_identity_that_is_down_costs_nothing_that_is_held(cluster: &Cluster) {
    let mut world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    let before = number(&service);
    world.authority.take().expect("it is there").stop().await;
    world.pass(seconds(120)).await;
    assert_eq!(number(&service), before, "renewals need no identity");
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}
