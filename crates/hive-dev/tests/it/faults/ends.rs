//! How a fault may end, and how that is seen.

use std::time::Duration;

use hive_security::credentials::{Error, RotationState};
use serde_json::json;

use super::stage::Stage;
use super::world::{CREDENTIAL, Service, World};

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) fn state(service: &Service) -> RotationState {
    service.credentials.status().state
}

/// The number of the credential that is in use; 0: none is.
pub(crate) fn number(service: &Service) -> u64 {
    let watch = service.credentials.watch(CREDENTIAL).expect("it was requested");
    watch.current().as_ref().as_ref().map_or(0, |credential| credential.generation())
}

/// Nobody has noticed anything.
pub(crate) fn flawless(service: &Service) {
    let so_far = service.load.so_far();
    assert!(so_far.is_flawless(), "{so_far:?}");
}

/// Time passes until all is well.
pub(crate) async fn gets_well(world: &impl Stage, service: &Service, within: Duration) {
    let is_well = async || state(service) == RotationState::Active;
    world.pass_until("it is well again", within, is_well).await;
}

/// An operator asks for another credential, once; time passes until it is in use and the old one is given back.
pub(crate) async fn rotates(world: &impl Stage, service: &Service, within: Duration) {
    let old = number(service);
    service.credentials.rotate().await;
    let is_new = async || number(service) > old;
    world.pass_until("another is in use", within, is_new).await;
    gets_well(world, service, within).await;
}

/// From when on nothing may be used: the first promise to end ends, less two seconds. Seen from the vault, whose clock
/// is ours.
pub(crate) async fn true_end(world: &World, service: &Service) -> Duration {
    let only_one = async || service.credentials.status().held == 2;
    world.pass_until("nothing older is held", seconds(120), only_one).await;
    let mut ends = Vec::new();
    for lease in world.vault.leases() {
        let body = json!({ "lease_id": lease });
        let (status, answer) = world.operate("PUT", "sys/leases/lookup", body).await;
        assert_eq!(status, 200, "{answer}");
        ends.push(answer["data"]["ttl"].as_u64().expect("a number"));
    }
    let (_, accessors) = world.operate("LIST", "auth/token/accessors", json!({})).await;
    for accessor in accessors["data"]["keys"].as_array().expect("accessors") {
        let body = json!({ "accessor": accessor });
        let (_, answer) = world.operate("POST", "auth/token/lookup-accessor", body).await;
        // The operator's own token never ends.
        ends.extend(answer["data"]["ttl"].as_u64().filter(|ttl| *ttl > 0));
    }
    let first = ends.into_iter().min().expect("something that ends");
    world.clock.now().since_origin() + seconds(first) - seconds(2)
}

/// Time passes until nothing may be used, when nothing may be used.
pub(crate) async fn fails_closed(world: &World, service: &Service, end: Duration) -> Error {
    let watch = service.credentials.watch(CREDENTIAL).expect("it was requested");
    let closed = || watch.current().as_ref().as_ref().err().cloned();
    world.pass_until("it fails closed", seconds(900), async || closed().is_some()).await;
    let at = world.clock.now().since_origin();
    assert!(at + seconds(1) >= end, "closed at {at:?}, before the end at {end:?}");
    assert!(at <= end + seconds(1), "closed at {at:?}, after the end at {end:?}");
    assert_eq!(state(service), RotationState::Withdrawn);
    assert!(!service.credentials.status().is_ready());
    closed().expect("it is closed")
}

/// Time passes until everything may be used again.
pub(crate) async fn recovers(world: &World, service: &Service, within: Duration) {
    world.pass_until("it recovers", within, async || number(service) > 0).await;
    service.load.progress(20).await;
}
