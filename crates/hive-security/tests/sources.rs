//! Where identity comes from, and what becomes of it when the Workload API goes away, comes back, or changes its mind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod scripted;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_security::{Audience, Error, ProbeError, TrustDomain, Workload, WorkloadConfig, probe};
use scripted::{Script, X509};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const PATH: &str = "/ns/shop/sa/cart";
const TRUST_DOMAIN: &str = "sources.hive.internal";
const PATIENCE: Duration = Duration::from_secs(20);

/// A place for an authority that may come and go.
struct Place {
    directory: TempDir,
    stop: CancellationToken,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), stop: CancellationToken::new() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    async fn authority(&self) -> Authority {
        let mut config = AuthorityConfig::new(self.socket());
        config.trust_domain = Some(TRUST_DOMAIN.to_owned());
        Authority::start(config).await.unwrap()
    }

    async fn knowing_us(&self) -> Authority {
        let authority = self.authority().await;
        authority.add_entry(this_process()).unwrap();
        authority
    }

    async fn attach_to(&self, endpoint: &str) -> Workload {
        let config = WorkloadConfig::new(endpoint, PATIENCE);
        let (workload, upkeep) = Workload::attach(config).await.unwrap();
        tokio::spawn(upkeep.run(self.stop.clone()));
        workload
    }

    async fn attach(&self) -> Workload {
        self.attach_to(&self.endpoint()).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn this_process() -> Entry {
    Entry::of_process(PATH, std::process::id())
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

#[tokio::test]
async fn svids_and_bundles_can_be_read_and_watched() {
    let place = Place::new();
    let authority = place.knowing_us().await;
    let workload = place.attach().await;
    let mut x509 = workload.x509();
    let mut jwt = workload.jwt_bundles();
    let before = x509.current();
    let material = before.as_ref().as_ref().unwrap();
    assert_eq!(material.svids()[0].spiffe_id().path(), PATH);
    assert!(material.svids()[0].valid_from() < material.svids()[0].expires_at());
    assert_eq!(material.bundle(&domain(TRUST_DOMAIN)).unwrap().authorities().len(), 1);
    assert!(material.bundle(&domain("elsewhere")).is_none());
    let bundles = jwt.current();
    let bundle = bundles.as_ref().as_ref().unwrap().bundle(&domain(TRUST_DOMAIN)).unwrap().clone();
    assert_eq!(bundle.key_ids().count(), 1);
    assert!(bundle.to_jwks().starts_with(r#"{"keys":[{"#));

    authority.rotate_x509().await.unwrap();
    authority.rotate_jwt().await.unwrap();
    // The old ones stay until what they signed has expired.
    let both = async {
        loop {
            let change = x509.changed().await.unwrap();
            let material = change.as_ref().as_ref().unwrap();
            if material.bundle(&domain(TRUST_DOMAIN)).unwrap().authorities().len() == 2 {
                return;
            }
        }
    };
    timeout(PATIENCE, both).await.unwrap();
    let rotated = timeout(PATIENCE, jwt.changed()).await.unwrap().unwrap();
    let keys = rotated.as_ref().as_ref().unwrap().bundle(&domain(TRUST_DOMAIN)).unwrap();
    assert_eq!(keys.key_ids().count(), 2);
}

#[tokio::test]
async fn all_identities_are_offered_and_an_unknown_hint_is_an_error() {
    let place = Place::new();
    let authority = place.knowing_us().await;
    let admin = Entry::of_process("/ns/shop/sa/admin", std::process::id()).hinted("admin");
    authority.add_entry(admin).unwrap();
    let workload = place.attach().await;
    let current = workload.x509().current();
    let svids = current.as_ref().as_ref().unwrap().svids();
    let paths: Vec<_> = svids.iter().map(|svid| svid.spiffe_id().path()).collect();
    assert_eq!(paths, [PATH, "/ns/shop/sa/admin"]);
    assert_eq!(workload.spiffe_id().unwrap().path(), PATH, "the first is the default");
    let admin = workload.x509_svid_by_hint("admin").unwrap();
    assert_eq!(admin.spiffe_id().path(), "/ns/shop/sa/admin");
    let error = workload.x509_svid_by_hint("nobody").unwrap_err();
    assert!(matches!(error, Error::UnknownHint { .. }), "{error}");
}

/// Loopback of a pod, say: whoever is at the other end of the proxy is who is attested.
#[tokio::test]
async fn the_workload_api_may_be_behind_an_ip_address() {
    let place = Place::new();
    let _authority = place.knowing_us().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let socket = place.socket();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut client, &mut server).await },
            );
        }
    });
    let workload = place.attach_to(&endpoint).await;
    assert_eq!(workload.spiffe_id().unwrap().path(), PATH);
}

