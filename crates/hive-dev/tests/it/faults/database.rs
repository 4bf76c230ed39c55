//! The database does not do what Vault asks of it.

use std::time::Duration;

use hive_dev::vault::Setup;
use hive_security::credentials::Policy;
use hive_security::metrics::Metrics;
use serde_json::json;

use super::cable::Cable;
use super::ends::{flawless, gets_well, number, rotates, seconds};
use super::stage::Stage;
use super::world::{Cluster, ROLE, Terms, World};
use crate::fixture;

pub(crate) async fn a_cable_that_is_pulled(world: impl Stage, cable: Cable) {
    let service = world.serve(Policy::default()).await;

    cable.pull();
    let failed = |path: &str| {
        let calls = world.proxy().calls();
        calls
            .iter()
            .any(|call| call.path.starts_with(path) && call.status.is_some_and(|s| s >= 400))
    };
    let renewal_fails = async || failed("sys/leases/renew");
    world.pass_until("a renewal fails", seconds(50), renewal_fails).await;
    cable.plug_in();
    gets_well(&world, &service, seconds(120)).await;
    flawless(&service);

    cable.pull();
    service.credentials.rotate().await;
    let issue_fails = async || failed("database/creds/");
    world.pass_until("nothing is issued", seconds(20), issue_fails).await;
    cable.plug_in();
    rotates(&world, &service, seconds(400)).await;
    flawless(&service);

    let old = number(&service);
    world.pass(seconds(2)).await;
    service.credentials.rotate().await;
    fixture::until("another is in use", || async { number(&service) > old }).await;
    cable.pull();
    let revocation_fails = async || failed("sys/leases/revoke");
    world.pass_until("a revocation fails", seconds(60), revocation_fails).await;
    cable.plug_in();
    let only_one = async || world.logins().await.len() == 1;
    world.pass_until("the old login is gone", seconds(300), only_one).await;
    gets_well(&world, &service, seconds(120)).await;
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_database_that_does_not_obey_vault_costs_nobody_anything() {
    let cluster = Cluster::start().await;
    let cable = Cable::to(cluster.postgres.port);
    let between = |setup: &mut Setup| {
        setup.database.as_mut().expect("a database").port = cable.port;
    };
    let world = World::start_with(&cluster, Terms::MINUTE, between).await;
    a_cable_that_is_pulled(world, cable.clone()).await;
    let only_drops = |setup: &mut Setup| {
        let role = setup.database.as_mut().expect("a database").roles.get_mut("ledger");
        let statements = DROP_ONLY.map(str::to_owned).to_vec();
        role.expect("the role").revocation_statements = statements;
    };
    let world = World::start_with(&cluster, Terms::MINUTE, only_drops).await;
    a_login_that_owns_something_is_not_dropped_and_that_is_told_and_not_tried_for_ever(
        world,
        seconds(600),
    )
    .await;
    cluster.stop().await;
}

/// How a login is dropped unless it owns something.
pub(crate) const DROP_ONLY: [&str; 1] = ["DROP ROLE \"{{name}}\""];

pub(crate) async fn a_login_that_owns_something_is_not_dropped_and_that_is_told_and_not_tried_for_ever(
    world: impl Stage,
    watched: Duration,
) {
    let service = world.serve(Policy::default()).await;
    let owned = "CREATE TABLE owned_by_the_first (x int)";
    sqlx::query(owned).execute(service.pool.pool()).await.expect("it may");
    rotates(&world, &service, seconds(300)).await;
    world.pass(watched).await;
    let tried = world.proxy().count("PUT", "sys/leases/revoke");
    assert!((1..=8).contains(&tried), "revoked {tried} times");
    let metrics = Metrics::default().and_credentials(&service.credentials).to_string();
    let counted = |name: &str| !metrics.contains(&format!("{name}{{role=\"{ROLE}\"}} 0\n"));
    let is_told = counted("hive_leases_left_total") || counted("hive_leases_entrusted_total");
    assert!(is_told, "{metrics}");
    let drop = "DROP TABLE owned_by_the_first";
    sqlx::query(drop).execute(world.root()).await.expect("the administrator may");
    // What Vault has given up is the operator's to end.
    let force = "sys/leases/revoke-force/database/creds/ledger";
    let (status, _) = world.operate("PUT", force, json!({})).await;
    assert_eq!(status, 204);
    service.load.stop().await;
    let _ = world.close_credentials(service.credentials).await;
    for login in world.logins().await {
        let drop = sqlx::AssertSqlSafe(format!("DROP ROLE \"{login}\""));
        sqlx::raw_sql(drop).execute(world.root()).await.expect("the administrator may");
    }
    world.stop().await;
}
