//! What befalls a whole server, on a real OpenBao, in real time: an operator who revokes, a crash, a seal.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hive_dev::openbao::OpenBao;
use hive_security::adapters::sqlx::PgPoolHolder;
use hive_security::credentials::{
    Credential, Credentials, Error, Holder, HolderError, Request, RotationState, Settings,
};
use hive_security::vault::LoginMethod;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::watch;

use super::load::Load;
use super::scene::{self, Setting, configure};
use super::world::{CREDENTIAL, Cluster, ROLE, WORKERS, identity};
use crate::fixture;

const PATIENCE: Duration = Duration::from_secs(60);

async fn operate(bao: &OpenBao, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = scene::operate(bao, "", method, path, body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

/// A holder that tries a login only when it is let.
struct Gate<H> {
    holder: H,
    is_open: watch::Sender<bool>,
    tries: watch::Sender<u64>,
}

impl<H: Holder> Gate<H> {
    fn before(holder: H) -> Arc<Self> {
        let (is_open, tries) = (watch::Sender::new(true), watch::Sender::new(0));
        Arc::new(Self { holder, is_open, tries })
    }
}

impl<H: Holder> Holder for Gate<H> {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async move {
            self.tries.send_modify(|tries| *tries += 1);
            let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
            self.holder.probe(fresh).await
        }
        .boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.holder.adopt(fresh)
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.holder.drained(generation)
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.holder.cut(generation)
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.holder.withdraw()
    }
}

fn number(credentials: &Credentials) -> u64 {
    let watch = credentials.watch(CREDENTIAL).expect("it was requested");
    watch.current().as_ref().as_ref().map_or(0, |credential| credential.generation())
}

async fn until(what: &str, credentials: &Credentials, so: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < give_up, "not in time: {what}: {:?}", credentials.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// No rotation is going on, and none was asked for: one that was would have begun within a second.
async fn at_rest(credentials: &Credentials) {
    loop {
        let before = number(credentials);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let status = credentials.status();
        if number(credentials) == before && status.held == 2 {
            return;
        }
    }
}

async fn revoke(bao: &OpenBao, what: &str, lease: &str) {
    match what {
        "lease" => {
            operate(bao, "PUT", "sys/leases/revoke", json!({ "lease_id": lease })).await;
        }
        "prefix" => {
            operate(bao, "PUT", "sys/leases/revoke-prefix/database/creds", json!({})).await;
        }
        _ => {
            let answer = operate(bao, "LIST", "auth/token/accessors", json!({})).await;
            for accessor in answer["data"]["keys"].as_array().expect("accessors") {
                let body = json!({ "accessor": accessor });
                let facts = operate(bao, "POST", "auth/token/lookup-accessor", body.clone()).await;
                if facts["data"]["ttl"] != 0 {
                    operate(bao, "POST", "auth/token/revoke-accessor", body).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn on_openbao_nothing_fails_when_it_revokes_or_crashes_and_a_seal_closes_in_time() {
    let cluster = Cluster::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let (authority, workload, stop) =
        identity(directory.path(), hive_dev::witness::Witness::none()).await;
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/bin/bao");
    let bao = OpenBao::durable(&program, &directory.path().join("bao")).await;
    let mut bao = bao.expect("OpenBao is there (cargo xtask real) and starts");
    configure(&bao, &cluster, &authority.keys_url(), &Setting::usual("", &cluster)).await;
    let login = LoginMethod::JwtSvid { workload: workload.clone(), role: ROLE.to_owned() };
    let requests = vec![Request::read(CREDENTIAL, "database/creds/ledger")];
    let client = fixture::client(&bao.address);
    let opened = Credentials::open(client, login, requests, Settings::default()).await;
    let credentials = opened.expect("it opens");
    let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(PATIENCE);
    let pool = PgPoolHolder::new(pool, cluster.postgres.server());
    let gate = Gate::before(pool.clone());
    let hold = credentials.hold(CREDENTIAL, Arc::clone(&gate) as Arc<dyn Holder>).await;
    let _hold = hold.expect("it adopts");
    let load = Load::start_careful(WORKERS, pool.clone(), credentials.clone());
    load.progress(20).await;

    // OpenBao ends no session of a login that it revokes, so not even what runs at that moment is lost.
    for what in ["lease", "prefix", "token"] {
        at_rest(&credentials).await;
        let old = number(&credentials);
        let lease = credentials.status().credentials[0].lease_id.clone().expect("a lease");
        revoke(&bao, what, &lease).await;
        until("another is in use", &credentials, || number(&credentials) > old).await;
        load.progress(20).await;
        assert!(load.so_far().is_flawless(), "{what}: {:?}", load.so_far());
    }
    // All of it is revoked while the next login is tried: neither the old nor the new one is of use any more.
    at_rest(&credentials).await;
    let (old, tried) = (number(&credentials), *gate.tries.borrow());
    gate.is_open.send_replace(false);
    credentials.rotate().await;
    until("the next is tried", &credentials, || *gate.tries.borrow() > tried).await;
    revoke(&bao, "prefix", "").await;
    gate.is_open.send_replace(true);
    until("another is in use", &credentials, || number(&credentials) > old).await;
    load.progress(20).await;
    assert!(load.so_far().is_flawless(), "while it is tried: {:?}", load.so_far());
    bao = bao.restart().await.expect("it comes back");
    load.progress(20).await;
    let old = number(&credentials);
    credentials.rotate().await;
    until("it goes on", &credentials, || number(&credentials) > old).await;
    let only_one = || credentials.status().held == 2;
    until("the old one is given back", &credentials, only_one).await;
    assert!(load.so_far().is_flawless(), "{:?}", load.so_far());

    let lease = credentials.status().credentials[0].lease_id.clone().expect("a lease");
    let asked = json!({ "lease_id": lease });
    let facts = operate(&bao, "PUT", "sys/leases/lookup", asked).await;
    let left = facts["data"]["ttl"].as_u64().expect("a number");
    let sealed = Instant::now();
    operate(&bao, "PUT", "sys/seal", json!({})).await;
    until("it closes", &credentials, || number(&credentials) == 0).await;
    // Two seconds before the end; the lease is told in whole seconds.
    let (closed, end) = (sealed.elapsed().as_secs_f64(), left as f64 - 2.0);
    assert!((end - 1.0..=end + 2.0).contains(&closed), "closed after {closed} s of {end} s");
    let error = credentials.watch(CREDENTIAL).expect("it was requested").current();
    assert!(matches!(error.as_ref(), Err(Error::Expired { .. })), "{error:?}");
    assert_eq!(credentials.status().state, RotationState::Withdrawn);
    bao.unseal().await.expect("it is unsealed");
    until("it recovers", &credentials, || number(&credentials) > 0).await;
    load.progress(20).await;
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    // A login that was answered with 500 while the server came back may have made a token, which nobody knows. It is
    // named, and nothing else is left.
    match credentials.close(Duration::from_secs(10)).await {
        Ok(()) => {}
        Err(Error::Left { names, .. }) => assert_eq!(names, ["the login"]),
        Err(other) => panic!("{other:?}"),
    }
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'";
    let root = cluster.administrator().await;
    let are_gone = async || {
        let left: i64 = sqlx::query_scalar(roles).fetch_one(&root).await.expect("the roles");
        left == 0
    };
    fixture::until("no login is left", are_gone).await;
    root.close().await;
    stop.cancel();
    bao.stop().await;
    cluster.stop().await;
}
