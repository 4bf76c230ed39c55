//! The development vault without a database, by way of our own client.

use std::process::Stdio;
use std::time::{Duration, Instant};

use hive_dev::vault::{Error, Vault};
use hive_dev::witness::{Listener, Witness};
use hive_runtime::ready::{self, Ready};
use hive_security::vault::{VaultClient, VaultConfig, VaultError};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::fixture::{AUDIENCE, WORKER, World, client, setup, until};
use crate::issuer::{Key, claims, unix_now};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_worker_logs_in_reads_its_secret_and_gives_its_token_back() {
    let world = World::start(|_| {}).await;
    let jwt = world.key.sign(&claims(WORKER, AUDIENCE));
    let login = world.client.login("ticket-deploy", &jwt).await.expect("it may");
    assert_eq!((login.ttl, login.renewable), (LONG, true));
    let answer = world.client.read(&login.token, "secret/data/release").await.expect("it may");
    let data: Value = answer.data.expose().expect("JSON");
    assert_eq!(data["data"]["signing_key"], "s3cr3t-of-the-release");
    assert_eq!((data["metadata"]["version"].as_u64(), answer.lease), (Some(1), None));
    world.client.revoke_self(&login.token).await.expect("it may");
    let after = world.client.read(&login.token, "secret/data/release").await;
    assert!(matches!(after, Err(VaultError::Denied { .. })), "{after:?}");
    world.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn a_login_is_refused_for_each_fault_of_its_token() {
    let world = World::start(|_| {}).await;
    let good = claims(WORKER, AUDIENCE);
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims[member] = value;
        world.key.sign(&claims)
    };
    let stranger = Key::new("one").sign(&good);
    let table = [
        ("another audience", with("aud", json!("orchestrator-dynamic.hive.test"))),
        ("another subject", with("sub", json!("spiffe://hive.test/ns/neural-hive/sa/operator"))),
        ("another trust domain", with("sub", json!(WORKER.replace("hive.test", "evil.test")))),
        ("expired", with("exp", json!(unix_now() - 120))),
        ("from the future", with("nbf", json!(unix_now() + 120))),
        ("signed by a stranger", stranger),
        ("not a token", SecretString::from("a.b.c")),
    ];
    for (fault, jwt) in table {
        let refused = world.client.login("ticket-deploy", &jwt).await;
        assert!(
            matches!(
                refused,
                Err(VaultError::Login { .. } | VaultError::Rejected { status: 400, .. })
            ),
            "{fault}: {refused:?}"
        );
    }
    let jwt = world.key.sign(&good);
    assert!(world.client.login("no-such-role", &jwt).await.is_err());
    assert!(world.client.login("ticket-deploy", &jwt).await.is_ok());
}

#[tokio::test]
async fn a_key_that_is_not_known_is_looked_for_again_and_what_a_key_is_for_is_not_looked_at() {
    let world = World::start(|_| {}).await;
    world.login("ticket-deploy").await;
    world.login("ticket-deploy").await;
    assert_eq!(world.keys.fetched(), 1);
    let (next, certificates) = (Key::new("two"), Key::new("three"));
    world.keys.set(vec![next.jwk("jwt-svid"), certificates.jwk("x509-svid")]);
    let token = next.sign(&claims(WORKER, AUDIENCE));
    until("the new key is known", || async {
        world.client.login("ticket-deploy", &token).await.is_ok()
    })
    .await;
    let token = certificates.sign(&claims(WORKER, AUDIENCE));
    // As in the real server: an authority that publishes the keys of its certificates lets them sign tokens.
    assert!(world.client.login("ticket-deploy", &token).await.is_ok());
    let withdrawn = world.key.sign(&claims(WORKER, AUDIENCE));
    assert!(world.client.login("ticket-deploy", &withdrawn).await.is_err());
}

