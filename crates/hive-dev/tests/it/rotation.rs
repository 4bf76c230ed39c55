//! Credentials that are replaced while they are used: the driver, our vault, a real database.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hive_dev::vault::{Setup, Vault};
use hive_dev::witness::Witness;
use hive_security::credentials::{
    Credential, Credentials, Error, Holder, HolderError, Policy, Refresh, Request, Settings,
};
use hive_security::metrics::Metrics;
use hive_security::vault::LoginMethod;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::sync::watch;

use crate::fixture::{client, database, postgres, setup, until};
use crate::stack::{DEADLINE, Stack};

const ROLE: &str = "ticket-deploy";

/// Notes what it is told, and uses the old credential until it is let go.
struct Scribe {
    told: Mutex<Vec<String>>,
    /// From which generation on it is free to leave what is older.
    free: watch::Sender<u64>,
    taken: Mutex<Option<Credential>>,
    refuses: Mutex<u32>,
}

impl Scribe {
    fn new() -> Arc<Self> {
        let (told, free) = (Mutex::default(), watch::Sender::new(u64::MAX));
        Arc::new(Self { told, free, taken: Mutex::default(), refuses: Mutex::new(0) })
    }

    fn note(&self, what: String) {
        self.told.lock().expect("a lock").push(what);
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("a lock").clone()
    }
}

impl Holder for Scribe {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        let mut refuses = self.refuses.lock().expect("a lock");
        let result = if *refuses == 0 {
            self.note(format!("probe {}", fresh.generation()));
            Ok(())
        } else {
            *refuses -= 1;
            let credential = fresh.name().to_owned();
            Err(HolderError::Refused { server: "a scribe", credential, cause: None })
        };
        async move { result }.boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.note(format!("adopt {}", fresh.generation()));
        *self.taken.lock().expect("a lock") = Some(fresh.clone());
        async { Ok(()) }.boxed()
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.note(format!("drain {generation}"));
        let mut free = self.free.subscribe();
        async move { drop(free.wait_for(|free| *free >= generation).await) }.boxed()
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.note(format!("cut {generation}"));
        async {}.boxed()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.note("withdraw".to_owned());
        async {}.boxed()
    }
}

async fn open(stack: &Stack, role: &str, requests: Vec<Request>, policy: Policy) -> Credentials {
    let login = LoginMethod::JwtSvid { workload: stack.workload.clone(), role: role.to_owned() };
    let settings = Settings { policy, ..Settings::default() };
    let vault = client(&stack.vault.address);
    Credentials::open(vault, login, requests, settings).await.expect("it opens")
}

fn user(credentials: &Credentials, name: &str) -> String {
    let current = credentials.watch(name).expect("it was requested").current();
    let current = (*current).as_ref().expect("it may be used");
    current.field("username").expect("a login").expose_secret().to_owned()
}

#[tokio::test]
async fn holders_move_before_anything_is_revoked_and_nothing_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let test = "holders_move_before_anything_is_revoked_and_nothing_is_left";
    let Some(cluster) = postgres(test, &directory.path().join("pg")).await else { return };
    let stack = Stack::start(|setup| setup.database = Some(database(&cluster, 600, 3600))).await;
    let requests = vec![Request::read("ledger", "database/creds/ledger")];
    let credentials = open(&stack, ROLE, requests, Policy::default()).await;
    let scribe = Scribe::new();
    let hold = credentials.hold("ledger", Arc::clone(&scribe) as Arc<dyn Holder>).await;
    let _hold = hold.expect("it adopts");
    let first = user(&credentials, "ledger");

    scribe.free.send_replace(0);
    credentials.rotate().await;
    until("the second is in use", || async { user(&credentials, "ledger") != first }).await;
    until("the first is being left", || async { scribe.told().len() == 4 }).await;
    assert_eq!(scribe.told(), ["adopt 1", "probe 2", "adopt 2", "drain 2"]);
    let status = credentials.status();
    assert_eq!((status.draining, status.credentials[0].holders), (1, 1), "{status:?}");
    assert!(!stack.audited().contains("\"lease_revoked\""), "revoked while it was used");

    scribe.free.send_replace(2);
    until("the first is given back", || async {
        stack.audited().contains("\"token_revoked\"") && credentials.status().held == 2
    })
    .await;
    let audit = stack.audited();
    assert!(audit.find("sys/leases/revoke") < audit.find("revoke-self"), "{audit}");

    let text = Metrics::default().and_credentials(&credentials).to_string();
    for line in [
        "hive_rotations_total{reason=\"asked_for\",role=\"ticket-deploy\"} 1",
        "hive_credential_generation{credential=\"ledger\",role=\"ticket-deploy\"} 2",
        "hive_leases_held{role=\"ticket-deploy\"} 2",
        "vault_logins_total{role=\"ticket-deploy\",status=\"success\"} 2",
        "vault_logins_total{role=\"ticket-deploy\",status=\"error\"} 0",
        "hive_credential_issues_total{role=\"ticket-deploy\",status=\"success\"} 2",
        "hive_revocations_total{role=\"ticket-deploy\",status=\"success\"} 2",
        "hive_revocations_total{role=\"ticket-deploy\",status=\"error\"} 0",
        "hive_probes_total{role=\"ticket-deploy\",status=\"error\"} 0",
        "hive_leases_left_total{role=\"ticket-deploy\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    credentials.close(DEADLINE).await.expect("all is given back");
    stack.stop().await;
    cluster.stop().await;
}

