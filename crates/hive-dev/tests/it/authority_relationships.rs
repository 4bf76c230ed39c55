//! Trust domains that follow each other's bundle endpoints.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hive_dev::authority::{
    BundleEndpoint, BundleProfile, Entry, KeyKind, Selector, SigningKey, Terms,
};
use hive_security::federation::{
    EndpointBundle, Error, Polling, Profile, Relationship, WebRoots, follow_all,
};
use hive_security::{
    Audience, BundleDocument, IdPattern, SpiffeId, TrustDomain, Workload, WorkloadConfig, tls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::authority::{Place, in_time, next, until, wire, with_header};
use crate::authority_federation::named;

const ENDPOINT: &str = "/bundle-endpoint";
const AUDIENCE: &str = "the-other";

fn https_spiffe() -> BundleProfile {
    BundleProfile::HttpsSpiffe { spiffe_path: ENDPOINT.to_owned() }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a good name")
}

/// A trust domain with a bundle endpoint, and a workload in it.
struct Side {
    place: Place,
    workload: Workload,
    _upkeep: DropGuard,
}

impl Side {
    async fn start(name: &str, profile: BundleProfile) -> Self {
        let place = named(name, |config| {
            config.bundle_endpoint = Some(BundleEndpoint::new(profile));
            // Several polls, also on a machine that has other things to do.
            config.publish_ahead = Duration::from_secs(5);
        })
        .await;
        let config = WorkloadConfig::new(place.authority.endpoint(), Duration::from_secs(20));
        let (workload, upkeep) = Workload::attach(config).await.expect("an identity");
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        Self { place, workload, _upkeep: stop.drop_guard() }
    }

    fn me(&self) -> IdPattern {
        IdPattern::parse(&self.place.id("/me")).expect("a good ID")
    }

    async fn token(&self) -> String {
        let fetched = self.place.client().await.fetch_jwt_svid([AUDIENCE], None).await;
        fetched.expect("a token").token().to_owned()
    }

    /// Whether a workload there is known here, by what it is given now.
    async fn knows(&self, there: &Self) -> Result<(), String> {
        let audience = Audience::parse(AUDIENCE).expect("a good audience");
        let verified = self.workload.verify_jwt(&there.token().await, &audience);
        let verified = verified.map_err(|refusal| refusal.to_string())?;
        assert_eq!(verified.spiffe_id().to_string(), there.place.id("/me"));
        Ok(())
    }

    fn current_keys(&self) -> [SigningKey; 2] {
        [KeyKind::X509, KeyKind::Jwt]
            .map(|kind| self.place.authority.signing_keys(kind).remove(0).0)
    }
}

/// How the operator here knows the endpoint there.
fn relationship(there: &Place) -> Relationship {
    let authority = &there.authority;
    let trust_domain = domain(authority.trust_domain());
    let profile = match authority.web_authority_pem() {
        Some(pem) => Profile::HttpsWeb(WebRoots::from_pem(pem).expect("a certificate")),
        None => {
            let document = authority.bundle_document();
            let document = BundleDocument::parse(&trust_domain, document.as_bytes());
            Profile::HttpsSpiffe {
                endpoint_id: SpiffeId::parse(&there.id(ENDPOINT)).expect("a good ID"),
                bundle: EndpointBundle::Given(document.expect("a good document")),
            }
        }
    };
    let url = authority.bundle_url().expect("a URL");
    let relationship = Relationship::new(trust_domain, &url, profile).expect("good settings");
    relationship.polled(Polling::between(Duration::from_millis(500), Duration::from_secs(1)))
}

/// One connection with X.509-SVIDs on both sides.
async fn mutual_tls(client: &Side, server: &Side) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (clients, servers) = (client.me(), server.me());
    let (accepted, connected) = tokio::join!(
        tls::accept(&server.workload, &clients, far),
        tls::connect(&client.workload, servers, near),
    );
    let (mut accepted, _) = accepted.map_err(|error| format!("server: {error}"))?;
    let (mut connected, _) = connected.map_err(|error| format!("client: {error}"))?;
    let sent = accepted.write_all(b"!").await;
    let read = connected.read_exact(&mut [0]).await;
    sent.and(read).map(drop).map_err(|error| error.to_string())
}

async fn know_each_other(here: &Side, there: &Side) -> Result<(), String> {
    here.knows(there).await?;
    there.knows(here).await?;
    mutual_tls(here, there).await?;
    mutual_tls(there, here).await
}

/// Calls in both directions, one after another, until `over`.
async fn call(here: &Side, there: &Side, over: &AtomicBool, calls: &AtomicUsize) {
    while !over.load(Ordering::SeqCst) {
        know_each_other(here, there).await.expect("nobody fails");
        calls.fetch_add(1, Ordering::SeqCst);
    }
}

