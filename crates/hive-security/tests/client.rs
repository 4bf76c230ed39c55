//! The clauses of the SPIFFE standards that bind a client of the Workload API, each by its row in
//! `conformance/spiffe.json`. They are written from the text of the standards.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod scripted;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use hive_security::{
    Audience, Error, JwtBundle, Refusal, SpiffeId, TrustDomain, Workload, WorkloadConfig,
    X509Bundle, probe,
};
use scripted::{Authority, JwtSvid, JwtSvids, Script, X509, X509Svid, token};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

const TRUST_DOMAIN: &str = "client.hive.internal";
const PATIENCE: Duration = Duration::from_secs(20);

/// A Workload API that does as it is told.
struct Place {
    directory: TempDir,
    script: Script,
    authority: Authority,
    stop: CancellationToken,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(TRUST_DOMAIN, in_s(-60), in_s(3600));
        let svids = vec![svid(&authority, "/a", "")];
        let socket = directory.path().join("api.sock");
        let script = Script::serve(&socket, X509 { svids, ..X509::default() }, TRUST_DOMAIN);
        Self { directory, script, authority, stop: CancellationToken::new() }
    }

    fn config(&self) -> WorkloadConfig {
        let socket = self.directory.path().join("api.sock");
        WorkloadConfig::new(format!("unix://{}", socket.display()), PATIENCE)
    }

    async fn attach(&self) -> Workload {
        let (workload, upkeep) = Workload::attach(self.config()).await.unwrap();
        tokio::spawn(upkeep.run(self.stop.clone()));
        workload
    }

    fn svid(&self, path: &str, hint: &str) -> X509Svid {
        svid(&self.authority, path, hint)
    }

    /// Waits until exactly this one is in use.
    async fn adopted(&self, workload: &Workload, svid: X509Svid) {
        let chain = svid.chain.clone();
        self.script.issue(vec![svid]);
        until("the good one is in use", || {
            let held = workload.x509_svid().unwrap();
            held.certificate_chain().iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat()
                == chain
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn svid(authority: &Authority, path: &str, hint: &str) -> X509Svid {
    authority.svid(path, hint, in_s(-60), in_s(600))
}

/// The time in so many seconds.
fn in_s(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn audience(text: &str) -> Audience {
    Audience::parse(text).unwrap()
}

fn domains(workload: &Workload) -> (Vec<String>, Vec<String>) {
    let (x509, jwt) = (workload.x509().current(), workload.jwt_bundles().current());
    let of = |name: &TrustDomain| name.as_str().to_owned();
    let x509 = x509.as_ref().as_ref().unwrap().bundles().iter().map(X509Bundle::trust_domain);
    let jwt = jwt.as_ref().as_ref().unwrap().bundles().iter().map(JwtBundle::trust_domain);
    (x509.map(of).collect(), jwt.map(of).collect())
}

#[tokio::test]
async fn w2_every_request_carries_the_security_header_once() {
    let place = Place::new();
    let workload = place.attach().await;
    workload.jwt_svid(&audience("a")).await.unwrap();
    probe(&place.config()).await.unwrap();
    let asked = place.script.asked.lock().unwrap().clone();
    let methods: BTreeSet<&str> =
        asked.iter().map(|(path, _)| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(methods, ["FetchJWTBundles", "FetchJWTSVID", "FetchX509SVID"].into());
    for (path, values) in &asked {
        assert_eq!(values, &["true"], "{path}");
    }
}

/// `InvalidArgument` means that the client is wrong, `Unimplemented` that there is nothing to wait for.
#[tokio::test]
async fn w3_w6_what_no_retry_can_change_is_reported_and_not_asked_again() {
    let statuses = [Status::invalid_argument("no header"), Status::unimplemented("not here")];
    for status in statuses {
        for method in ["FetchX509SVID", "FetchJWTBundles"] {
            let place = Place::new();
            if method == "FetchX509SVID" {
                place.script.say(Err(status.clone()));
            } else {
                place.script.say_jwt(Err(status.clone()));
            }
            let began = Instant::now();
            let error = Workload::attach(place.config()).await.unwrap_err();
            assert!(error.to_string().contains(status.message()), "{method}: {error}");
            assert!(began.elapsed() < Duration::from_secs(5), "{method}: it waited");
            sleep(Duration::from_millis(700)).await;
            assert_eq!(place.script.calls(method), 1, "{method} after {status:?}");
        }
    }
}

#[tokio::test]
async fn w6_a_fetch_of_jwt_svids_that_is_not_implemented_is_not_repeated() {
    let place = Place::new();
    let workload = place.attach().await;
    place.script.tokens.send_replace(Some(Err(Status::unimplemented("not here"))));
    let error = workload.jwt_svid(&audience("a")).await.unwrap_err();
    assert!(error.to_string().contains("not here"), "{error}");
    // Longer than the pause between two looks at what is due.
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(place.script.calls("FetchJWTSVID"), 1);
    let fetches = workload.jwt_svid_fetches();
    assert_eq!((fetches.succeeded, fetches.denied, fetches.failed), (0, 0, 1));
}

#[tokio::test]
async fn w6_denied_and_unavailable_are_asked_again_with_a_growing_pause() {
    for status in [Status::permission_denied("no identity issued"), Status::unavailable("starting")]
    {
        let place = Place::new();
        place.script.say(Err(status.clone()));
        let mut attaching = Box::pin(Workload::attach(place.config()));
        let early = timeout(Duration::from_secs(3), &mut attaching).await;
        assert!(early.is_err(), "{status:?} is no reason to give up: {early:?}");
        let calls = place.script.calls("FetchX509SVID");
        assert!((2..=6).contains(&calls), "{calls} calls in 3 s after {status:?}");
        place.script.issue(vec![place.svid("/a", "")]);
        let (_workload, _upkeep) = attaching.await.unwrap();
    }
}

#[tokio::test]
async fn w10_the_stream_is_kept_and_opened_again_when_it_ends() {
    let place = Place::new();
    let workload = place.attach().await;
    let opened = || place.script.opened.load(Ordering::SeqCst);
    // Attaching looks at one stream, and follows another.
    place.adopted(&workload, place.svid("/a", "")).await;
    let before = opened();
    for _ in 0..3 {
        place.adopted(&workload, place.svid("/a", "")).await;
    }
    assert_eq!(opened(), before, "updates come on the same stream");
    place.script.say(Err(Status::unavailable("closing")));
    let ended = Instant::now();
    until("it was opened again", || opened() > before).await;
    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
    place.adopted(&workload, place.svid("/a", "")).await;
}

#[tokio::test]
async fn w11_what_an_update_leaves_empty_or_out_is_gone() {
    let place = Place::new();
    let other = Authority::new("other.example", in_s(-60), in_s(3600));
    let svids = vec![place.svid("/a", "internal"), place.svid("/b", "public")];
    let federated = [("spiffe://other.example".to_owned(), other.bundle())].into();
    place.script.say(Ok(X509 { svids, federated }));
    place.script.say_jwt_bundles(&[TRUST_DOMAIN, "other.example"]);
    let workload = place.attach().await;
    let all = || vec![TRUST_DOMAIN.to_owned(), "other.example".to_owned()];
    until("both are known", || domains(&workload) == (all(), all())).await;
    assert!(workload.x509_svid_by_hint("internal").is_ok());
    assert!(workload.x509_svid_by_hint("public").is_ok());

    place.adopted(&workload, place.svid("/a", "")).await;
    place.script.say_jwt_bundles(&[TRUST_DOMAIN]);
    let own = || vec![TRUST_DOMAIN.to_owned()];
    until("the other is unloaded", || domains(&workload) == (own(), own())).await;
    for gone in ["internal", "public"] {
        let found = workload.x509_svid_by_hint(gone);
        assert!(matches!(found, Err(Error::UnknownHint { .. })), "{gone}: {found:?}");
    }
    assert_eq!(workload.x509().current().as_ref().as_ref().unwrap().svids().len(), 1);
}

/// The good update after each bad one shows that the bad one was dealt with.
#[tokio::test]
async fn w12_an_x509_message_without_a_mandatory_field_is_discarded() {
    let place = Place::new();
    let workload = place.attach().await;
    let mut changes = workload.x509();
    let watched = tokio::spawn(async move {
        while let Some(change) = changes.changed().await {
            assert!(change.is_ok(), "{change:?}");
        }
    });
    let without = |spoil: &dyn Fn(&mut X509Svid)| {
        let mut second = place.svid("/b", "");
        spoil(&mut second);
        // The first is whole, but a message is taken over whole or not at all.
        vec![place.svid("/b", ""), second]
    };
    for (field, bad) in [
        ("svids", vec![]),
        ("spiffe_id", without(&|svid| svid.spiffe_id.clear())),
        ("x509_svid", without(&|svid| svid.chain.clear())),
        ("x509_svid_key", without(&|svid| svid.key.clear())),
        ("bundle", without(&|svid| svid.bundle.clear())),
    ] {
        let sent = place.script.sent.load(Ordering::SeqCst);
        place.script.issue(bad);
        until("it was sent", || place.script.sent.load(Ordering::SeqCst) > sent).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(workload.spiffe_id().unwrap().path(), "/a", "without {field}");
        place.adopted(&workload, place.svid("/a", "")).await;
    }
    assert!(!watched.is_finished(), "there was never an error");
}

#[tokio::test]
async fn w12_jwt_messages_without_a_mandatory_field_are_discarded() {
    let place = Place::new();
    let workload = place.attach().await;
    let id = workload.spiffe_id().unwrap().to_string();
    let none = scripted::JwtBundles { bundles: [].into() };
    place.script.say_jwt(Ok(none));
    sleep(Duration::from_millis(50)).await;
    assert_eq!(domains(&workload).1, [TRUST_DOMAIN]);
    let good = token(&id, &["a".to_owned()], SystemTime::now());
    let answer = |spiffe_id: &str, token: &str| JwtSvid {
        spiffe_id: spiffe_id.to_owned(),
        token: token.to_owned(),
    };
    for (field, svids) in
        [("svids", vec![]), ("spiffe_id", vec![answer("", &good)]), ("svid", vec![answer(&id, "")])]
    {
        place.script.tokens.send_replace(Some(Ok(JwtSvids { svids })));
        // A failure is remembered for a moment.
        sleep(Duration::from_millis(300)).await;
        let refused = workload.jwt_svid(&audience("a")).await.unwrap_err();
        assert!(matches!(refused, Error::NoJwtSvid { denied: false, .. }), "{field}: {refused}");
    }
    place.script.tokens.send_replace(Some(Ok(JwtSvids { svids: vec![answer(&id, &good)] })));
    sleep(Duration::from_millis(300)).await;
    workload.jwt_svid(&audience("a")).await.unwrap();
}

#[tokio::test]
async fn w13_of_svids_with_one_hint_the_first_counts() {
    let place = Place::new();
    let svids = [("/a", ""), ("/b", "same"), ("/c", "same")];
    place.script.issue(svids.map(|(path, hint)| place.svid(path, hint)).into());
    let workload = place.attach().await;
    let found = workload.x509_svid_by_hint("same").unwrap();
    assert_eq!(found.spiffe_id().path(), "/b");
    let all = workload.x509().current();
    assert_eq!(all.as_ref().as_ref().unwrap().svids().len(), 3, "the others are still there");
}

#[tokio::test]
async fn w14_the_first_svid_is_the_default() {
    let place = Place::new();
    let issue =
        |paths: [&str; 2]| place.script.issue(paths.map(|path| place.svid(path, "")).into());
    issue(["/b", "/a"]);
    let workload = place.attach().await;
    assert_eq!(workload.spiffe_id().unwrap().path(), "/b");
    issue(["/a", "/b"]);
    until("the order changed", || workload.spiffe_id().unwrap().path() == "/a").await;
    workload.jwt_svid(&audience("a")).await.unwrap();
    assert!(place.script.wanted.lock().unwrap()[0].spiffe_id.ends_with("/a"));
}

#[tokio::test]
async fn w15_the_own_bundle_is_known_and_each_kind_is_kept_apart() {
    let place = Place::new();
    let other = Authority::new("other.example", in_s(-60), in_s(3600));
    let federated = [("spiffe://other.example".to_owned(), other.bundle())].into();
    place.script.say(Ok(X509 { svids: vec![place.svid("/a", "")], federated }));
    let workload = place.attach().await;
    let (x509, jwt) = domains(&workload);
    assert_eq!(x509, [TRUST_DOMAIN, "other.example"]);
    assert_eq!(jwt, [TRUST_DOMAIN], "an X.509 bundle vouches for no token");
    let foreign = token("spiffe://other.example/a", &["a".to_owned()], SystemTime::now());
    let refused = workload.verify_jwt(&foreign, &audience("a")).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownTrustDomain(_)), "{refused:?}");

    place.script.say_jwt_bundles(&[TRUST_DOMAIN, "third.example"]);
    until("it is known", || domains(&workload).1.len() == 2).await;
    assert_eq!(domains(&workload).0, [TRUST_DOMAIN, "other.example"]);
}

#[tokio::test]
async fn w16_a_token_is_for_the_audience_and_the_identity_that_were_asked_for() {
    let place = Place::new();
    let workload = place.attach().await;
    let id = workload.spiffe_id().unwrap().to_string();
    let svid = workload.jwt_svid(&audience("first")).await.unwrap();
    let asked = place.script.wanted.lock().unwrap()[0].clone();
    assert_eq!((asked.audience, asked.spiffe_id), (vec!["first".to_owned()], id.clone()));
    assert!(!svid.token().expose_secret().is_empty());
    let another = SpiffeId::parse(&id).unwrap().to_string().replace("/a", "/b");
    for (sub, aud) in [
        (&id, vec!["else"]),
        (&id, vec!["asked", "else"]),
        (&id, vec![]),
        (&another, vec!["asked"]),
    ] {
        let aud: Vec<String> = aud.into_iter().map(str::to_owned).collect();
        let token = token(sub, &aud, SystemTime::now());
        let svids = vec![JwtSvid { spiffe_id: id.clone(), token }];
        place.script.tokens.send_replace(Some(Ok(JwtSvids { svids })));
        sleep(Duration::from_millis(300)).await;
        let refused = workload.jwt_svid(&audience("asked")).await;
        assert!(matches!(refused, Err(Error::NoJwtSvid { .. })), "{sub} {aud:?}: {refused:?}");
    }
}

#[tokio::test]
async fn w19_permission_denied_ends_the_use_of_what_was_handed_out() {
    for stream in ["x509", "jwt"] {
        let place = Place::new();
        let workload = place.attach().await;
        let held = token("spiffe://client.hive.internal/a", &["a".to_owned()], SystemTime::now());
        let status = Status::permission_denied("not you");
        if stream == "x509" {
            place.script.say(Err(status));
            until("X.509-SVIDs are not used", || workload.x509_svid().is_err()).await;
            assert!(workload.jwt_svid(&audience("a")).await.is_err());
        } else {
            place.script.say_jwt(Err(status));
            until("JWT bundles are not used", || {
                let judged = workload.verify_jwt(&held, &audience("a"));
                matches!(judged, Err(Refusal::NoTrust { .. }))
            })
            .await;
        }
    }
}

#[tokio::test]
async fn x13_a_chain_has_its_leaf_first_a_key_is_plain_and_a_bundle_is_der_after_der() {
    let place = Place::new();
    let workload = place.attach().await;
    let below = place.authority.intermediate();
    let second = Authority::new(TRUST_DOMAIN, in_s(-60), in_s(3600));
    let mut chained = svid(&below, "/a", "");
    chained.bundle.extend(second.bundle());
    let leaf = chained.chain.clone();
    place.adopted(&workload, chained.clone()).await;
    let held = workload.x509_svid().unwrap();
    assert_eq!(held.certificate_chain().len(), 2);
    assert!(leaf.starts_with(&held.certificate_chain()[0]), "the leaf is the first");
    let current = workload.x509().current();
    let name = TrustDomain::parse(TRUST_DOMAIN).unwrap();
    let authorities =
        current.as_ref().as_ref().unwrap().bundle(&name).unwrap().authorities().to_vec();
    let bundle: Vec<u8> = authorities.iter().flat_map(|one| one.to_vec()).collect();
    assert_eq!((authorities.len(), bundle), (2, chained.bundle.clone()));
    let probed = probe(&place.config()).await.unwrap();
    probed.verify(&probed.x509().svids()[0], SystemTime::now()).expect("it leads to the bundle");

    let (leaf, rest) = leaf.split_at(held.certificate_chain()[0].len());
    let spoiled = |spoil: &dyn Fn(&mut X509Svid)| {
        let mut svid = chained.clone();
        spoil(&mut svid);
        svid
    };
    for (what, bad) in [
        ("the leaf last", spoiled(&|svid| svid.chain = [rest, leaf].concat())),
        ("bytes after the chain", spoiled(&|svid| svid.chain.push(0))),
        ("a key of another form", spoiled(&|svid| svid.key = svid.key[36..].to_vec())),
        ("bytes between bundles", spoiled(&|svid| svid.bundle.insert(0, 0))),
    ] {
        let sent = place.script.sent.load(Ordering::SeqCst);
        place.script.issue(vec![bad]);
        until("it was sent", || place.script.sent.load(Ordering::SeqCst) > sent).await;
        sleep(Duration::from_millis(20)).await;
        let still = workload.x509_svid().unwrap();
        assert_eq!(still.certificate_chain(), held.certificate_chain(), "{what}");
        place.adopted(&workload, chained.clone()).await;
    }
}
