//! F6: the latest bundle is kept, by its number and apart from others, and asked for again.

use std::time::SystemTime;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::testing::{audience, leaf};
use crate::{Usage, VerifiedJwt};

type Bundle = Rotating<Option<BundleDocument>>;

fn followed(relationship: Relationship) -> (Bundle, DropGuard) {
    let (bundle, follower) = follow(relationship);
    let stop = CancellationToken::new();
    tokio::spawn(follower.run(stop.clone()));
    (bundle, stop.drop_guard())
}

fn sequence(bundle: &Bundle) -> Option<u64> {
    bundle.current().as_ref().as_ref().and_then(BundleDocument::sequence)
}

async fn becomes(bundle: &mut Bundle, wanted: u64) {
    in_time(async {
        while sequence(bundle) != Some(wanted) {
            bundle.changed().await.expect("it is followed");
        }
    })
    .await;
}

#[tokio::test]
async fn f6_a_smaller_number_replaces_nothing_and_numbers_have_64_bits() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let (mut bundle_of, _stop) = followed(by_spiffe(&authority, &endpoint.url("/bundle")));
    let largest = u64::MAX;
    for (served, kept) in [
        (7, 7),
        (6, 7),
        (8, 8),
        ((1 << 53) + 1, (1 << 53) + 1),
        (1 << 53, (1 << 53) + 1),
        (1 << 63, 1 << 63),
        (largest, largest),
        (largest - 1, largest),
    ] {
        endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], served)));
        becomes(&mut bundle_of, kept).await;
        endpoint.asked(2).await;
        assert_eq!(sequence(&bundle_of), Some(kept), "{served}");
    }
}

#[tokio::test]
async fn f6_without_a_number_the_last_that_was_fetched_counts() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let (mut bundle_of, _stop) = followed(by_spiffe(&authority, &endpoint.url("/bundle")));
    let mut without = bundle(&[&authority], 0);
    without.as_object_mut().unwrap().remove("spiffe_sequence");
    endpoint.answer("/bundle", Answer::json(&without));
    let fetched = in_time(bundle_of.changed()).await.unwrap();
    assert_eq!(fetched.as_ref().as_ref().unwrap().sequence(), None);
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 3)));
    becomes(&mut bundle_of, 3).await;
}

#[tokio::test]
async fn f6_what_cannot_be_fetched_or_read_replaces_nothing_and_is_asked_for_again() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 5)));
    let (mut bundle_of, _stop) = followed(by_spiffe(&authority, &endpoint.url("/bundle")));
    becomes(&mut bundle_of, 5).await;
    for answer in [
        Answer::status(503),
        Answer::json(&json!({ "spiffe_sequence": 9 })),
        Answer::json(&json!({ "keys": "none", "spiffe_sequence": 9 })),
        Answer::body("application/json", b"{"),
        Answer::redirect(302, "http://127.0.0.1/"),
    ] {
        endpoint.answer("/bundle", answer);
        endpoint.asked(2).await;
        assert_eq!(sequence(&bundle_of), Some(5));
    }
    endpoint.present(&authority.svid("/someone-else"));
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 6)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sequence(&bundle_of), Some(5), "an impostor's");
    endpoint.present(&authority.svid(PATH));
    becomes(&mut bundle_of, 6).await;
}

#[tokio::test]
async fn f6_an_endpoint_that_is_down_is_found_again_when_it_is_up() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    endpoint.set_down(true);
    let web = endpoint::Web::new();
    let of_web = Endpoint::of_web(&web, &["127.0.0.1"]).await;
    of_web.set_down(true);
    let (mut by_svid, _stop) = followed(by_spiffe(&authority, &endpoint.url("/bundle")));
    let relationship = by_web(&authority.trust_domain, &of_web.url("/bundle"), &web.pem);
    let (mut by_name, _stop) = followed(relationship);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sequence(&by_svid), Some(1), "the bootstrap bundle");
    assert!(by_name.current().is_none(), "nothing is known yet");
    for (endpoint, bundle_of) in [(&endpoint, &mut by_svid), (&of_web, &mut by_name)] {
        endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 2)));
        endpoint.set_down(false);
        becomes(bundle_of, 2).await;
        endpoint.set_down(true);
        endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 3)));
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(sequence(bundle_of), Some(2));
        endpoint.set_down(false);
        becomes(bundle_of, 3).await;
    }
}

