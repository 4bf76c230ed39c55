//! Clocks that differ, clocks that jump, and nodes that have not heard of us yet.

use hive_security::credentials::Policy;

use super::ends::{flawless, number, rotates, seconds};
use super::world::{Cluster, Terms, World};

#[tokio::test]
async fn clocks_may_differ_and_jump() {
    let cluster = Cluster::start().await;
    a_step_of_the_wall_clock_moves_no_renewal_and_ends_nothing(&cluster).await;
    a_node_that_has_not_heard_of_the_login_yet_is_waited_for(&cluster).await;
    cluster.stop().await;
}

async fn a_step_of_the_wall_clock_moves_no_renewal_and_ends_nothing(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    for (by, back) in [(90, false), (90, true), (3600, false), (3600, true)] {
        world.step_wall(seconds(by), back);
        let before = number(&service);
        service.credentials.rotate().await;
        world.pass(seconds(25)).await;
        // Vault refuses a JWT-SVID of another hour; nothing that is held is given up for that.
        assert!(by < 3600 || number(&service) == before, "the SVID was accepted");
        assert!(service.credentials.status().is_ready());
        flawless(&service);
        world.step_wall(seconds(0), false);
        rotates(&world, &service, seconds(400)).await;
    }
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn a_node_that_has_not_heard_of_the_login_yet_is_waited_for(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    for status in [412, 403] {
        world.vault.weather().lag_after_login(seconds(2), status);
        let service = world.serve(Policy::default()).await;
        rotates(&world, &service, seconds(120)).await;
        let outcome = world.close(service).await;
        assert!(outcome.is_flawless(), "{status}: {outcome:?}");
    }
    world.stop().await;
}