#[tokio::test]
async fn withdrawal_stops_use_within_a_second_and_ends_when_identity_comes_back() {
    let place = Place::new();
    let authority = place.authority().await;
    let entry = authority.add_entry(this_process()).unwrap();
    let workload = place.attach().await;
    let audience = Audience::parse("audience").unwrap();
    workload.jwt_svid(&audience).await.unwrap();
    let mut x509 = workload.x509();
    assert!(authority.remove_entry(entry));
    let told = Instant::now();
    let change = timeout(PATIENCE, x509.changed()).await.unwrap().unwrap();
    assert!(change.is_err());
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(matches!(workload.x509_svid(), Err(Error::Withdrawn { .. })));
    assert!(matches!(workload.jwt_svid(&audience).await, Err(Error::Withdrawn { .. })));
    authority.add_entry(this_process()).unwrap();
    let change = timeout(PATIENCE, x509.changed()).await.unwrap().unwrap();
    assert!(change.is_ok());
    workload.jwt_svid(&audience).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_is_away_costs_nothing_and_is_found_again() {
    let place = Place::new();
    let authority = place.knowing_us().await;
    let workload = place.attach().await;
    let audience = Audience::parse("audience").unwrap();
    let token = workload.jwt_svid(&audience).await.unwrap();
    let before = workload.x509_svid().unwrap();
    authority.stop().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(workload.x509_svid().unwrap().certificate_chain(), before.certificate_chain());
    let kept = workload.jwt_svid(&audience).await.unwrap();
    assert_eq!(kept.token().expose_secret(), token.token().expose_secret());
    workload.verify_jwt(token.token().expose_secret(), &audience).unwrap();

    let _again = place.knowing_us().await;
    until("it was found again", || {
        workload.x509_svid().unwrap().certificate_chain() != before.certificate_chain()
    })
    .await;
}

#[tokio::test]
async fn an_identity_of_another_trust_domain_than_expected_is_refused() {
    let place = Place::new();
    let _authority = place.knowing_us().await;
    let mut config = WorkloadConfig::new(place.endpoint(), PATIENCE);
    config.trust_domain = Some(domain("elsewhere"));
    let error = Workload::attach(config.clone()).await.unwrap_err();
    assert!(matches!(error, Error::TrustDomain { .. }), "{error}");
    assert!(!error.is_transient());
    config.trust_domain = Some(domain(TRUST_DOMAIN));
    assert!(Workload::attach(config).await.is_ok());
}

#[tokio::test]
async fn a_probe_tells_what_is_there_and_what_is_not() {
    let place = Place::new();
    let config = WorkloadConfig::new(place.endpoint(), PATIENCE);
    let missing = probe(&config).await.unwrap_err();
    assert!(matches!(missing, ProbeError::Unreachable(_)), "{missing}");
    let authority = place.authority().await;
    let stranger = probe(&config).await.unwrap_err();
    assert!(matches!(stranger, ProbeError::Denied(_)), "{stranger}");
    authority.add_entry(this_process()).unwrap();
    let probed = probe(&config).await.unwrap();
    let svid = &probed.x509().svids()[0];
    probed.verify(svid, svid.valid_from()).unwrap();
    let clocks = probed.clocks().unwrap();
    let apart = clocks.here.duration_since(clocks.authority).unwrap_or_else(|e| e.duration());
    assert!(apart < Duration::from_secs(5), "{apart:?}");
    assert_eq!(probed.jwt_bundles().bundles().len(), 1);
}

/// A scripted Workload API at this place, and an authority that is valid.
fn scripted(place: &Place) -> (Script, scripted::Authority) {
    let authority = scripted::Authority::new(TRUST_DOMAIN, in_s(-60), in_s(3600));
    let svid = authority.svid("/a", "internal", in_s(-60), in_s(600));
    let x509 = X509 { svids: vec![svid], ..X509::default() };
    (Script::serve(&place.socket(), x509, TRUST_DOMAIN), authority)
}

/// The time in so many seconds.
fn in_s(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

#[tokio::test]
async fn identities_are_told_apart_by_their_hints_and_federated_bundles_are_kept_apart() {
    let place = Place::new();
    let (script, authority) = scripted(&place);
    let other = scripted::Authority::new("other.example", in_s(-60), in_s(3600));
    let svids = [("/a", "internal"), ("/b", "public"), ("/c", "")]
        .map(|(path, hint)| authority.svid(path, hint, in_s(-60), in_s(600)));
    let federated = [("spiffe://other.example".to_owned(), other.bundle())].into();
    script.say(Ok(X509 { svids: svids.into(), federated }));
    let workload = place.attach().await;
    assert_eq!(workload.spiffe_id().unwrap().path(), "/a");
    for (hint, path) in [("internal", "/a"), ("public", "/b")] {
        let svid = workload.x509_svid_by_hint(hint).unwrap();
        assert_eq!((svid.spiffe_id().path(), svid.hint()), (path, Some(hint)));
    }
    assert!(matches!(workload.x509_svid_by_hint(""), Err(Error::UnknownHint { .. })));
    let current = workload.x509().current();
    let material = current.as_ref().as_ref().unwrap();
    assert_eq!(material.svids()[2].hint(), None);
    let names: Vec<_> = material.bundles().iter().map(|b| b.trust_domain().as_str()).collect();
    assert_eq!(names, ["other.example", TRUST_DOMAIN]);
    let federated = material.bundle(&domain("other.example")).unwrap().authorities();
    assert_eq!(federated[0].as_ref(), other.bundle());
}

/// The good update after each bad one shows that the bad one was dealt with.
#[tokio::test]
async fn an_update_that_cannot_be_used_replaces_nothing() {
    let place = Place::new();
    let (script, authority) = scripted(&place);
    let workload = place.attach().await;
    let mut changes = workload.x509();
    let watched = tokio::spawn(async move {
        while let Some(change) = changes.changed().await {
            assert!(change.is_ok(), "{change:?}");
        }
    });
    let svid = || authority.svid("/a", "internal", in_s(-60), in_s(600));
    let spoiled = |spoil: &dyn Fn(&mut scripted::X509Svid)| {
        let mut svid = svid();
        spoil(&mut svid);
        vec![svid]
    };
    let bad = [
        ("no identity", vec![]),
        ("no key", spoiled(&|svid| svid.key.clear())),
        ("another's key", spoiled(&|spoiled| spoiled.key = svid().key)),
        ("half a certificate", spoiled(&|svid| svid.chain.truncate(100))),
        ("no bundle", spoiled(&|svid| svid.bundle.clear())),
        ("half a bundle", spoiled(&|svid| svid.bundle.truncate(100))),
    ];
    for (what, bad) in bad {
        let before = workload.x509_svid().unwrap();
        let sent = script.sent.load(Ordering::SeqCst);
        script.issue(bad);
        until("it was sent", || script.sent.load(Ordering::SeqCst) > sent).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let held = workload.x509_svid().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(held.certificate_chain(), before.certificate_chain(), "{what}");
        let good = svid();
        script.issue(vec![good.clone()]);
        until("the good one is in use", || {
            workload.x509_svid().unwrap().certificate_chain()[0].as_ref() == good.chain
        })
        .await;
    }
    assert!(!watched.is_finished(), "there was never an error");
}

/// The crate `spiffe` does not compare the two; what is proved is what counts.
#[tokio::test]
async fn the_certificate_names_the_identity_and_not_the_message_around_it() {
    let place = Place::new();
    let (script, authority) = scripted(&place);
    let mut svid = authority.svid("/a", "", in_s(-60), in_s(600));
    svid.spiffe_id = "spiffe://elsewhere/admin".to_owned();
    script.issue(vec![svid]);
    let workload = place.attach().await;
    assert_eq!(workload.spiffe_id().unwrap().to_string(), format!("spiffe://{TRUST_DOMAIN}/a"));
}

#[tokio::test]
async fn what_an_update_leaves_out_is_not_used_any_more() {
    let place = Place::new();
    let (script, authority) = scripted(&place);
    let other = scripted::Authority::new("other.example", in_s(-60), in_s(3600));
    let svid = authority.svid("/a", "", in_s(-60), in_s(600));
    let federated = [("spiffe://other.example".to_owned(), other.bundle())].into();
    script.say(Ok(X509 { svids: vec![svid.clone()], federated }));
    let workload = place.attach().await;
    let has_other = || {
        let current = workload.x509().current();
        current.as_ref().as_ref().unwrap().bundle(&domain("other.example")).is_some()
    };
    assert!(has_other());
    script.issue(vec![svid]);
    until("the federated bundle is gone", || !has_other()).await;
}

#[tokio::test]
async fn only_permission_denied_takes_an_identity_back() {
    let place = Place::new();
    let (script, authority) = scripted(&place);
    let workload = place.attach().await;
    for code in [Code::Unavailable, Code::Internal, Code::Cancelled, Code::ResourceExhausted] {
        let opened = script.opened.load(Ordering::SeqCst);
        script.say(Err(Status::new(code, "as told")));
        until("it asked again", || script.opened.load(Ordering::SeqCst) > opened).await;
        assert!(workload.x509_svid().is_ok(), "{code:?}");
    }
    script.say(Err(Status::permission_denied("not you")));
    until("it was withdrawn", || matches!(workload.x509_svid(), Err(Error::Withdrawn { .. })))
        .await;
    let svid = authority.svid("/a", "", in_s(-60), in_s(600));
    script.issue(vec![svid]);
    until("it is back", || workload.x509_svid().is_ok()).await;
}

#[tokio::test]
async fn whoever_waits_in_vain_is_told_about_the_clock_or_the_header() {
    let place = Place::new();
    let (script, authority) = scripted(&place);
    let svid = authority.svid("/a", "", in_s(-60), in_s(-30));
    script.issue(vec![svid]);
    let config = || WorkloadConfig::new(place.endpoint(), Duration::from_millis(500));
    let error = Workload::attach(config()).await.unwrap_err();
    assert!(error.to_string().contains("has expired by this machine's clock"), "{error}");
    script.say(Err(Status::invalid_argument("security header missing")));
    let started = Instant::now();
    let long = WorkloadConfig::new(place.endpoint(), Duration::from_secs(60));
    let error = Workload::attach(long).await.unwrap_err();
    assert!(error.to_string().contains("security header missing"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "it is not tried again");
    let probed = probe(&config()).await.unwrap_err();
    assert!(matches!(probed, ProbeError::Header(_)), "{probed}");
}