#[tokio::test]
async fn an_endpoint_of_another_trust_domain_is_asked_as_soon_as_that_one_is_known() {
    let (served, host) = (Authority::new("served"), Authority::new("host"));
    let web = endpoint::Web::new();
    let of_host = Endpoint::of_web(&web, &["127.0.0.1"]).await;
    let of_served = Endpoint::of_svid(&host.svid(PATH)).await;
    of_served.answer("/bundle", Answer::json(&bundle(&[&served], 7)));
    of_host.set_down(true);
    let relationship_host = by_web(&host.trust_domain, &of_host.url("/bundle"), &web.pem);
    let (host_bundle, _stop_host) = followed(relationship_host);
    let profile = Profile::HttpsSpiffe {
        endpoint_id: host.id(PATH),
        bundle: EndpointBundle::Followed(host_bundle),
    };
    let hours = Polling::between(Duration::from_secs(7_200), Duration::from_secs(7_200));
    let relationship =
        relationship(&served.trust_domain, &of_served.url("/bundle"), profile).polled(hours);
    let (mut served_bundle, _stop_served) = followed(relationship);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(served_bundle.current().is_none());
    of_host.answer("/bundle", Answer::json(&bundle(&[&host], 1)));
    of_host.set_down(false);
    becomes(&mut served_bundle, 7).await;
    // Once, and not at every change of the other.
    of_host.answer("/bundle", Answer::json(&bundle(&[&host], 2)));
    of_host.asked(2).await;
    assert_eq!(of_served.heads().len(), 1);
}

#[tokio::test]
async fn f6_a_self_serving_endpoint_rotates_its_authority_and_is_followed() {
    let (first, second, third) = (Authority::new("td"), Authority::new("td"), Authority::new("td"));
    let endpoint = self_serving(&first).await;
    let (mut bundle_of, _stop) = followed(by_spiffe(&first, &endpoint.url("/bundle")));
    for (number, published, signer) in [
        (2, vec![&*first, &*second], &first),
        (3, vec![&*second], &second),
        (4, vec![&*second, &*third], &second),
        (5, vec![&*third], &third),
    ] {
        endpoint.present(&signer.svid(PATH));
        endpoint.answer("/bundle", Answer::json(&bundle(&published, number)));
        becomes(&mut bundle_of, number).await;
    }
    // Whoever has the first authority's key is nobody by now, although the relationship began with it.
    endpoint.present(&first.svid(PATH));
    endpoint.answer("/bundle", Answer::json(&bundle(&[&first], 6)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sequence(&bundle_of), Some(5));
}

#[tokio::test]
async fn b7_hints_of_nothing_and_of_ages_are_followed_within_the_bounds() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let (mut bundle_of, _stop) = followed(by_spiffe(&authority, &endpoint.url("/bundle")));
    let hints = [
        json!(0),
        json!(1_u64 << 63),
        json!(u64::MAX),
        json!(1e30),
        json!(-1),
        json!("x"),
        json!(0.5),
    ];
    for (hint, number) in hints.into_iter().zip(2..) {
        let mut served = bundle(&[&authority], number);
        served["spiffe_refresh_hint"] = hint;
        endpoint.answer("/bundle", Answer::json(&served));
        becomes(&mut bundle_of, number).await;
    }
    // Unbounded, the first would have been a flood.
    endpoint.asked(1).await;
    let before = (std::time::Instant::now(), endpoint.heads().len());
    endpoint.asked(5).await;
    let polls = u32::try_from(endpoint.heads().len() - before.1).unwrap();
    assert!(before.0.elapsed() >= Duration::from_millis(15) * (polls - 1));
}

#[tokio::test]
async fn a_bundle_that_did_not_change_is_not_published_again() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 2)));
    let (mut bundle_of, _stop) = followed(by_spiffe(&authority, &endpoint.url("/bundle")));
    becomes(&mut bundle_of, 2).await;
    let before = bundle_of.current();
    endpoint.asked(3).await;
    // Nor one whose keys come in another order.
    let other = Authority::new("td");
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority, &other], 3)));
    becomes(&mut bundle_of, 3).await;
    let reordered = bundle_of.current();
    assert!(!Arc::ptr_eq(&before, &reordered));
    let mut served = bundle(&[&other, &authority], 3);
    served["keys"].as_array_mut().unwrap().reverse();
    endpoint.answer("/bundle", Answer::json(&served));
    endpoint.asked(3).await;
    assert!(Arc::ptr_eq(&reordered, &bundle_of.current()));
}

