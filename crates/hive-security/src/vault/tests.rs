//! Servers that answer badly, and clusters of several nodes: each is a script on a socket of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::SecretJson;

const TOKEN: &str = "s.token-of-a-test";
const SECRET: &str = "s3cr3t-of-a-test";

/// A server that answers each request as a function says.
struct Script {
    address: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Script {
    async fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (heard, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(answer));
        let hearing = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, Arc::clone(&answer), Arc::clone(&hearing)));
            }
        });
        Self { address, heard }
    }

    async fn saying(answer: Vec<u8>) -> Self {
        Self::serve(move |_| answer.clone()).await
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// The requests whose first line holds this.
    fn count(&self, part: &str) -> usize {
        let first = |text: &String| text.lines().next().is_some_and(|line| line.contains(part));
        self.heard().iter().filter(|text| first(text)).count()
    }

    fn client(&self) -> VaultClient {
        VaultClient::new(VaultConfig::at(&self.address)).unwrap()
    }
}

async fn talk(
    mut stream: TcpStream,
    answer: Arc<impl Fn(&str) -> Vec<u8>>,
    heard: Arc<Mutex<Vec<String>>>,
) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
    heard.lock().unwrap().push(text.clone());
    let _ = stream.write_all(&answer(&text)).await;
    let _ = stream.shutdown().await;
}

fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

fn json_answer(status: u16, body: &str) -> Vec<u8> {
    answer(status, "content-type: application/json\r\n", body)
}

fn token() -> SecretString {
    SecretString::from(TOKEN)
}

/// What an error shows, which must be no secret.
fn shown(error: &VaultError) -> String {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(SECRET) && !shown.contains(TOKEN), "{shown}");
    shown
}

