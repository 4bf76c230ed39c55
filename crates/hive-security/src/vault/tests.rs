//! Servers that answer badly: each is a script on a socket of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod calls;
mod cluster;
mod logins;
pub(crate) mod script;

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use self::script::{SECRET, Script, TOKEN, answer, json_answer, token};
use super::*;
use crate::SecretJson;

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