async fn more(calls: &AtomicUsize) {
    let so_far = calls.load(Ordering::SeqCst);
    until(async || calls.load(Ordering::SeqCst) > so_far + 2).await;
}

/// Replaces both keys there, and takes the old ones away once nobody holds what they made.
async fn rotate(there: &Side, calls: &AtomicUsize) {
    let authority = &there.place.authority;
    let old = there.current_keys();
    let svid = there.workload.x509_svid().expect("an SVID");
    let (x509, jwt) = tokio::join!(authority.rotate_x509(), authority.rotate_jwt());
    x509.and(jwt).expect("rotated");
    let before = svid.certificate_chain();
    let current = || there.workload.x509_svid().expect("an SVID");
    until(async || current().certificate_chain() != before).await;
    more(calls).await;
    for key in &old {
        authority.taint(key).expect("tainted");
        authority.revoke(key).expect("revoked");
    }
}

async fn two_trust_domains_stay_together(profile: BundleProfile) {
    let here = Side::start("here.org", profile.clone()).await;
    let there = Side::start("there.org", profile).await;
    assert!(know_each_other(&here, &there).await.is_err(), "strangers so far");
    here.place.authority.federate_with(relationship(&there.place)).expect("another domain");
    there.place.authority.federate_with(relationship(&here.place)).expect("another domain");
    until(async || know_each_other(&here, &there).await.is_ok()).await;

    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rotated = async {
        let before = there.current_keys();
        more(&calls).await;
        rotate(&there, &calls).await;
        let [_, jwt] = there.current_keys();
        assert!(!before.contains(&jwt));
        // Only the new keys are known here, and nobody told us but the endpoint.
        until(async || keys_of(&there, &here) == (1, vec![jwt.id().to_owned()])).await;
        more(&calls).await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(call(&here, &there, &over, &calls), rotated);

    assert!(here.place.authority.end_federation("there.org").expect("a good name"));
    until(async || here.knows(&there).await.is_err()).await;
    there.knows(&here).await.expect("the other direction is another relationship");
}

/// What is known here of the keys there: how many of X.509, and the names of the others.
fn keys_of(there: &Side, here: &Side) -> (usize, Vec<String>) {
    let there = domain(there.place.authority.trust_domain());
    let (x509, jwt) = (here.workload.x509().current(), here.workload.jwt_bundles().current());
    let x509 = x509.as_ref().as_ref().expect("not withdrawn").bundle(&there);
    let jwt = jwt.as_ref().as_ref().expect("not withdrawn").bundle(&there);
    (
        x509.map_or(0, |bundle| bundle.authorities().len()),
        jwt.map_or(vec![], |bundle| bundle.key_ids().map(str::to_owned).collect()),
    )
}

#[tokio::test]
async fn two_trust_domains_follow_each_other_by_https_spiffe_and_nobody_fails_in_a_rotation() {
    two_trust_domains_stay_together(https_spiffe()).await;
}

#[tokio::test]
async fn two_trust_domains_follow_each_other_by_https_web_and_nobody_fails_in_a_rotation() {
    two_trust_domains_stay_together(BundleProfile::HttpsWeb).await;
}

async fn with_endpoint(name: &str, profile: BundleProfile) -> Place {
    named(name, |config| config.bundle_endpoint = Some(BundleEndpoint::new(profile))).await
}

#[tokio::test]
async fn the_endpoint_serves_the_latest_bundle_to_anyone_by_either_profile() {
    for profile in [https_spiffe(), BundleProfile::HttpsWeb] {
        let place = with_endpoint("here.org", profile).await;
        let relationship = relationship(&place);
        let mut sequence = 0;
        for _ in 0..3 {
            let served = relationship.fetch(None).await.expect("it is served");
            let trust_domain = domain("here.org");
            let own = place.authority.bundle_document();
            let own = BundleDocument::parse(&trust_domain, own.as_bytes()).expect("a document");
            assert_eq!(served, own);
            let next = served.sequence().expect("a number");
            assert!(next > sequence);
            sequence = next;
            place.authority.prepare(KeyKind::Jwt).await.expect("prepared");
        }
    }
}

#[tokio::test]
async fn whoever_has_no_authority_of_its_own_verifies_by_the_endpoints_alone() {
    let spiffe = with_endpoint("one.org", https_spiffe()).await;
    let web = with_endpoint("two.org", BundleProfile::HttpsWeb).await;
    let relationships = [relationship(&spiffe), relationship(&web)];
    let (mut verifier, followers) = follow_all(relationships).expect("good settings");
    let stop = CancellationToken::new();
    tokio::spawn(followers.run(stop.clone()));
    let _stop = stop.drop_guard();
    let audience = Audience::parse("here").expect("a good audience");
    for place in [&spiffe, &web] {
        let token = place.client().await.fetch_jwt_svid(["here"], None).await.expect("a token");
        let verified = in_time(async {
            loop {
                let now = std::time::SystemTime::now();
                match verifier.current().verify_jwt(token.token(), &audience, now) {
                    Ok(verified) => return verified,
                    Err(_) => verifier.changed().await.expect("it is followed"),
                };
            }
        })
        .await;
        assert_eq!(verified.spiffe_id().to_string(), place.id("/me"));
    }
}

#[tokio::test]
async fn an_authority_follows_no_endpoint_of_its_own_and_no_impostor() {
    let here = with_endpoint("here.org", https_spiffe()).await;
    let there = with_endpoint("there.org", https_spiffe()).await;
    assert!(here.authority.federate_with(relationship(&here)).is_err());
    // The endpoint of here.org stands where that of there.org should.
    let trust_domain = domain("there.org");
    let document = there.authority.bundle_document();
    let document = BundleDocument::parse(&trust_domain, document.as_bytes()).expect("a document");
    let profile = Profile::HttpsSpiffe {
        endpoint_id: SpiffeId::parse(&there.id(ENDPOINT)).expect("a good ID"),
        bundle: EndpointBundle::Given(document),
    };
    let url = here.authority.bundle_url().expect("a URL");
    let wrong = Relationship::new(trust_domain, &url, profile).expect("good settings");
    let error = wrong.fetch(None).await.expect_err("it is another's");
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
}

#[tokio::test]
async fn a_later_relationship_takes_the_place_of_an_earlier_one() {
    let here = named("here.org", |_| {}).await;
    let there = with_endpoint("there.org", https_spiffe()).await;
    for _ in 0..3 {
        here.authority.federate_with(relationship(&there)).expect("another domain");
    }
    let token = there.client().await.fetch_jwt_svid(["a"], None).await.expect("a token");
    let client = here.client().await;
    until(async || client.validate_jwt_token("a", token.token()).await.is_ok()).await;
    assert!(here.authority.end_federation("there.org").expect("a good name"));
    assert!(client.validate_jwt_token("a", token.token()).await.is_err());
    // What was still under way comes too late.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(client.validate_jwt_token("a", token.token()).await.is_err());
    assert!(!here.authority.end_federation("there.org").expect("a good name"));
}

#[tokio::test]
async fn a_workload_gets_the_bundles_that_its_entry_names_and_no_others() {
    let here = Place::empty(|config| config.trust_domain = Some("here.org".to_owned())).await;
    let (one, two) = (named("one.org", |_| {}).await, named("two.org", |_| {}).await);
    for other in [&one, &two] {
        let document = other.authority.bundle_document();
        here.authority.federate(other.authority.trust_domain(), &document).expect("good");
    }
    let me = Entry::new("/me", [Selector::Pid(std::process::id())]);
    let me = me.federating_with([domain("one.org"), domain("unknown.org")]);
    let entry = here.authority.add_entry(me).expect("a good entry");
    let mut svids = here.x509_svids().await;
    let mut raw = here.raw().await;
    let asked = with_header(wire::X509BundlesRequest {});
    let mut x509 = raw.fetch_x509_bundles(asked).await.expect("a stream").into_inner();
    let asked = with_header(wire::JwtBundlesRequest {});
    let mut jwt = raw.fetch_jwt_bundles(asked).await.expect("a stream").into_inner();
    let tokens = [&one, &two].map(async |other| {
        let token = other.client().await.fetch_jwt_svid(["a"], None).await.expect("a token");
        token.token().to_owned()
    });
    let tokens = futures_util::future::join_all(tokens).await;
    let client = here.client().await;

    let some =
        |names: &[&str]| Some(names.iter().map(|name| domain(name)).collect::<BTreeSet<_>>());
    let mut wanted = vec![
        (some(&["two.org"]), vec!["two.org"]),
        (some(&[]), vec![]),
        (None, vec!["one.org", "two.org"]),
    ]
    .into_iter();
    let mut expected = vec!["one.org"];
    loop {
        let ids: Vec<String> = expected.iter().map(|name| format!("spiffe://{name}")).collect();
        let federated = next(&mut svids).await.federated_bundles;
        assert_eq!(sorted(federated.into_keys()), ids);
        for bundles in [next(&mut x509).await.bundles, next(&mut jwt).await.bundles] {
            let with_own = sorted(ids.iter().cloned().chain(["spiffe://here.org".to_owned()]));
            assert_eq!(sorted(bundles.into_keys()), with_own);
        }
        for (name, token) in ["one.org", "two.org"].into_iter().zip(&tokens) {
            let valid = client.validate_jwt_token("a", token).await.is_ok();
            assert_eq!(valid, expected.contains(&name), "{name}");
        }
        let Some((federates_with, next_expected)) = wanted.next() else { return };
        let terms = Terms { federates_with, ..Terms::default() };
        assert!(here.authority.change_entry(entry, terms).expect("good terms"));
        expected = next_expected;
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
