//! Several nodes, redirects, and what a cluster does not know yet.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;

use super::script::{Script, TOKEN, answer, json_answer, talk, token};
use crate::SecretJson;
use crate::vault::{VaultClient, VaultConfig, VaultError};

fn redirect(status: u16, to: &str) -> Vec<u8> {
    answer(status, &format!("location: {to}\r\n"), "")
}

#[tokio::test]
async fn a_redirect_to_somebody_else_is_not_followed() {
    let thief = Script::saying(json_answer(200, r#"{"data":{}}"#)).await;
    let port = thief.address.rsplit(':').next().unwrap().to_owned();
    for status in [301, 302, 303, 307, 308] {
        for to in [
            format!("{}/v1/secret/data/a", thief.address),
            format!("//127.0.0.1:{port}/v1/secret/data/a"),
            format!("https://127.0.0.1:{port}/v1/secret/data/a"),
        ] {
            let script = Script::saying(redirect(status, &to)).await;
            let error = script.client().read(&token(), "secret/data/a").await.unwrap_err();
            assert!(matches!(error, VaultError::NotServing { .. }), "{to}: {error:?}");
        }
    }
    assert!(thief.heard().is_empty(), "the token was sent on: {:?}", thief.heard());
}

fn cluster(nodes: &[&Script]) -> VaultClient {
    let mut config = VaultConfig::at(&nodes[0].address);
    config.other_addresses = nodes[1..].iter().map(|node| node.address.clone()).collect();
    VaultClient::new(config).unwrap()
}

const FOUND: &str = r#"{"data":{"k":"v"}}"#;

fn health(sealed: bool, standby: bool, cluster_id: &str) -> Vec<u8> {
    let health = json!({
        "initialized": true, "sealed": sealed, "standby": standby, "cluster_id": cluster_id,
    });
    json_answer(200, &health.to_string())
}

/// A node in this state, which answers everything else with this.
async fn node(sealed: bool, standby: bool, said: Vec<u8>) -> Script {
    let health = health(sealed, standby, "one");
    let said = move |asked: &str| {
        if asked.contains("sys/health") { health.clone() } else { said.clone() }
    };
    Script::serve(said).await
}

#[tokio::test]
async fn of_several_nodes_the_active_one_is_asked_and_the_next_one_when_it_dies() {
    let sealed = node(true, false, json_answer(503, r#"{"errors":["Vault is sealed"]}"#)).await;
    let standby = node(false, true, json_answer(200, FOUND)).await;
    let active = node(false, false, json_answer(503, r#"{"errors":["Vault is sealed"]}"#)).await;
    let vault = cluster(&[&sealed, &standby, &active]);
    // The active one was sealed meanwhile: that had no effect, so the standby is asked, and the sealed one is not.
    vault.read(&token(), "database/creds/a").await.unwrap();
    let asked = [&sealed, &standby, &active].map(|node| node.count("database/creds"));
    assert_eq!(asked, [0, 1, 1]);
    assert!([&sealed, &standby, &active].iter().all(|node| node.count("sys/health") == 1));
}

#[tokio::test]
async fn what_may_have_made_something_is_not_asked_of_another_node() {
    let page = answer(200, "content-type: text/html\r\n", FOUND);
    for said in [Vec::new(), json_answer(500, "{}"), json_answer(200, "half"), page] {
        let (first, second) =
            (node(false, false, said).await, node(false, false, json_answer(200, FOUND)).await);
        let vault = cluster(&[&first, &second]);
        let error = vault.read(&token(), "database/creds/a").await.unwrap_err();
        assert!(!error.had_no_effect(), "{error:?}");
        assert_eq!([&first, &second].map(|node| node.count("database/creds")), [1, 0]);
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_passed_over() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let second = node(false, false, json_answer(200, FOUND)).await;
    let mut config = VaultConfig::at(format!("http://{gone}"));
    config.other_addresses = vec![second.address.clone()];
    let vault = VaultClient::new(config).unwrap();
    for _ in 0..3 {
        vault.read(&token(), "secret/data/a").await.unwrap();
    }
    assert_eq!((second.count("secret/data"), second.count("sys/health")), (3, 1));
}

#[tokio::test]
async fn a_redirect_to_a_node_of_ours_is_followed_once() {
    let active = node(false, true, json_answer(200, FOUND)).await;
    let to = format!("{}/v1/secret/data/a", active.address);
    let first = node(false, false, redirect(307, &to)).await;
    cluster(&[&first, &active]).read(&token(), "secret/data/a").await.unwrap();
    assert!(active.heard().iter().any(|text| text.contains(TOKEN)));

    // Two that send us to each other: each was asked at most twice, once by a redirect and once by itself.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}/v1/secret/data/a", listener.local_addr().unwrap());
    let one = node(false, false, redirect(307, &here)).await;
    let there = format!("{}/v1/secret/data/a", one.address);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let to = redirect(307, &there);
            let said = move |asked: &str| {
                if asked.contains("sys/health") { health(false, true, "one") } else { to.clone() }
            };
            tokio::spawn(talk(stream, Arc::new(said), Arc::default()));
        }
    });
    let mut config = VaultConfig::at(&one.address);
    config.other_addresses = vec![here.trim_end_matches("/v1/secret/data/a").to_owned()];
    let error =
        VaultClient::new(config).unwrap().read(&token(), "secret/data/a").await.unwrap_err();
    assert!(matches!(error, VaultError::NotServing { status: 307, .. }), "{error:?}");
    assert!(one.count("secret/data") <= 2);
}

const UNKNOWN_TOKEN: &str = r#"{"errors":["permission denied"]}"#;

/// A node that knows no token until it was asked so often.
async fn lagging_node(until: usize, refusal: &'static str) -> Script {
    node_that_refuses(0..until, refusal).await
}

/// A node that refuses some of the calls, by their number.
async fn node_that_refuses(calls: std::ops::Range<usize>, refusal: &'static str) -> Script {
    let login = r#"{"auth":{"client_token":"s.x","lease_duration":60}}"#;
    let asked_so_far = AtomicUsize::new(0);
    let said = move |asked: &str| match () {
        () if asked.contains("sys/health") => health(false, false, "one"),
        () if asked.contains("login") => json_answer(200, login),
        () if calls.contains(&asked_so_far.fetch_add(1, Ordering::Relaxed)) => {
            json_answer(403, refusal)
        }
        () => json_answer(200, FOUND),
    };
    Script::serve(said).await
}

#[tokio::test]
async fn a_node_that_does_not_know_a_new_token_yet_is_given_two_seconds() {
    for several in [false, true] {
        let one = lagging_node(3, UNKNOWN_TOKEN).await;
        let two = lagging_node(9, UNKNOWN_TOKEN).await;
        let vault = if several { cluster(&[&one, &two]) } else { one.client() };
        vault.login("r", &token()).await.unwrap();
        vault.read(&token(), "a").await.unwrap();
        assert_eq!(one.count("/v1/a "), 4, "{several}");
        assert_eq!(one.count("sys/health"), usize::from(several), "they are all well");
    }
    let never = lagging_node(usize::MAX, UNKNOWN_TOKEN).await.client();
    never.login("r", &token()).await.unwrap();
    let begun = Instant::now();
    let early = never.read(&token(), "a").await.unwrap_err();
    assert!(matches!(early, VaultError::NotServing { status: 403, .. }), "{early:?}");
    assert!(early.is_transient() && early.had_no_effect());
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_denial_that_cannot_be_a_lag_is_one_at_once() {
    let denied = async |vault: &VaultClient, why: &str| {
        let denied = vault.read(&token(), "a").await.unwrap_err();
        assert!(matches!(denied, VaultError::Denied { .. }), "{why}: {denied:?}");
    };
    let script = lagging_node(1, UNKNOWN_TOKEN).await;
    denied(&script.client(), "there was no login").await;
    let policy = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
    let script = lagging_node(1, policy).await;
    let vault = script.client();
    vault.login("r", &token()).await.unwrap();
    denied(&vault, "the token is known").await;

    let script = node_that_refuses(1..usize::MAX, UNKNOWN_TOKEN).await;
    let vault = script.client();
    vault.login("r", &token()).await.unwrap();
    vault.read(&token(), "a").await.unwrap();
    denied(&vault, "the token was of use before").await;

    let script = lagging_node(usize::MAX, UNKNOWN_TOKEN).await;
    let vault = script.client();
    vault.login("r", &token()).await.unwrap();
    time_passes().await;
    denied(&vault, "every node has heard of the token by now").await;
}

/// Longer than a cluster needs to tell all its nodes.
async fn time_passes() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_wrapping_token_that_is_refused_is_refused_at_once_so_that_the_alarm_is() {
    let script = lagging_node(usize::MAX, UNKNOWN_TOKEN).await;
    let vault = script.client();
    vault.login("r", &token()).await.unwrap();
    let denied = vault.unwrap(&token()).await.unwrap_err();
    assert!(matches!(denied, VaultError::Denied { .. }), "{denied:?}");
    assert_eq!(script.count("wrapping/unwrap"), 1);
}

#[tokio::test]
async fn the_index_of_a_write_goes_with_reads_until_the_cluster_is_another_one() {
    let id = Arc::new(Mutex::new("one"));
    let told = Arc::clone(&id);
    let script = Script::serve(move |asked: &str| match () {
        () if asked.contains("sys/health") => health(false, false, *told.lock().unwrap()),
        () => answer(200, "content-type: application/json\r\nx-vault-index: opaque==\r\n", FOUND),
    });
    let script = script.await;
    let vault = script.client();
    let sent = || script.heard().last().unwrap().contains("x-vault-index: opaque==");
    vault.health().await.unwrap();
    vault.read(&token(), "a").await.unwrap();
    assert!(!sent(), "nothing was written");
    vault.read(&token(), "a").await.unwrap();
    assert!(!sent(), "what comes with the answer to a read is not waited for");
    for _ in 0..2 {
        vault.write(&token(), "a", &SecretJson::new(json!({}))).await.unwrap();
        assert!(!sent(), "writes do not wait");
    }
    vault.read(&token(), "a").await.unwrap();
    assert!(sent());
    vault.health().await.unwrap();
    vault.read(&token(), "a").await.unwrap();
    assert!(sent(), "it is the same cluster");
    *id.lock().unwrap() = "two";
    vault.health().await.unwrap();
    vault.read(&token(), "a").await.unwrap();
    assert!(!sent(), "it means nothing to another cluster");
    vault.write(&token(), "a", &SecretJson::new(json!({}))).await.unwrap();
    time_passes().await;
    vault.read(&token(), "a").await.unwrap();
    assert!(!sent(), "by now every node has what was written");
}
