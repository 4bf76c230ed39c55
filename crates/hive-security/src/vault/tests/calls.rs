//! What calls send, and what their answers mean.

use std::process::Stdio;
use std::time::Duration;

use super::script::{SECRET, Script, answer, json_answer, token};
use crate::vault::{KvRead, VaultClient, VaultConfig, VaultError};

const FOUND: &str = r#"{"data":{"k":"v"}}"#;

#[tokio::test]
async fn what_was_not_given_back_is_not_taken_for_gone() {
    let said = |status, text: &str| json_answer(status, &format!(r#"{{"errors":["{text}"]}}"#));
    for (status, text) in [
        (400, "failed to revoke entry: the database is away"),
        (403, "permission denied"),
        (404, ""),
        (500, ""),
        (503, "Vault is sealed"),
    ] {
        let vault = Script::saying(said(status, text)).await.client();
        let token = token();
        vault.revoke_lease(&token, "database/creds/a/x").await.expect_err(text);
        vault.revoke_leases(&token, "database/creds/a").await.expect_err(text);
        vault.revoke_self(&token).await.expect_err(text);
    }
    let gone = Script::saying(said(400, "lease not found")).await.client();
    gone.revoke_lease(&token(), "database/creds/a/x").await.expect("there is nothing to give back");
}

#[tokio::test]
async fn a_revocation_is_waited_for_and_a_renewal_asks_for_no_less_than_was_wanted() {
    let script = Script::saying(json_answer(200, r#"{"lease_duration":60,"auth":null}"#)).await;
    let (vault, token) = (script.client(), token());
    vault.revoke_lease(&token, "database/creds/a/x").await.unwrap();
    vault.revoke_leases(&token, "database/creds/a").await.unwrap();
    for body in script.bodies("sys/leases/revoke") {
        assert!(body.contains(r#""sync":true"#), "{body}");
    }
    vault.renew_lease(&token, "database/creds/a/x", Duration::from_millis(1001)).await.unwrap();
    let asked = r#"{"lease_id":"database/creds/a/x","increment":2}"#;
    assert_eq!(script.bodies("sys/leases/renew"), [asked]);
}

#[tokio::test]
async fn a_token_that_is_silently_not_renewed_needs_another_login() {
    let vault = Script::saying(answer(204, "", "")).await.client();
    let error = vault.renew_self(&token(), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(error, VaultError::NotRenewed { .. }), "{error:?}");
    assert!(error.to_string().contains("log in again"), "{error}");
    assert!(error.had_no_effect() && !error.is_transient());
}

#[tokio::test]
async fn what_is_to_be_wrapped_says_so_and_a_bare_answer_is_no_wrapped_one() {
    let script = Script::saying(json_answer(200, FOUND)).await;
    let minute = Duration::from_secs(60);
    let bare = script.client().read_wrapped(&token(), "secret/data/a", minute).await.unwrap_err();
    assert!(matches!(bare, VaultError::Protocol { .. }), "{bare:?}");
    assert!(script.heard()[0].contains("x-vault-wrap-ttl: 60\r\n"));
}

#[tokio::test]
async fn a_namespace_goes_with_every_call_but_the_one_for_the_health_of_a_node() {
    let health = r#"{"initialized":true,"sealed":false,"standby":false,"data":{"k":"v"}}"#;
    let script = Script::saying(json_answer(200, health)).await;
    let mut config = VaultConfig::at(&script.address);
    config.namespace = Some("shop".to_owned());
    let vault = VaultClient::new(config).unwrap();
    vault.read(&token(), "secret/data/a").await.unwrap();
    vault.in_namespace("team").unwrap().read(&token(), "secret/data/a").await.unwrap();
    vault.health().await.unwrap();
    let said = |name: &str| format!("x-vault-namespace: {name}\r\n");
    let heard = script.heard();
    assert!(heard[0].contains(&said("shop")) && heard[1].contains(&said("team")));
    assert!(!heard[2].contains("x-vault-namespace"));
}

#[tokio::test]
async fn a_deleted_secret_is_gone_whatever_comes_with_it_and_a_failure_is_no_secret() {
    let read = async |status, body: &str| {
        let vault = Script::saying(json_answer(status, body)).await.client();
        vault.kv("secret").read(&token(), "a", None).await
    };
    let with_data =
        format!(r#"{{"data":{{"data":{{"k":"{SECRET}"}},"metadata":{{"version":3}}}}}}"#);
    assert!(matches!(read(200, &with_data).await, Ok(KvRead::Found(_))));
    let gone = read(404, &with_data).await.unwrap();
    assert!(matches!(&gone, KvRead::Gone(version) if version.version == 3), "{gone:?}");
    let absent = read(404, r#"{"errors":[]}"#).await.unwrap_err();
    assert!(matches!(absent, VaultError::NotFound { .. }), "{absent:?}");
    for status in [400, 403, 500, 503] {
        read(status, &with_data).await.expect_err("it is a failure");
    }
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_ask_again() {
    let headers = "content-type: application/json\r\nretry-after: 7\r\n";
    let vault = Script::saying(answer(429, headers, "{}")).await.client();
    let limited = vault.read(&token(), "secret/data/a").await.unwrap_err();
    let seven = Some(Duration::from_secs(7));
    assert!(matches!(limited, VaultError::Limited { retry_after, .. } if retry_after == seven));
    assert!(limited.is_transient() && limited.had_no_effect());
}

const ADDRESS: &str = "HIVE_TEST_VAULT";

/// Not a test: reads with proxies in its environment.
#[tokio::test]
#[ignore = "another test runs it as a process of its own"]
async fn child() {
    if let Ok(address) = std::env::var(ADDRESS) {
        let vault = VaultClient::new(VaultConfig::at(address)).unwrap();
        vault.read(&token(), "secret/data/a").await.unwrap();
    }
}

#[tokio::test]
async fn no_token_is_sent_to_a_proxy_that_the_environment_names() {
    let (vault, proxy) = (
        Script::saying(json_answer(200, FOUND)).await,
        Script::saying(json_answer(200, FOUND)).await,
    );
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "vault::tests::calls::child", "--ignored"]).env(ADDRESS, &vault.address);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, &proxy.address);
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
    let ended = child.stdout(Stdio::null()).kill_on_drop(true).status().await.unwrap();
    assert!(ended.success());
    assert_eq!((vault.count("secret/data/a"), proxy.heard().len()), (1, 0));
}
