//! A workload against a Workload API on a real socket.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_dev::authority::{Authority, AuthorityConfig, Entry, EntryId, KeyKind};
use hive_dev::witness::{Listener, Witness};
use hive_security::{Audience, Error, IdPattern, Refusal, Upkeep, Workload, WorkloadConfig, tls};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const PATH: &str = "/ns/shop/sa/cart";

/// An authority that knows this process, and this process attached to it.
struct World {
    authority: Authority,
    entry: EntryId,
    workload: Workload,
    stop: CancellationToken,
    _directory: TempDir,
}

impl World {
    async fn start(change: impl FnOnce(&mut AuthorityConfig)) -> Self {
        let (authority, directory) = authority(change).await;
        let entry = authority.add_entry(this_process()).unwrap();
        let (workload, upkeep) = attach(&authority.endpoint(), 10).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        Self { authority, entry, workload, stop, _directory: directory }
    }

    fn audience(&self) -> Audience {
        Audience::of_service("cart", &self.workload.trust_domain()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn authority(change: impl FnOnce(&mut AuthorityConfig)) -> (Authority, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
    config.publish_ahead = Duration::from_millis(200);
    change(&mut config);
    (Authority::start(config).await.unwrap(), directory)
}

fn this_process() -> Entry {
    Entry::of_process(PATH, std::process::id())
}

async fn attach(endpoint: &str, deadline_s: u64) -> Result<(Workload, Upkeep), Error> {
    let attach_deadline = Duration::from_secs(deadline_s);
    Workload::attach(WorkloadConfig::new(endpoint, attach_deadline)).await
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_attached_workload_can_prove_verify_sign_and_open() {
    let world = World::start(|_| {}).await;
    let (workload, audience) = (&world.workload, world.audience());
    let spiffe_id = workload.spiffe_id().unwrap();
    assert_eq!(spiffe_id.path(), PATH);
    assert_eq!(workload.trust_domain().as_str(), world.authority.trust_domain());

    let svid = workload.jwt_svid(&audience).await.unwrap();
    let verified = workload.verify_jwt(svid.token().expose_secret(), &audience).unwrap();
    assert_eq!(verified.spiffe_id(), &spiffe_id);
    let elsewhere = Audience::parse("elsewhere").unwrap();
    let refusal = workload.verify_jwt(svid.token().expose_secret(), &elsewhere).unwrap_err();
    assert_eq!(refusal, Refusal::Audience { expected: elsewhere });

    let envelope = workload.sign("type", b"payload").unwrap();
    assert_eq!(
        workload.open(&envelope, "type", &IdPattern::exactly(&spiffe_id)).unwrap(),
        spiffe_id
    );
    let shown = format!("{workload:?} {svid:?} {:?}", workload.x509_svid().unwrap());
    assert!(!shown.contains(svid.token().expose_secret()), "{shown}");
}

#[tokio::test]
async fn nothing_that_a_workload_holds_shows_a_key_or_a_token() {
    let place = tempfile::tempdir().unwrap();
    let listener = Listener::bind(place.path().join("witness")).unwrap();
    let witness = Witness::connect(listener.path()).unwrap();
    let world = World::start(|config| config.witness = witness).await;
    let workload = &world.workload;
    let svid = workload.jwt_svid(&world.audience()).await.unwrap();
    let verified = workload.verify_jwt(svid.token().expose_secret(), &world.audience()).unwrap();
    let upkeep = attach(&world.authority.endpoint(), 10).await.unwrap().1;
    let config = WorkloadConfig::new(world.authority.endpoint(), Duration::from_secs(1));
    let material = workload.x509();
    let fetches = workload.jwt_svid_fetches();
    let shown = format!(
        "{workload:?} {svid:?} {verified:?} {upkeep:?} {config:?} {material:?} {fetches:?} {:?} {:?} {:?}",
        workload.x509_svid().unwrap(),
        material.current(),
        tls::client_config(workload, IdPattern::exactly(&workload.spiffe_id().unwrap())).unwrap(),
    );
    let token = svid.token().expose_secret().rsplit('.').next().unwrap();
    assert!(!shown.contains(token), "{shown}");
    let keys = listener.seen_of("x509-key");
    assert!(!keys.is_empty());
    for key in keys {
        // The end of a key, for others begin alike: as text, and as numbers.
        let der = STANDARD.decode(key.expose_secret()).unwrap();
        let numbers = format!("{:?}", &der[der.len() - 16..]);
        let text = &key.expose_secret()[key.expose_secret().len() - 24..];
        assert!(
            !shown.contains(text) && !shown.contains(numbers.trim_matches(['[', ']'])),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn rotation_replaces_everything_and_breaks_nothing() {
    let world = World::start(|_| {}).await;
    let (workload, audience) = (&world.workload, world.audience());
    let before = workload.x509_svid().unwrap();
    let (envelope, token) =
        (workload.sign("type", b"payload").unwrap(), workload.jwt_svid(&audience).await.unwrap());
    world.authority.rotate_x509().await.unwrap();
    world.authority.rotate_jwt().await.unwrap();
    until("a new X.509-SVID", || {
        workload.x509_svid().unwrap().certificate_chain() != before.certificate_chain()
    })
    .await;
    // What the old authorities made is good until it expires, and what the new ones make as well.
    let from = IdPattern::exactly(&workload.spiffe_id().unwrap());
    workload.open(&envelope, "type", &from).unwrap();
    workload.verify_jwt(token.token().expose_secret(), &audience).unwrap();
    workload.open(&workload.sign("type", b"again").unwrap(), "type", &from).unwrap();
    let other = Audience::parse("other").unwrap();
    let fresh = workload.jwt_svid(&other).await.unwrap();
    until("the new JWT key", || workload.verify_jwt(fresh.token().expose_secret(), &other).is_ok())
        .await;
}

#[tokio::test]
async fn a_token_of_a_revoked_key_is_replaced_at_once() {
    let world = World::start(|_| {}).await;
    let (authority, audience, kind) = (&world.authority, world.audience(), KeyKind::Jwt);
    let before = world.workload.jwt_svid(&audience).await.unwrap();
    let (old, _) = authority.signing_keys(kind).remove(0);
    let new = authority.prepare(kind).await.unwrap();
    authority.activate(&new).await.unwrap();
    authority.taint(&old).unwrap();
    let held = world.workload.jwt_svid(&audience).await.unwrap();
    assert!(Arc::ptr_eq(&held, &before), "it is good, and not due for a refresh for minutes");
    authority.revoke(&old).unwrap();
    let verifies = |token: &str| world.workload.verify_jwt(token, &audience);
    until("the key is gone", || verifies(before.token().expose_secret()).is_err()).await;
    let deadline = Instant::now() + Duration::from_secs(1);
    while verifies(world.workload.jwt_svid(&audience).await.unwrap().token().expose_secret())
        .is_err()
    {
        assert!(Instant::now() < deadline, "a worthless token is still presented");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_short_lived_svid_is_replaced_before_it_expires() {
    let world = World::start(|config| config.x509_ttl = Duration::from_secs(4)).await;
    let first = world.workload.x509_svid().unwrap();
    // At no moment is there none.
    while SystemTime::now() <= first.expires_at() {
        world.workload.x509_svid().unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.workload.x509_svid().unwrap().expires_at() > first.expires_at());
}

#[tokio::test]
async fn a_withdrawn_identity_is_not_used_until_it_is_given_back() {
    let world = World::start(|_| {}).await;
    let (workload, audience) = (&world.workload, world.audience());
    let held = workload.jwt_svid(&audience).await.unwrap();
    let token = held.token().expose_secret();
    world.authority.remove_entry(world.entry);
    until("withdrawal", || matches!(workload.x509_svid(), Err(Error::Withdrawn { .. }))).await;
    assert!(matches!(workload.jwt_svid(&audience).await, Err(Error::Withdrawn { .. })));
    assert!(matches!(workload.sign("type", b""), Err(Error::Withdrawn { .. })));
    until("withdrawal of the JWT bundles", || {
        matches!(workload.verify_jwt(token, &audience), Err(Refusal::NoTrust { .. }))
    })
    .await;
    world.authority.add_entry(this_process()).unwrap();
    until("the identity is back", || workload.x509_svid().is_ok()).await;
    until("the bundles are back", || workload.verify_jwt(token, &audience).is_ok()).await;
    assert!(workload.jwt_svid(&audience).await.is_ok());
}

#[tokio::test]
async fn attaching_fails_at_its_deadline_and_says_why() {
    let (authority, directory) = authority(|_| {}).await;
    let error = attach(&authority.endpoint(), 1).await.unwrap_err();
    assert!(error.to_string().contains("no identity"), "{error}");
    assert!(error.is_transient());
    let nowhere = format!("unix://{}", directory.path().join("nowhere.sock").display());
    let error = attach(&nowhere, 1).await.unwrap_err();
    assert!(matches!(error, Error::NoIdentity { .. }), "{error}");
    assert!(error.to_string().contains("nowhere.sock within 1s"), "{error}");
    let started = Instant::now();
    let error = attach("https://nonsense", 60).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "waiting cannot help");
}

#[tokio::test]
async fn a_workload_may_start_before_its_entry_exists() {
    let (authority, _directory) = authority(|_| {}).await;
    let endpoint = authority.endpoint();
    let mut attaching = Box::pin(attach(&endpoint, 20));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut attaching).await;
    assert!(early.is_err(), "it has no entry yet");
    authority.add_entry(this_process()).unwrap();
    let (workload, _upkeep) = attaching.await.unwrap();
    assert_eq!(workload.spiffe_id().unwrap().path(), PATH);
}
