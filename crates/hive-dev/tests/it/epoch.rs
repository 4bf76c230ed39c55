//! An epoch from login to last revocation: a workload of the development authority, the vault, a real database.

use std::path::Path;
use std::time::Duration;

use hive_security::epoch::{Epoch, Error, Request};
use secrecy::ExposeSecret;

use crate::fixture::{client, database, postgres, until};
use crate::stack::{DEADLINE, Stack};

const ROLE: &str = "ticket-deploy";

fn wanted(name: &str, path: &str, optional: bool) -> Request {
    Request { name: name.to_owned(), path: path.to_owned(), optional }
}

/// Where each of these calls stands in the audit log: the order in which they were made.
fn order(audit: &str, needles: &[&str]) -> Vec<usize> {
    let at = |needle: &&str| {
        audit.find(needle).unwrap_or_else(|| panic!("{needle} is missing in {audit}"))
    };
    needles.iter().map(at).collect()
}

#[tokio::test]
async fn an_epoch_brings_credentials_and_leaves_neither_lease_nor_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let test = "an_epoch_brings_credentials_and_leaves_neither_lease_nor_token";
    let Some(cluster) = postgres(test, &directory.path().join("pg")).await else { return };
    let stack = Stack::start(|setup| setup.database = Some(database(&cluster, 600, 3600))).await;
    let requests = [
        wanted("seal", "secret/data/release", false),
        wanted("ledger", "database/creds/ledger", false),
    ];
    let epoch = stack.open(ROLE, &requests).await.expect("it opens");
    let [seal, ledger] = epoch.credentials() else { panic!("{:?}", epoch.credentials()) };
    assert_eq!(
        (seal.name.as_str(), seal.data.field_names()),
        ("seal", vec!["signing_key".to_owned()])
    );
    assert_eq!(
        seal.data.text("signing_key").expect("a field").expose_secret(),
        "s3cr3t-of-the-release"
    );
    assert_eq!(ledger.data.field_names(), ["password", "username"]);
    epoch.close(DEADLINE).await.expect("all is given back");
    let audit = stack.audited();
    let places = order(&audit, &["v1/sys/leases/revoke", "v1/auth/token/revoke-self"]);
    assert!(places.is_sorted(), "the token was not revoked last: {audit}");
    stack.stop().await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_optional_may_be_absent_but_not_forbidden() {
    let stack = Stack::start(|_| {}).await;
    let absent = wanted("ledger", "database/creds/ledger", true);
    let epoch = stack.open(ROLE, std::slice::from_ref(&absent)).await.expect("it opens");
    assert_eq!((epoch.skipped(), epoch.credentials().len()), (["ledger".to_owned()].as_slice(), 0));
    epoch.close(DEADLINE).await.expect("all is given back");

    let required = Request { optional: false, ..absent };
    let missing = stack.open(ROLE, &[required]).await.expect_err("it is not there");
    assert!(matches!(&missing, Error::Missing { what, .. } if what == "ledger"), "{missing}");
    let forbidden = stack
        .open(ROLE, &[wanted("other", "secret/data/other", true)])
        .await
        .expect_err("a refusal");
    assert!(
        matches!(&forbidden, Error::Refused { .. }) && !forbidden.is_transient(),
        "{forbidden}"
    );
    let stranger = stack.open("ticket-launch", &[]).await.expect_err("no such role");
    assert!(matches!(&stranger, Error::Refused { what, .. } if what == "the login"), "{stranger}");
    assert_eq!(stack.audited().matches("\"token_revoked\"").count(), 3, "a token was left behind");
    stack.stop().await;
}

#[tokio::test]
async fn an_epoch_lives_on_by_renewal_until_its_longest_life_is_over() {
    let stack = Stack::start(|setup| {
        let role = setup.jwt_roles.get_mut("brief").expect("the role");
        (role.token_ttl_s, role.token_max_ttl_s) = (4, 7);
    })
    .await;
    let epoch = stack
        .open("brief", &[wanted("seal", "secret/data/release", false)])
        .await
        .expect("it opens");
    let begun = tokio::time::Instant::now();
    let failure = tokio::time::timeout(DEADLINE, epoch.failed()).await.expect("it ends");
    let lived = begun.elapsed();
    assert!(matches!(failure, Error::Expired { .. }), "{failure}");
    // Without renewal it would have been over after two seconds: four, less the margin of two.
    assert!((Duration::from_secs(3)..Duration::from_secs(7)).contains(&lived), "{lived:?}");
    assert!(stack.audited().contains("v1/auth/token/renew-self"));
    epoch.close(DEADLINE).await.expect("all is given back");
    stack.stop().await;
}

#[tokio::test]
async fn an_epoch_that_is_dropped_is_given_back_in_the_background() {
    let stack = Stack::start(|_| {}).await;
    drop(stack.open(ROLE, &[]).await.expect("it opens"));
    until("the token is revoked", || async { stack.audited().contains("\"token_revoked\"") }).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_vault_that_is_away_at_the_end_is_reported_with_what_is_left() {
    let stack = Stack::start(|_| {}).await;
    let epoch = stack.open(ROLE, &[]).await.expect("it opens");
    let Stack { vault, .. } = stack;
    vault.stop().await.expect("nothing is left");
    let left = epoch.close(Duration::from_secs(1)).await.expect_err("nobody answers");
    assert!(matches!(&left, Error::Left { names, .. } if names == &["the login"]), "{left}");
}

#[tokio::test]
async fn a_vault_that_is_not_there_yet_is_waited_for_until_the_deadline() {
    let stack = Stack::start(|_| {}).await;
    let nobody = client("http://127.0.0.1:1");
    let deadline = Duration::from_millis(700);
    let opened =
        Epoch::open(nobody, stack.workload.clone(), ROLE.to_owned(), Vec::new(), deadline).await;
    let late = opened.expect_err("nobody answers");
    assert!(matches!(late, Error::Unavailable { .. }) && late.is_transient(), "{late}");
    assert!(Path::new(&stack.audit).exists());
    stack.stop().await;
}
