//! A deadpool of tokio-postgres.

use std::time::{Duration, Instant};

use deadpool::managed::{self, PoolError};
use futures_util::FutureExt;
use hive_security::adapters::Doubt;
use hive_security::adapters::deadpool_postgres::{Error, PgPoolHolder, Pool, doubt};
use hive_security::credentials::{Holder, HolderError};
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls};

use crate::load::{Load, Outcome};
use crate::postgres::{Ledger, username};
use crate::rotation::{Order, Users, begin, rotate};

const SESSIONS: usize = 8;
const WORKERS: u64 = 32;
const ROTATIONS: u64 = 12;

fn holder(ledger: &Ledger, sessions: usize) -> PgPoolHolder {
    let (host, port) = ledger.address();
    let mut server = Config::new();
    server.host(host).port(port).dbname("hive");
    PgPoolHolder::new(server, NoTls, |pool| pool.max_size(sessions)).expect("a pool")
}

/// Each eighth worker holds a transaction much longer than the others, across rotations.
async fn write(pool: Pool, worker: u64, turn: u64) -> Result<(), String> {
    let pause = Duration::from_millis(if worker.is_multiple_of(8) { 150 } else { 2 });
    let mut session = pool.get().await.map_err(|error| error.to_string())?;
    let words = |error: tokio_postgres::Error| format!("{error} ({:?})", error.code());
    let transaction = session.transaction().await.map_err(words)?;
    let insert = "INSERT INTO entries (what) VALUES ($1)";
    let what = format!("{worker} {turn}");
    transaction.execute(insert, &[&what]).await.map_err(words)?;
    tokio::time::sleep(pause).await;
    transaction.execute(insert, &[&what]).await.map_err(words)?;
    transaction.commit().await.map_err(words)
}

