//! A pool of sqlx.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hive_security::SecretJson;
use hive_security::adapters::Doubt;
use hive_security::adapters::sqlx::{PgPoolHolder, doubt, is_barred_error};
use hive_security::credentials::{Credential, Holder, HolderError};
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use crate::load::{Load, Outcome};
use crate::postgres::{Ledger, username};
use crate::rotation::{Order, Users, begin, rotate};

const CONNECTIONS: u32 = 8;
const WORKERS: u64 = 32;
const ROTATIONS: u64 = 12;

fn holder(ledger: &Ledger) -> PgPoolHolder {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    PgPoolHolder::new(pool.acquire_timeout(Duration::from_secs(20)), ledger.server())
}

/// Each eighth worker holds a transaction much longer than the others, across rotations.
async fn write(pool: PgPool, worker: u64, turn: u64) -> Result<(), sqlx::Error> {
    let pause = Duration::from_millis(if worker % 8 < 1 { 150 } else { 2 });
    let mut transaction = pool.begin().await?;
    let insert = || sqlx::query("INSERT INTO entries (what) VALUES ($1)");
    let what = format!("{worker} {turn}");
    insert().bind(&what).execute(&mut *transaction).await?;
    tokio::time::sleep(pause).await;
    insert().bind(&what).execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn rotate_under_load(order: Order) -> Outcome {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger);
    let first = begin(&holder, &ledger).await;
    let pool = holder.pool().clone();
    let load = Load::start(WORKERS, move |worker, turn| write(pool.clone(), worker, turn));
    let last = rotate((&holder, &ledger), first, ROTATIONS, order, &load).await;
    assert_eq!(ledger.users().await, [username(&last)], "old users are gone");
    ledger.only_sessions_of(Some(&last)).await;
    let outcome = load.stop().await;
    if order == Order::Drain {
        assert_eq!(ledger.entries().await, 2 * outcome.done, "every one is there");
    }
    holder.pool().close().await;
    ledger.stop().await;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_sqlx_moves_through_twelve_logins_under_load_and_nothing_fails() {
    let outcome = rotate_under_load(Order::Drain).await;
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert!(outcome.done > 700, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_revoked_before_the_pool_of_sqlx_has_left_it_fails_operations() {
    let outcome = rotate_under_load(Order::Revoke).await;
    assert!(!outcome.failed.is_empty(), "the load would not notice anything: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_that_is_over_ends_the_transactions_that_are_left_and_nothing_else() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger);
    begin(&holder, &ledger).await;
    let mut straggler = holder.begin().await.expect("a transaction");
    let fresh = ledger.create(2).await;
    holder.adopt(&fresh).await.expect("it is usable");
    let mut other = holder.begin().await.expect("a transaction of the new login");

    let waited = timeout(Duration::from_millis(300), holder.drained(2)).await;
    assert!(waited.is_err(), "somebody holds the old login");
    holder.cut(2).await;
    timeout(Duration::from_secs(5), holder.drained(2)).await.expect("it was cut");
    ledger.only_sessions_of(Some(&fresh)).await;
    let insert = || sqlx::query("INSERT INTO entries (what) VALUES ('late')");
    assert!(insert().execute(&mut *straggler).await.is_err(), "its session is gone");
    insert().execute(&mut *other).await.expect("nobody touched it");
    other.commit().await.expect("nobody touched it");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_detached_from_the_pool_still_counts_until_it_is_closed() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger);
    begin(&holder, &ledger).await;
    let detached = holder.acquire().await.expect("a connection").detach();
    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    assert!(timeout(Duration::from_millis(300), holder.drained(2)).await.is_err());
    drop(detached);
    timeout(Duration::from_secs(10), holder.drained(2)).await.expect("the server says so");
    // What was opened to take the place of the old session has nothing to wait for any more.
    ledger.only_sessions_of(None).await;
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_the_place_of_an_old_one_is_opened_before_anybody_needs_it() {
    let ledger = Ledger::start().await;
    let holder = PgPoolHolder::new(PgPoolOptions::new().max_connections(1), ledger.server());
    begin(&holder, &ledger).await;
    let old = holder.acquire().await.expect("a connection");
    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    let work = async {
        while ledger.sessions_of("u2").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ledger.run("ALTER ROLE u2 CONNECTION LIMIT 0").await;
        drop(old);
        while who(&holder).await != "u2" {}
    };
    let both = async { tokio::join!(holder.drained(2), work) };
    timeout(Duration::from_secs(10), both).await.expect("it moves and is drained");
    assert_eq!(ledger.sessions_of("u1").await, 0);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_the_old_login_go_on_while_the_server_gives_no_others() {
    let ledger = Ledger::start().await;
    let holder = PgPoolHolder::new(PgPoolOptions::new().max_connections(1), ledger.server());
    begin(&holder, &ledger).await;
    let old = holder.acquire().await.expect("a connection");
    let fresh = ledger.create(2).await;
    ledger.run("ALTER ROLE u2 CONNECTION LIMIT 0").await;
    holder.adopt(&fresh).await.expect("it is usable");
    let mut drained = Box::pin(holder.drained(2));
    assert!((&mut drained).now_or_never().is_none(), "somebody holds the old login");
    drop(old);
    let work = async {
        for _ in 0..20 {
            assert_eq!(who(&holder).await, "u1");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = &mut drained => panic!("nothing can take its place"),
        () = work => {}
    }
    ledger.run("ALTER ROLE u2 CONNECTION LIMIT -1").await;
    timeout(Duration::from_secs(10), drained).await.expect("it is drained");
    assert_eq!(who(&holder).await, "u2");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_forgot_whose_it_is_is_neither_given_up_nor_kept_too_long() {
    let ledger = Ledger::start().await;
    let holder = PgPoolHolder::new(PgPoolOptions::new().max_connections(2), ledger.server());
    begin(&holder, &ledger).await;
    let mut old = holder.acquire().await.expect("a connection");
    let straggler = holder.acquire().await.expect("a connection");
    old.clear_cached_statements().await.expect("it forgets");
    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    drop(old);
    let mut new = holder.acquire().await.expect("a connection");
    new.clear_cached_statements().await.expect("it forgets");
    let number = process(&mut new).await;
    drop(new);
    let mut again = holder.acquire().await.expect("a connection");
    assert_eq!(process(&mut again).await, number, "it was of the new login");
    drop((again, straggler));
    timeout(Duration::from_secs(10), holder.drained(2)).await.expect("it is drained");
    assert_eq!(ledger.sessions_of("u1").await, 0);
    ledger.stop().await;
}

async fn who(holder: &PgPoolHolder) -> String {
    let user = sqlx::query_scalar("SELECT session_user::text").fetch_one(holder.pool()).await;
    user.expect("the pool works")
}

async fn process(connection: &mut PgConnection) -> i32 {
    let number = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await;
    number.expect("it answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_login_fails_whatever_begins_at_once_and_the_next_one_ends_that() {
    let ledger = Ledger::start().await;
    let pool = PgPoolOptions::new().max_connections(1);
    let holder = PgPoolHolder::new(pool, ledger.server());
    assert!(is_barred_error(&holder.acquire().await.expect_err("none was issued")));
    begin(&holder, &ledger).await;
    let running = holder.acquire().await.expect("a connection");
    let waiting = tokio::spawn({
        let holder = holder.clone();
        async move { holder.acquire().await.map(drop) }
    });
    let asked = Instant::now();
    holder.withdraw().await;
    let waited = waiting.await.expect("it ends").expect_err("it waited for the only connection");
    assert!(is_barred_error(&waited), "{waited}");
    assert!(is_barred_error(&holder.begin().await.expect_err("nothing begins")));
    drop(running);
    let raw = holder.pool().acquire().await.expect_err("not through the pool either");
    assert!(matches!(raw, sqlx::Error::Io(_)), "{raw}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());

    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    holder.acquire().await.expect("there is a login again");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_a_login_that_is_refused_from_a_server_that_is_away() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger);
    let good = ledger.create(1).await;
    let wrong = json!({ "username": "u1", "password": "hunter2" });
    let wrong = Credential::new("ledger", 2, SecretJson::new(wrong));
    let refused = holder.probe(&wrong).await.expect_err("the password is wrong");
    assert!(matches!(refused, HolderError::Refused { .. }), "{refused:?}");
    assert!(!format!("{refused:?}").contains("hunter2"));
    let nothing = Credential::new("ledger", 2, SecretJson::new(json!({ "username": "u1" })));
    let unusable = holder.probe(&nothing).await.expect_err("there is no password");
    assert!(matches!(unusable, HolderError::Unusable { .. }), "{unusable:?}");
    ledger.only_sessions_of(None).await;
    ledger.stop().await;
    let away = holder.probe(&good).await.expect_err("nobody is there");
    assert!(matches!(away, HolderError::Unreachable { .. }), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_whether_the_login_is_in_doubt() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger);
    let first = begin(&holder, &ledger).await;
    let mut connection = holder.acquire().await.expect("a connection");
    let count = || sqlx::query("SELECT count(*) FROM entries");
    count().fetch_one(&mut *connection).await.expect("it may");
    ledger.revoke(&first).await;
    let rights = count().fetch_one(&mut *connection).await.expect_err("its role is gone");
    assert_eq!(doubt(&rights), Some(Doubt::Rights), "{rights}");
    let login = ledger
        .server()
        .username("u1")
        .password(first.field("password").expect("one").expose_secret());
    let refused = login.connect().await.expect_err("its role is gone");
    assert_eq!(doubt(&refused), Some(Doubt::Login), "{refused}");
    let harmless =
        sqlx::query("SELECT 1/0").fetch_one(&mut *connection).await.expect_err("it fails");
    assert_eq!(doubt(&harmless), None);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_that_is_given_up_again_and_again_costs_nothing() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger);
    begin(&holder, &ledger).await;
    let pool = holder.pool().clone();
    let load = Load::start(8, move |worker, turn| write(pool.clone(), worker, turn));
    load.progress(50).await;
    let fresh = ledger.create(2).await;
    for delay_us in (0..40).map(|step| step * 250) {
        let given_up = Duration::from_micros(delay_us);
        let _ = timeout(given_up, holder.probe(&fresh)).await;
        let _ = timeout(given_up, holder.adopt(&fresh)).await;
        let _ = timeout(given_up, holder.drained(2)).await;
    }
    timeout(Duration::from_secs(10), holder.drained(2)).await.expect("it is drained");
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    holder.pool().close().await;
    ledger.stop().await;
}