#[tokio::test]
async fn policies_decide_and_a_missing_mount_is_not_a_refusal() {
    let world = World::start(|_| {}).await;
    let token = world.login("ticket-deploy").await;
    let read = |path| world.client.read(&token, path);
    assert!(matches!(read("secret/data/other").await, Err(VaultError::Denied { .. })));
    assert!(matches!(read("secret/data/work/forbidden").await, Err(VaultError::Denied { .. })));
    assert!(matches!(read("secret/data/work/nothing").await, Err(VaultError::NotFound { .. })));
    assert!(matches!(read("nowhere/at/all").await, Err(VaultError::NotFound { .. })));
    assert!(matches!(read("database/creds/ledger").await, Err(VaultError::NotFound { .. })));
    let (status, body) = world.raw("GET", "nowhere/at/all", Some(&token), Value::Null).await;
    let text = "no handler for route \"nowhere/at/all\". route entry not found.";
    assert_eq!((status, body), (404, json!({ "errors": [text] })));
    let (status, body) = world.raw("GET", "secret/data/other", Some(&token), Value::Null).await;
    assert_eq!(
        (status, body),
        (403, json!({ "errors": ["1 error occurred:\n\t* permission denied\n\n"] }))
    );
    let (status, body) = world.raw("GET", "secret/data/release", None, Value::Null).await;
    assert_eq!((status, body), (403, json!({ "errors": ["permission denied"] })));
    let paths = json!({ "paths": ["secret/data/release", "secret/data/other"] });
    let (_, body) = world.raw("POST", "sys/capabilities-self", Some(&token), paths).await;
    assert_eq!(
        body["data"],
        json!({ "secret/data/other": ["deny"], "secret/data/release": ["read"] })
    );
}

#[tokio::test]
async fn secrets_are_written_versioned_deleted_and_listed() {
    let world = World::start(|_| {}).await;
    let token = world.login("ticket-deploy").await;
    let call = |method, path, body| world.raw(method, path, Some(&token), body);
    let path = "secret/data/work/a";
    for number in 1..=2 {
        let (status, body) =
            call("PUT", path, json!({ "data": { "n": number }, "options": { "cas": number - 1 } }))
                .await;
        assert_eq!((status, &body["data"]["version"]), (200, &json!(number)));
    }
    let (status, body) = call("POST", path, json!({ "data": {}, "options": { "cas": 1 } })).await;
    let text = "check-and-set parameter did not match the current version";
    assert_eq!((status, body), (400, json!({ "errors": [text] })));
    assert_eq!(
        call("GET", "secret/data/work/a?version=1", Value::Null).await.1["data"]["data"]["n"],
        1
    );
    assert_eq!(call("DELETE", path, Value::Null).await.0, 204);
    let (status, body) = call("GET", path, Value::Null).await;
    assert_eq!(
        (status, &body["data"]["data"], &body["data"]["metadata"]["version"]),
        (404, &Value::Null, &json!(2))
    );
    assert_eq!(call("PUT", "secret/delete/work/a", json!({ "versions": [1] })).await.0, 204);
    assert_eq!(call("GET", "secret/data/work/a?version=1", Value::Null).await.0, 404);
    assert_eq!(
        call("LIST", "secret/metadata/work", Value::Null).await.1["data"],
        json!({ "keys": ["a"] })
    );
    assert_eq!(
        call("GET", "secret/metadata/work?list=true", Value::Null).await.1["data"],
        json!({ "keys": ["a"] })
    );
    let (_, body) = call("GET", "sys/internal/ui/mounts/secret/work/a", Value::Null).await;
    assert_eq!(
        (&body["data"]["path"], &body["data"]["options"]),
        (&json!("secret/"), &json!({ "version": "2" }))
    );
}

#[tokio::test]
async fn a_token_is_renewed_up_to_its_longest_life_and_then_ends() {
    let world = World::start(|_| {}).await;
    let begun = Instant::now();
    let token = world.login("brief").await;
    let facts = world.client.lookup_self(&token).await.expect("it lives");
    assert_eq!(facts.policies, ["default", "worker"]);
    assert!(facts.ttl <= Duration::from_secs(2) && facts.renewable);
    let renewal = world.client.renew_self(&token, Duration::from_secs(60)).await.expect("it may");
    assert!(renewal.ttl <= Duration::from_secs(5), "{renewal:?}");
    let warning = renewal.warnings.first().expect("a warning");
    assert!(warning.starts_with("TTL of \"1m\" exceeded the effective max_ttl of"), "{warning}");
    until("the token ends", || async { world.client.lookup_self(&token).await.is_err() }).await;
    let lived = begun.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(7)).contains(&lived), "{lived:?}");
}

#[tokio::test]
async fn the_node_says_that_it_is_healthy_to_anybody() {
    let world = World::start(|_| {}).await;
    let health = world.client.health().await.expect("it answers");
    assert!(health.initialized && !health.sealed && !health.standby);
    let (status, body) = world.raw("GET", "sys/seal-status", None, Value::Null).await;
    assert_eq!((status, &body["sealed"]), (200, &json!(false)));
}