#[tokio::test]
async fn an_answer_that_is_not_understood_is_an_error_without_any_of_it() {
    let deep = "[".repeat(100_000);
    let huge = format!(r#"{{"data":{{"x":"{}"}}}}"#, SECRET.repeat((1 << 20) / SECRET.len() + 1));
    let good = format!(r#"{{"data":{{"password":"{SECRET}"}}}}"#);
    let table = [
        ("no JSON", json_answer(200, SECRET)),
        ("half of it", json_answer(200, &format!(r#"{{"data":{{"password":"{SECRET}"#))),
        ("a list", json_answer(200, &format!(r#"["{SECRET}"]"#))),
        ("a text for a number", json_answer(200, &format!(r#"{{"lease_duration":"{SECRET}"}}"#))),
        ("a negative duration", json_answer(200, r#"{"lease_duration":-1}"#)),
        ("too deep", json_answer(200, &deep)),
        ("too large", json_answer(200, &huge)),
        ("another type", answer(200, "content-type: text/html\r\n", &good)),
        ("no type", answer(200, "", &good)),
        ("an odd status", json_answer(199, &good)),
    ];
    for (fault, answer) in table {
        let script = Script::saying(answer).await;
        let error = script.client().read(&token(), "secret/data/a").await.unwrap_err();
        let is_odd = matches!(error, VaultError::Protocol { .. } | VaultError::Unreachable { .. });
        assert!(is_odd, "{fault}: {}", shown(&error));
        assert!(error.is_transient() && !error.had_no_effect(), "{fault}");
        assert_eq!(script.heard().len(), 1, "{fault}: it was asked again");
    }
}

#[tokio::test]
async fn the_texts_of_an_error_are_read_and_never_shown() {
    let said = format!(r#"{{"errors":["failed: {SECRET}"]}}"#);
    for status in [400, 403, 404, 405, 412, 429, 472, 500, 502, 503] {
        let script = Script::saying(json_answer(status, &said)).await;
        let error = script.client().read(&token(), "secret/data/a").await.unwrap_err();
        assert!(shown(&error).contains("secret/data/a"));
    }
}

#[tokio::test]
async fn every_engine_refuses_an_answer_of_another_shape() {
    let script = Script::saying(json_answer(200, r#"{"data":{"keys":3}}"#)).await;
    let (vault, t) = (script.client(), token());
    let request = CertificateRequest::named("a.test");
    let plaintext = secrecy::SecretSlice::from(vec![1]);
    let errors = [
        vault.login("r", &t).await.err(),
        vault.lookup_lease(&t, "x").await.err(),
        vault.renew_self(&t, Duration::from_secs(1)).await.err(),
        vault.list(&t, "a").await.err(),
        vault.kv("kv").read(&t, "a", None).await.err(),
        vault.kv("kv").metadata(&t, "a").await.err(),
        vault.database("db").credentials(&t, "a").await.err(),
        vault.database("db").static_credentials(&t, "a").await.err(),
        vault.pki("pki").issue(&t, "a", &request).await.err(),
        vault.pki("pki").crl().await.err(),
        vault.transit("t").encrypt(&t, "a", &plaintext).await.err(),
        vault.transit("t").verify(&t, "a", b"", "").await.err(),
        vault.lookup_wrapped(&t).await.err(),
        vault.rewrap(&t, &t).await.err(),
        vault.capabilities_self(&t, &["a"]).await.err(),
        vault.health().await.err(),
        vault.create_token(&t, &ChildToken::default()).await.err(),
    ];
    for (place, error) in errors.into_iter().enumerate() {
        assert!(matches!(error, Some(VaultError::Protocol { .. })), "{place}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_drips_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let drip = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 64]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let vault = VaultClient::new(VaultConfig::at(&address)).unwrap();
    let (token, begun) = (token(), Instant::now());
    let error = tokio::select! {
        read = vault.read(&token, "secret/data/a") => read.unwrap_err(),
        () = drip => panic!("the client hung up by itself"),
    };
    assert!(matches!(error, VaultError::Unreachable { never_sent: false, .. }), "{error:?}");
    let took = begun.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(12)).contains(&took), "{took:?}");
}

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
    for said in [Vec::new(), json_answer(500, "{}"), json_answer(200, "half")] {
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
    vault.write(&token(), "a", &SecretJson::new(json!({}))).await.unwrap();
    assert!(!sent(), "writes do not wait");
    vault.read(&token(), "a").await.unwrap();
    assert!(sent());
    vault.health().await.unwrap();
    vault.read(&token(), "a").await.unwrap();
    assert!(sent(), "it is the same cluster");
    *id.lock().unwrap() = "two";
    vault.health().await.unwrap();
    vault.read(&token(), "a").await.unwrap();
    assert!(!sent(), "it means nothing to another cluster");
}

#[test]
fn nothing_that_holds_a_secret_shows_it() {
    let secret = || SecretString::from(SECRET);
    let ttl = Duration::from_secs(1);
    let lease = || Lease { id: "database/creds/a/x".to_owned(), ttl, renewable: true };
    let certificate = Certificate {
        certificate_pem: String::new(),
        chain_pem: Vec::new(),
        serial_number: String::new(),
        expires_at_s: 0,
        lease: None,
    };
    let version: KvVersion = serde_json::from_str("{}").unwrap();
    let data = || SecretJson::new(json!({ "password": SECRET }));
    let login = Login { token: secret(), accessor: String::new(), ttl, renewable: true };
    let app_role = LoginMethod::AppRole {
        mount: "approle".to_owned(),
        role_id: "id".to_owned(),
        secret_id: SecretId::wrapped("job", secret()),
    };
    let wrapped =
        Wrapped { token: secret(), accessor: String::new(), ttl, creation_path: String::new() };
    let shown = [
        format!("{login:?}"),
        format!("{app_role:?}"),
        format!("{wrapped:?}"),
        format!("{:?}", Answer { data: data(), lease: Some(lease()), warnings: Vec::new() }),
        format!(
            "{:?}",
            DatabaseLogin { username: "u".to_owned(), password: secret(), lease: lease() }
        ),
        format!("{:?}", StaticLogin { username: "u".to_owned(), password: secret(), ttl }),
        format!("{:?}", IssuedCertificate { certificate, private_key_pem: secret() }),
        format!("{:?}", KvRead::Found(KvSecret { data: data(), version })),
    ];
    for shown in shown {
        assert!(!shown.contains(SECRET) && shown.len() > 10, "{shown}");
    }
}
