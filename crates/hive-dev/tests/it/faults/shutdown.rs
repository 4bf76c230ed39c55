//! The service is told to stop in the middle of a rotation.

use hive_dev::proxy::{Fault, Rule};
use hive_security::credentials::{Error, Policy};

use super::ends::{number, seconds};
use super::stage::Stage;
use super::world::{Cluster, Service, Terms, World};

/// Asks for a rotation, and lets it get as far as it can while answers of this path are slow or lost.
async fn interrupted(world: &impl Stage, rule: Rule) -> Service {
    let service = world.serve(Policy::default()).await;
    world.pass(seconds(2)).await;
    world.proxy().spoil(rule);
    service.credentials.rotate().await;
    world.pass(seconds(1)).await;
    assert_eq!(number(&service), 1, "it was not interrupted");
    service
}

#[tokio::test]
async fn whoever_stops_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let world = World::start(&cluster, Terms::MINUTE).await;
    whoever_stops_in_the_middle_of_a_rotation_leaves_nothing_behind(world).await;
    whoever_stops_while_the_old_is_still_used_waits_for_half_of_the_time_and_leaves_nothing(
        &cluster,
    )
    .await;
    whoever_stops_while_nobody_answers_is_told_in_time_what_is_left(&cluster).await;
    cluster.stop().await;
}

pub(crate) async fn whoever_stops_in_the_middle_of_a_rotation_leaves_nothing_behind(
    world: impl Stage,
) {
    for (path, fault) in [
        ("auth/jwt/login", Fault::Slow(seconds(2))),
        ("database/creds/", Fault::Slow(seconds(2))),
        ("database/creds/", Fault::Lose),
        ("database/creds/", Fault::Break),
    ] {
        let service = interrupted(&world, Rule::of(path, fault.clone())).await;
        let outcome = world.close(service).await;
        assert!(outcome.is_flawless(), "{path} {fault:?}: {outcome:?}");
        world.proxy().restore();
    }
    world.stop().await;
}

async fn whoever_stops_while_the_old_is_still_used_waits_for_half_of_the_time_and_leaves_nothing(
    cluster: &Cluster,
) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    world.pass(seconds(2)).await;
    world.has_long_transactions();
    let mut long = service.pool.begin().await.expect("a transaction");
    sqlx::query("INSERT INTO ledger VALUES ('long')").execute(&mut *long).await.expect("it writes");
    service.credentials.rotate().await;
    let is_new = async || number(&service) == 2;
    world.pass_until("another is in use", seconds(10), is_new).await;
    let outcome = service.load.stop().await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    let begun = world.clock.now().since_origin();
    world.close_credentials(service.credentials).await.expect("all is given back");
    let lasted = world.clock.now().since_origin() - begun;
    assert!((seconds(2)..=seconds(5)).contains(&lasted), "{lasted:?}");
    // It was cut off: the login that it ran as does not exist any more.
    sqlx::query("SELECT 1").execute(&mut *long).await.expect_err("it was cut off");
    drop(long);
    world.nothing_is_left().await;
    world.stop().await;
}

async fn whoever_stops_while_nobody_answers_is_told_in_time_what_is_left(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    world.proxy.shut();
    let outcome = service.load.stop().await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    let begun = world.clock.now().since_origin();
    let left = world.close_credentials(service.credentials).await.expect_err("nobody answers");
    let lasted = world.clock.now().since_origin() - begun;
    assert!(lasted <= seconds(6), "{lasted:?}");
    assert!(matches!(&left, Error::Left { names, .. } if names.len() == 2), "{left:?}");
    // Nobody has to clean up: it ends by itself.
    world.pass(seconds(61)).await;
    world.nothing_is_left().await;
    world.stop().await;
}