#[tokio::test]
async fn every_issued_secret_is_told_to_the_witness_and_none_to_the_audit_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = Listener::bind(directory.path().join("witness.sock")).expect("it listens");
    let world = World::start(|_| {}).await;
    let mut told = setup(&world.keys.url, directory.path());
    told.audit_path = Some(directory.path().join("told.jsonl"));
    let witness = Witness::connect(&directory.path().join("witness.sock")).expect("it is there");
    let vault = Vault::start(told, witness).await.expect("it starts");
    let client = client(&vault.address);
    let jwt = world.key.sign(&claims(WORKER, AUDIENCE));
    let login = client.login("ticket-deploy", &jwt).await.expect("it may");
    client.read(&login.token, "secret/data/release").await.expect("it may");
    let audit = std::fs::read_to_string(directory.path().join("told.jsonl")).expect("a log");
    let seen = || async { listener.seen().len() >= 2 };
    until("the witness has heard both", seen).await;
    for secret in listener.seen() {
        assert!(
            !audit.contains(secret.value.expose_secret()),
            "a {} is in the audit log",
            secret.kind
        );
    }
    assert!(!audit.contains(jwt.expose_secret()));
    let kinds: Vec<_> = listener.seen().into_iter().map(|seen| seen.kind).collect();
    assert_eq!(kinds, ["vault-token", "kv"]);
    for expected in [&login.accessor, WORKER, "secret/data/release", "\"status\":200"] {
        assert!(audit.contains(expected), "{expected} is missing in {audit}");
    }
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut open = setup("http://127.0.0.1:1/keys", directory.path());
    open.listen = "0.0.0.0:0".parse().expect("an address");
    let refused = Vault::start(open, Witness::none()).await.expect_err("it must not listen");
    assert!(
        matches!(refused, Error::NotLoopback(_)) && refused.to_string().contains("loopback only"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_authority_that_is_away_refuses_every_token_and_says_why() {
    let world =
        World::start(|setup| setup.jwks_url = Some("http://127.0.0.1:1/keys".to_owned())).await;
    let jwt = world.key.sign(&claims(WORKER, AUDIENCE));
    let refused = world.client.login("ticket-deploy", &jwt).await;
    assert!(matches!(refused, Err(VaultError::Rejected { status: 400, .. })), "{refused:?}");
    let body = json!({ "role": "ticket-deploy", "jwt": jwt.expose_secret() });
    let (_, body) = world.raw("POST", "auth/jwt/login", None, body).await;
    let text = body["errors"][0].as_str().expect("a text");
    assert!(text.contains("fetching keys oidc: get keys failed Get"), "{text}");
}

/// Not a test: the vault as a child process, run by the test below.
#[tokio::test]
#[ignore = "another test runs it as a process of its own"]
async fn child() {
    if std::env::var_os("HIVE_TEST_VAULT_CHILD").is_none() {
        return;
    }
    let stop = tokio_util::sync::CancellationToken::new();
    hive_dev::vault::run(Ready::on_standard_output(), stop).await.expect("a good end");
}

#[tokio::test]
async fn a_child_reads_its_setup_from_a_pipe_and_ends_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "vault::child", "--nocapture", "--ignored"])
        .env("HIVE_TEST_VAULT_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    let mut setup = setup("http://127.0.0.1:1/keys", directory.path());
    setup.tls = serde_json::from_value(json!({})).expect("nothing has to be said");
    let line = serde_json::to_string(&setup).expect("JSON");
    input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let facts = loop {
        let line = lines.next_line().await.expect("read").expect("an announcement");
        // The test harness writes to the same standard output.
        let start = line.find('{').unwrap_or(line.len());
        if let Some(facts) = ready::parse(&line[start..]) {
            break facts;
        }
    };
    assert!(client(&facts["address"]).health().await.expect("it serves").initialized);
    let ca_pem = Some(facts["tls_ca"].clone());
    let config = VaultConfig { ca_pem, ..VaultConfig::at(&facts["tls_address"]) };
    let over_tls = VaultClient::new(config).expect("good settings");
    assert!(over_tls.health().await.expect("it serves").initialized);
    drop(input);
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    assert!(ended.expect("it ends in time").expect("it ran").success());
}