#[tokio::test]
async fn following_ends_when_it_is_told_to_and_the_bundle_stays() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    endpoint.answer("/bundle", Answer::Stall(Vec::new()));
    let (bundle_of, follower) = follow(by_spiffe(&authority, &endpoint.url("/bundle")));
    let stop = CancellationToken::new();
    let task = tokio::spawn(follower.run(stop.clone()));
    endpoint.asked(1).await;
    stop.cancel();
    in_time(task).await.unwrap();
    assert_eq!(sequence(&bundle_of), Some(1));
}

fn token(signer: &Authority, of: &Authority) -> String {
    let mut claims = json!({ "sub": of.id("/a").to_string(), "aud": ["here"] });
    claims["exp"] = json!(crate::testing::unix_now() + 300);
    signer.sign(&json!({ "alg": "ES256", "kid": "key" }), &claims)
}

fn judge(verifier: &Rotating<Verifier>, token: &str) -> Result<VerifiedJwt, Refusal> {
    verifier.current().verify_jwt(token, &audience("here"), SystemTime::now())
}

fn judge_chain(
    verifier: &Rotating<Verifier>,
    signer: &Authority,
    of: &Authority,
) -> Result<SpiffeId, Refusal> {
    let (chain, _) = signer.issue(&leaf(&of.id("/a").to_string()));
    verifier.current().verify_x509(&chain, Usage::Client, SystemTime::now())
}

#[tokio::test]
async fn f6_bundles_of_several_trust_domains_are_never_merged() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (first, second) = (self_serving(&one).await, self_serving(&two).await);
    let relationships =
        [by_spiffe(&one, &first.url("/bundle")), by_spiffe(&two, &second.url("/bundle"))];
    let (verifier, followers) = follow_all(relationships).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(followers.run(stop.clone()));
    for (signer, of, good) in
        [(&one, &one, true), (&two, &two, true), (&one, &two, false), (&two, &one, false)]
    {
        let ids = (&signer.trust_domain, &of.trust_domain);
        assert_eq!(judge(&verifier, &token(signer, of)).is_ok(), good, "{ids:?}");
        assert_eq!(judge_chain(&verifier, signer, of).is_ok(), good, "{ids:?}");
    }
    let third = Authority::new("three");
    let unknown = judge(&verifier, &token(&third, &third)).unwrap_err();
    assert!(matches!(unknown, Refusal::UnknownTrustDomain(_)), "{unknown}");
    stop.cancel();
    in_time(task).await.unwrap();
}

#[tokio::test]
async fn b1_a_bundle_that_becomes_empty_ends_all_trust_in_its_trust_domain_and_in_no_other() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (first, second) = (self_serving(&one).await, self_serving(&two).await);
    let relationships =
        [by_spiffe(&one, &first.url("/bundle")), by_spiffe(&two, &second.url("/bundle"))];
    let (mut verifier, followers) = follow_all(relationships).unwrap();
    let _stop = {
        let stop = CancellationToken::new();
        tokio::spawn(followers.run(stop.clone()));
        stop.drop_guard()
    };
    let (of_one, of_two) = (token(&one, &one), token(&two, &two));
    assert!(judge(&verifier, &of_one).is_ok() && judge_chain(&verifier, &one, &one).is_ok());
    first.answer("/bundle", Answer::json(&json!({ "keys": [], "spiffe_sequence": 2 })));
    in_time(verifier.changed()).await.unwrap();
    let refusal = judge(&verifier, &of_one).unwrap_err();
    assert!(matches!(refusal, Refusal::UnknownKey(_)), "{refusal}");
    let refusal = judge_chain(&verifier, &one, &one).unwrap_err();
    assert!(matches!(refusal, Refusal::Untrusted { .. }), "{refusal}");
    assert!(judge(&verifier, &of_two).is_ok() && judge_chain(&verifier, &two, &two).is_ok());
}