#[tokio::test]
async fn credentials_that_a_holder_cannot_use_are_not_adopted_until_it_can() {
    let stack = Stack::start(|_| {}).await;
    let requests = vec![Request::read("seal", "secret/data/release")];
    let credentials = open(&stack, ROLE, requests, Policy::default()).await;
    let scribe = Scribe::new();
    let hold = credentials.hold("seal", Arc::clone(&scribe) as Arc<dyn Holder>).await;
    let _hold = hold.expect("it adopts");
    *scribe.refuses.lock().expect("a lock") = 2;
    credentials.rotate().await;
    until("the second is in use", || async { credentials.status().generation == 2 }).await;
    assert_eq!(scribe.told()[..3], ["adopt 1", "probe 2", "adopt 2"]);
    assert_eq!(*scribe.refuses.lock().expect("a lock"), 0);
    let text = Metrics::default().and_credentials(&credentials).to_string();
    let tried = "hive_probes_total{role=\"ticket-deploy\",status=\"error\"} 2\n";
    assert!(text.contains(tried), "{tried} is missing in\n{text}");
    credentials.close(DEADLINE).await.expect("all is given back");
    stack.stop().await;
}

#[tokio::test]
async fn a_login_that_is_revoked_while_it_is_tried_is_given_up_for_another_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let test = "a_login_that_is_revoked_while_it_is_tried_is_given_up_for_another_at_once";
    let Some(cluster) = postgres(test, &directory.path().join("pg")).await else { return };
    let stack = Stack::start(|setup| setup.database = Some(database(&cluster, 600, 3600))).await;
    let requests = vec![Request::read("ledger", "database/creds/ledger")];
    let credentials = open(&stack, ROLE, requests, Policy::default()).await;
    let scribe = Scribe::new();
    let hold = credentials.hold("ledger", Arc::clone(&scribe) as Arc<dyn Holder>).await;
    let _hold = hold.expect("it adopts");
    let first = stack.vault.leases();
    *scribe.refuses.lock().expect("a lock") = u32::MAX;
    credentials.rotate().await;
    let is_refused = async || *scribe.refuses.lock().expect("a lock") < u32::MAX;
    until("the second is refused", is_refused).await;
    let leases = || stack.vault.leases().into_iter().filter(|id| !first.contains(id));
    let second: Vec<_> = leases().collect();
    assert_eq!(second.len(), 1, "{second:?}");
    stack.vault.revoke_lease(&second[0]).await.expect("it is revoked");
    until("a third is issued", || async { leases().any(|id| !second.contains(&id)) }).await;
    *scribe.refuses.lock().expect("a lock") = 0;
    until("the third is in use", || async { credentials.status().generation == 3 }).await;
    credentials.close(DEADLINE).await.expect("all is given back");
    stack.stop().await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_has_no_lease_is_read_again_and_holders_get_what_changed() {
    let stack = Stack::start(|_| {}).await;
    let refresh =
        Refresh { every: Duration::from_millis(300), stale_after: Duration::from_secs(60) };
    let request = Request::read("notes", "secret/data/work/notes").refreshed(refresh);
    let token = stack.login(ROLE).await;
    stack.write(&token, "work/notes", json!({ "text": "one" })).await;
    let credentials = open(&stack, ROLE, vec![request], Policy::default()).await;
    let scribe = Scribe::new();
    let hold = credentials.hold("notes", Arc::clone(&scribe) as Arc<dyn Holder>).await;
    let _hold = hold.expect("it adopts");
    let mut notes = credentials.watch("notes").expect("it was requested");
    stack.write(&token, "work/notes", json!({ "text": "two" })).await;
    let changed = tokio::time::timeout(DEADLINE, notes.changed()).await.expect("in time");
    let changed = (*changed.expect("a value")).clone().expect("it may be used");
    assert_eq!(changed.field("text").expect("a field").expose_secret(), "two");
    until("the holder has it", || async { scribe.told() == ["adopt 1", "adopt 2"] }).await;
    assert_eq!(credentials.status().generation, 1, "the epoch is the same");
    credentials.close(DEADLINE).await.expect("all is given back");
    stack.stop().await;
}

