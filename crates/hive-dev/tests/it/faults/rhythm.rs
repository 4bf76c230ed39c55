//! One rotation after the other, and transactions that take long.

use hive_security::credentials::Policy;

use super::ends::{flawless, number, seconds};
use super::world::{Cluster, Terms, World};

/// How long each long transaction takes: shorter than the overlap of 30 s.
const LONG_S: u64 = 20;
const ROUNDS: u64 = 4;

#[tokio::test]
async fn however_often_credentials_rotate_a_transaction_has_the_whole_overlap() {
    let cluster = Cluster::start().await;
    asked_for_every_second_rotations_wait_for_transactions_that_last_less_than_the_overlap(
        &cluster,
    )
    .await;
    cluster.stop().await;
}

async fn asked_for_every_second_rotations_wait_for_transactions_that_last_less_than_the_overlap(
    cluster: &Cluster,
) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    world.has_long_transactions();
    for _ in 0..ROUNDS {
        let mut long = service.pool.begin().await.expect("a transaction");
        let insert = "INSERT INTO ledger VALUES ('long')";
        sqlx::query(insert).execute(&mut *long).await.expect("it writes");
        for _ in 0..LONG_S {
            service.credentials.rotate().await;
            world.pass(seconds(1)).await;
        }
        sqlx::query(insert).execute(&mut *long).await.expect("it writes with the old login");
        long.commit().await.expect("nothing was cut off");
        flawless(&service);
    }
    assert!(number(&service) > ROUNDS, "{} generations", number(&service));
    let at_rest = async || service.credentials.status().draining == 0;
    world.pass_until("nobody uses an old one", seconds(60), at_rest).await;

    // One that takes longer is ended with the overlap, and nobody else is.
    let mut long = service.pool.begin().await.expect("a transaction");
    sqlx::query("INSERT INTO ledger VALUES ('x')").execute(&mut *long).await.expect("it writes");
    let old = number(&service);
    service.credentials.rotate().await;
    let is_new = async || number(&service) > old;
    world.pass_until("another is in use", seconds(10), is_new).await;
    let lasted = world.pass_until("the old one is ended", seconds(60), at_rest).await;
    assert!((seconds(29)..=seconds(31)).contains(&lasted), "cut after {lasted:?}");
    let error = sqlx::query("SELECT 1").execute(&mut *long).await.expect_err("it was cut off");
    assert!(matches!(error, sqlx::Error::Database(_) | sqlx::Error::Io(_)), "{error:?}");
    drop(long);
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}
