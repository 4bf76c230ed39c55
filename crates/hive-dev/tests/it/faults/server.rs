//! The server is sealed, is gone, falls silent.

use hive_dev::proxy::{Fault, Rule};
use hive_security::credentials::{Error, Policy, RotationState};

use super::ends::{fails_closed, flawless, gets_well, recovers, seconds, state, true_end};
use super::world::{Cluster, Terms, World};

#[tokio::test]
async fn a_server_that_is_away_is_survived_until_the_credential_ends() {
    let cluster = Cluster::start().await;
    a_short_seal_is_noticed_by_nobody_and_a_long_one_closes_when_the_credential_ends(&cluster)
        .await;
    a_server_that_is_gone_or_silent_is_survived_until_the_credential_ends(&cluster).await;
    cluster.stop().await;
}

async fn a_short_seal_is_noticed_by_nobody_and_a_long_one_closes_when_the_credential_ends(
    cluster: &Cluster,
) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    world.pass(seconds(20)).await;
    world.vault.set_sealed(true);
    let is_noticed = async || state(&service) != RotationState::Active;
    world.pass_until("it is noticed", seconds(25), is_noticed).await;
    world.pass(seconds(5)).await;
    world.vault.set_sealed(false);
    gets_well(&world, &service, seconds(60)).await;
    flawless(&service);

    let end = true_end(&world, &service).await;
    world.vault.set_sealed(true);
    let error = fails_closed(&world, &service, end).await;
    assert!(matches!(&error, Error::Expired { .. }) && error.is_transient(), "{error:?}");
    world.pass(seconds(540)).await;
    world.vault.set_sealed(false);
    recovers(&world, &service, seconds(60)).await;
    let outcome = world.close(service).await;
    assert!(outcome.failed.is_empty() && outcome.barred > 0, "{outcome:?}");
    world.stop().await;
}

async fn a_server_that_is_gone_or_silent_is_survived_until_the_credential_ends(cluster: &Cluster) {
    // Whoever hears nothing gives a call up after a minute, by the clock of the test.
    let world = World::start(cluster, Terms { lease_s: (300, 3600), token_s: (300, 3600) }).await;
    let service = world.serve(Policy::default()).await;
    for is_silent in [false, true] {
        world.pass(seconds(100)).await;
        if is_silent {
            world.proxy.spoil(Rule::of("", Fault::Blackhole));
        } else {
            world.proxy.shut();
        }
        world.pass(seconds(125)).await;
        world.proxy.restore();
        world.proxy.reopen();
        gets_well(&world, &service, seconds(120)).await;
        flawless(&service);
    }
    let end = true_end(&world, &service).await;
    world.proxy.shut();
    let error = fails_closed(&world, &service, end).await;
    assert!(matches!(&error, Error::Expired { .. }), "{error:?}");
    world.proxy.reopen();
    recovers(&world, &service, seconds(60)).await;
    // A login whose answer was lost in the silence may have made a token. It lives no longer than this.
    world.pass(seconds(300)).await;
    let outcome = world.close(service).await;
    assert!(outcome.failed.is_empty() && outcome.barred > 0, "{outcome:?}");
    world.stop().await;
}
