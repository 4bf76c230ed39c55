//! Several identities of one workload, and entries that change.

use std::time::Duration;

use hive_dev::authority::{Entry, Selector, Terms};
use tonic::Code;

use crate::authority::wire::{JwtsvidRequest, JwtsvidResponse};
use crate::authority::{Place, end, next, with_header};

fn mine(path: &str, hint: &str) -> Entry {
    Entry::of_process(path, std::process::id()).hinted(hint)
}

async fn tokens(place: &Place, spiffe_id: &str) -> Result<JwtsvidResponse, Code> {
    let wanted = JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: spiffe_id.to_owned() };
    let answer = place.raw().await.fetch_jwtsvid(with_header(wanted)).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.code())
}

#[tokio::test]
async fn every_identity_comes_with_its_hint_and_the_first_is_the_default() {
    let place = Place::empty(|_| {}).await;
    for (path, hint) in [("/b", "internal"), ("/a", "external"), ("/c", "")] {
        place.authority.add_entry(mine(path, hint)).expect("a good entry");
    }
    let expected = [("/b", "internal"), ("/a", "external"), ("/c", "")]
        .map(|(path, hint)| (place.id(path), hint.to_owned()));
    let svids = next(&mut place.x509_svids().await).await.svids;
    let found = svids.iter().map(|svid| (svid.spiffe_id.clone(), svid.hint.clone()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let svids = tokens(&place, "").await.expect("all of them").svids;
    let found = svids.iter().map(|svid| (svid.spiffe_id.clone(), svid.hint.clone()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let one = tokens(&place, &place.id("/a")).await.expect("one of them").svids;
    assert_eq!((one.len(), one[0].hint.as_str()), (1, "external"));
    // An independent client finds the default, and one by its hint.
    let client = place.client().await;
    let default = client.fetch_x509_svid().await.expect("an SVID");
    assert_eq!(default.spiffe_id().to_string(), place.id("/b"));
    let external = client.fetch_jwt_svid_by_hint(["a"], None, "external").await;
    assert_eq!(external.expect("a token").spiffe_id().to_string(), place.id("/a"));
}

#[tokio::test]
async fn a_hint_is_unique_within_an_answer_and_no_longer_than_the_standard_says() {
    let place = Place::empty(|_| {}).await;
    for path in ["/a", "/b"] {
        place.authority.add_entry(mine(path, "same")).expect("a good entry");
    }
    let svids = next(&mut place.x509_svids().await).await.svids;
    let hints: Vec<&str> = svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["same", ""]);
    let refused = place.authority.add_entry(mine("/c", &"h".repeat(1_025)));
    assert!(refused.is_err_and(|error| error.to_string().contains("1025")));
}

#[tokio::test]
async fn changed_terms_reach_an_open_stream_at_once() {
    let place = Place::empty(|_| {}).await;
    let entry = place.authority.add_entry(mine("/a", "before")).expect("a good entry");
    let mut stream = place.x509_svids().await;
    let first = next(&mut stream).await.svids.remove(0);
    let ttl = Duration::from_secs(90);
    let hint = "after".to_owned();
    let terms = Terms { hint, x509_ttl: Some(ttl), jwt_ttl: Some(ttl), ..Terms::default() };
    assert!(place.authority.change_entry(entry, terms).expect("good terms"));
    let second = next(&mut stream).await.svids.remove(0);
    assert_eq!((first.hint.as_str(), second.hint.as_str()), ("before", "after"));
    assert!(lives(&first.x509_svid) > 3_000 && lives(&second.x509_svid) <= 100);
    let token = place.client().await.fetch_jwt_svid(["a"], None).await.expect("a token");
    assert_eq!(token.hint(), Some("after"));
    let left = token.expiry().unix_timestamp() - time_now();
    assert!((80..=90).contains(&left), "{left}");
}

#[tokio::test]
async fn terms_that_no_document_could_keep_are_refused() {
    let place = Place::empty(|_| {}).await;
    let entry = place.authority.add_entry(mine("/a", "")).expect("a good entry");
    for seconds in [1, 10_000_000] {
        let ttl = Some(Duration::from_secs(seconds));
        for terms in [
            Terms { x509_ttl: ttl, ..Terms::default() },
            Terms { jwt_ttl: ttl, ..Terms::default() },
        ] {
            let refused = place.authority.change_entry(entry, terms);
            assert!(refused.is_err_and(|error| error.to_string().contains("lifetimes")));
        }
    }
}

#[tokio::test]
async fn a_stream_lives_on_while_one_identity_is_left_and_ends_with_the_last() {
    let place = Place::empty(|_| {}).await;
    let [first, second] =
        ["/a", "/b"].map(|path| place.authority.add_entry(mine(path, "")).expect("a good entry"));
    let mut stream = place.x509_svids().await;
    assert_eq!(next(&mut stream).await.svids.len(), 2);
    assert!(place.authority.remove_entry(first));
    let left = next(&mut stream).await.svids;
    assert_eq!((left.len(), &left[0].spiffe_id), (1, &place.id("/b")));
    assert_eq!(tokens(&place, &place.id("/a")).await, Err(Code::PermissionDenied));
    assert!(place.authority.remove_entry(second));
    assert_eq!(end(&mut stream).await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_process_is_known_by_its_group_and_its_binary_together() {
    let place = Place::empty(|_| {}).await;
    let group = rustix::process::getegid().as_raw();
    let binary = sha256(&std::env::current_exe().expect("this binary"));
    let other = "0".repeat(64);
    let table = [
        (vec![Selector::Gid(group)], true),
        (vec![Selector::Gid(group + 1)], false),
        (vec![Selector::Sha256(binary.clone())], true),
        (vec![Selector::Sha256(binary.to_uppercase()), Selector::Gid(group)], true),
        (vec![Selector::Sha256(other), Selector::Gid(group)], false),
        (vec![Selector::Sha256(binary), Selector::Gid(group + 1)], false),
    ];
    for (selectors, known) in table {
        let entry = Entry::new("/a", selectors.clone());
        let entry = place.authority.add_entry(entry).expect("a good entry");
        let found = tokens(&place, "").await;
        assert_eq!(found.is_ok(), known, "{selectors:?}");
        assert!(place.authority.remove_entry(entry));
    }
}

pub(crate) fn sha256(path: &std::path::Path) -> String {
    let bytes = std::fs::read(path).expect("it can be read");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lives(certificate: &[u8]) -> i64 {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("DER");
    parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp()
}

fn time_now() -> i64 {
    i64::try_from(crate::issuer::unix_now()).expect("it fits")
}