#[tokio::test]
async fn without_vault_they_are_used_until_they_truly_end_and_then_closed_and_later_opened_again() {
    let six_seconds = |setup: &mut Setup| {
        let role = setup.jwt_roles.get_mut("brief").expect("the role");
        (role.token_ttl_s, role.token_max_ttl_s) = (6, 600);
    };
    let mut stack = Stack::start(six_seconds).await;
    let requests = vec![Request::read("seal", "secret/data/release")];
    let began = Instant::now();
    let credentials = open(&stack, "brief", requests, Policy::default()).await;
    let scribe = Scribe::new();
    let hold = credentials.hold("seal", Arc::clone(&scribe) as Arc<dyn Holder>).await;
    let _hold = hold.expect("it adopts");
    let listen = stack.vault.address.trim_start_matches("http://").parse().expect("an address");
    stack.stop_vault().await;

    let mut seal = credentials.watch("seal").expect("it was requested");
    let ended = loop {
        let value = tokio::time::timeout(DEADLINE, seal.changed()).await.expect("it ends in time");
        if let Err(error) = &*value.expect("a value") {
            break error.clone();
        }
    };
    let lived = began.elapsed().as_secs_f64();
    // Six seconds, less the margin of two.
    assert!((3.0..=5.0).contains(&lived), "{lived} s");
    assert!(matches!(ended, Error::Expired { .. }) && ended.is_transient(), "{ended}");
    assert!(!credentials.status().is_ready(), "{:?}", credentials.status());
    until("the holder knows", || async { scribe.told().contains(&"withdraw".to_owned()) }).await;

    let directory = tempfile::tempdir().expect("a directory");
    let mut again = setup(&stack.keys_url(), directory.path());
    again.listen = listen;
    six_seconds(&mut again);
    let vault = Vault::start(again, Witness::none()).await.expect("it starts again");
    // The delay between two attempts has grown meanwhile.
    let back = async { while seal.changed().await.is_some_and(|value| value.is_err()) {} };
    tokio::time::timeout(3 * DEADLINE, back).await.expect("they are back");
    assert!(seal.current().is_ok() && credentials.status().is_ready());
    credentials.close(DEADLINE).await.expect("all is given back");
    vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn whoever_opens_credentials_that_are_not_to_be_had_is_told_why() {
    let stack = Stack::start(|_| {}).await;
    let login = || LoginMethod::JwtSvid { workload: stack.workload.clone(), role: ROLE.to_owned() };
    let open = |requests| {
        Credentials::open(client(&stack.vault.address), login(), requests, Settings::default())
    };
    let missing = open(vec![Request::read("ledger", "database/creds/ledger")]).await;
    let missing = missing.expect_err("nothing is mounted there");
    assert!(matches!(&missing, Error::Missing { what, .. } if what == "ledger"), "{missing}");
    let refused = open(vec![Request::read("other", "secret/data/other")]).await;
    let refused = refused.expect_err("no policy allows it");
    assert!(matches!(&refused, Error::Refused { .. }), "{refused}");
    let twice = vec![Request::read("a", "secret/data/release"); 2];
    assert!(matches!(open(twice).await, Err(Error::Twice { .. })));
    let optional = vec![
        Request::read("seal", "secret/data/release"),
        Request::read("ledger", "database/creds/ledger").optional(),
    ];
    let credentials = open(optional).await.expect("it opens");
    let ledger = credentials.watch("ledger").expect("it was requested").current();
    assert!(matches!(&*ledger, Err(Error::Missing { .. })), "{ledger:?}");
    credentials.close(DEADLINE).await.expect("all is given back");
    assert_eq!(stack.audited().matches("\"token_revoked\"").count(), 3, "a token was left behind");
    stack.stop().await;
}

#[tokio::test]
async fn what_is_dropped_is_given_back_in_the_background() {
    let stack = Stack::start(|_| {}).await;
    let requests = vec![Request::read("seal", "secret/data/release")];
    drop(open(&stack, ROLE, requests, Policy::default()).await);
    until("the token is revoked", || async { stack.audited().contains("\"token_revoked\"") }).await;
    stack.stop().await;
}