async fn rotate_under_load(order: Order) -> Outcome {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, SESSIONS);
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
    ledger.stop().await;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadpool_moves_through_twelve_logins_under_load_and_nothing_fails() {
    let outcome = rotate_under_load(Order::Drain).await;
    assert!(outcome.failed.is_empty() && outcome.done > 700, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_revoked_before_the_deadpool_has_left_it_fails_operations() {
    let outcome = rotate_under_load(Order::Revoke).await;
    assert!(!outcome.failed.is_empty(), "the load would not notice anything: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_that_is_over_ends_sessions_of_the_old_login_even_while_they_wait() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, SESSIONS);
    begin(&holder, &ledger).await;
    let straggler = holder.get().await.expect("a session");
    let idle = holder.get().await.expect("a session");
    let stuck = tokio::spawn(async move { straggler.simple_query("SELECT pg_sleep(60)").await });
    let fresh = ledger.create(2).await;
    holder.adopt(&fresh).await.expect("it is usable");
    let other = holder.get().await.expect("a session of the new login");
    assert_eq!(other.generation(), 2);

    let waited = timeout(Duration::from_millis(300), holder.drained(2)).await;
    assert!(waited.is_err(), "somebody holds the old login");
    holder.cut(2).await;
    assert!(idle.simple_query("SELECT 1").await.is_err(), "its session is gone");
    drop(idle);
    timeout(Duration::from_secs(5), holder.drained(2)).await.expect("it was cut");
    assert!(stuck.await.expect("it ends").is_err(), "its statement was cancelled");
    ledger.only_sessions_of(Some(&fresh)).await;
    other.simple_query("INSERT INTO entries (what) VALUES ('on')").await.expect("untouched");
    ledger.stop().await;
}

/// The user of a session of the pool.
async fn who(holder: &PgPoolHolder) -> String {
    let session = holder.get().await.expect("a session");
    let row = session.query_one("SELECT session_user::text", &[]).await.expect("it answers");
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_deadpool_is_opened_before_anybody_needs_it() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, 1);
    begin(&holder, &ledger).await;
    let old = holder.get().await.expect("a session");
    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    let work = async {
        while ledger.sessions_of("u2").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ledger.run("ALTER ROLE u2 CONNECTION LIMIT 0").await;
        drop(old);
        assert_eq!(who(&holder).await, "u2");
    };
    let both = async { tokio::join!(holder.drained(2), work) };
    timeout(Duration::from_secs(10), both).await.expect("it moves and is drained");
    assert_eq!(holder.pool().status().size, 1);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_sessions_of_the_deadpool_go_on_while_the_server_gives_no_others() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, 1);
    begin(&holder, &ledger).await;
    assert_eq!(who(&holder).await, "u1");
    let fresh = ledger.create(2).await;
    ledger.run("ALTER ROLE u2 CONNECTION LIMIT 0").await;
    holder.adopt(&fresh).await.expect("it is usable");
    let mut drained = Box::pin(holder.drained(2));
    assert!((&mut drained).now_or_never().is_none(), "there is a session of the old login");
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
async fn sessions_of_the_deadpool_that_nobody_asks_for_are_replaced_and_none_is_left_over() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, SESSIONS);
    begin(&holder, &ledger).await;
    let idle = [holder.get().await, holder.get().await, holder.get().await];
    let detached = managed::Object::take(holder.get().await.expect("a session"));
    drop(idle);
    let fresh = ledger.create(2).await;
    holder.adopt(&fresh).await.expect("it is usable");
    let leave = async {
        while ledger.sessions_of("u2").await < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(detached);
    };
    let both = async { tokio::join!(holder.drained(2), leave) };
    timeout(Duration::from_secs(10), both).await.expect("it moves and is drained");
    ledger.only_sessions_of(Some(&fresh)).await;
    assert_eq!(holder.pool().status().size, 3);
    let sessions = async { while ledger.sessions_of("u2").await != 3 {} };
    timeout(Duration::from_secs(5), sessions).await.expect("what was not needed is closed");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_opened_beforehand_is_not_used_once_its_login_is_an_old_one_too() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, 1);
    begin(&holder, &ledger).await;
    let old = holder.get().await.expect("a session");
    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    let mut second = Box::pin(holder.drained(2));
    let opened = async {
        while ledger.sessions_of("u2").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = &mut second => panic!("somebody holds the first login"),
        () = opened => {}
    }
    // Nobody looks at what was opened before the next login is there.
    holder.adopt(&ledger.create(3).await).await.expect("it is usable");
    drop(old);
    assert_ne!(who(&holder).await, "u2");
    let both = async { tokio::join!(second, holder.drained(3)) };
    timeout(Duration::from_secs(10), both).await.expect("it is drained");
    assert_eq!(who(&holder).await, "u3");
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_login_fails_whatever_asks_the_deadpool_at_once_and_the_next_one_ends_that() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, 1);
    let barred = |error| matches!(error, PoolError::Backend(Error::Barred(_)));
    assert!(barred(holder.pool().get().await.expect_err("none was issued")));
    begin(&holder, &ledger).await;
    let running = holder.get().await.expect("a session");
    let waiting = tokio::spawn({
        let holder = holder.clone();
        async move { holder.get().await.map(drop) }
    });
    let asked = Instant::now();
    holder.withdraw().await;
    let waited = timeout(Duration::from_secs(10), waiting).await.expect("at once");
    assert!(barred(waited.expect("it ends").expect_err("it waited for the only session")));
    drop(running);
    assert!(barred(holder.pool().get().await.expect_err("nothing begins")));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());

    holder.adopt(&ledger.create(2).await).await.expect("it is usable");
    assert_eq!(holder.get().await.expect("there is a login again").generation(), 2);
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_the_deadpool_leaves_nothing_behind_and_says_who_is_at_fault() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, SESSIONS);
    let good = begin(&holder, &ledger).await;
    ledger.only_sessions_of(None).await;
    let session = holder.get().await.expect("a session");
    ledger.revoke(&good).await;
    let refused = holder.probe(&good).await.expect_err("its role is gone");
    assert!(matches!(refused, HolderError::Refused { .. }), "{refused:?}");
    let rights = session.simple_query("SELECT count(*) FROM entries").await;
    assert_eq!(doubt(&rights.expect_err("its role is gone")), Some(Doubt::Rights));
    ledger.stop().await;
    let away = holder.probe(&good).await.expect_err("nobody is there");
    assert!(matches!(away, HolderError::Unreachable { .. }), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_while_a_session_is_opened_lets_go_of_its_login() {
    let ledger = Ledger::start().await;
    let holder = holder(&ledger, SESSIONS);
    let mut last = begin(&holder, &ledger).await;
    for step in 0..40 {
        let _ = timeout(Duration::from_micros(step * 250), holder.get()).await;
        let fresh = ledger.create(step + 2).await;
        let _ = timeout(Duration::from_micros(step * 250), holder.probe(&fresh)).await;
        holder.adopt(&fresh).await.expect("it is usable");
        let _ = timeout(Duration::from_micros(step * 100), holder.drained(step + 2)).await;
        last = fresh;
    }
    timeout(Duration::from_secs(5), holder.drained(41)).await.expect("nobody holds an old one");
    ledger.only_sessions_of(Some(&last)).await;
    ledger.stop().await;
}
