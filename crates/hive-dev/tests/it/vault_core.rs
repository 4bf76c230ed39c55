//! The development vault over its API alone: tokens, policies, leases of tokens, wrapping, namespaces, quotas, weather.

use std::time::{Duration, Instant};

use hive_dev::vault::weather::Trouble;
use hive_dev::vault::{Setup, Vault};
use hive_dev::witness::Witness;
use hive_security::clock::{Clock, Hands};
use serde_json::{Value, json};

use crate::fixture::plain_http;

/// A vault that knows one root token, and its clock.
struct Bare {
    vault: Vault,
    hands: Hands,
}

impl Bare {
    async fn start() -> Self {
        let (clock, hands) = Clock::by_hand();
        let setup = Setup::danger_root("root");
        let vault =
            Vault::start_with_clock(setup, Witness::none(), clock).await.expect("it starts");
        Self { vault, hands }
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_with(token, method, path, body, &[]).await.expect("it answers")
    }

    async fn call_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value), reqwest::Error> {
        let method = http::Method::from_bytes(method.as_bytes()).expect("a method");
        let address = format!("{}/v1/{path}", self.vault.address);
        let mut request = plain_http().request(method, address).header("x-vault-token", token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.json(&body).send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    async fn token(&self, parent: &str, body: Value) -> String {
        let (status, body) = self.call(parent, "POST", "auth/token/create", body).await;
        assert_eq!(status, 200, "{body}");
        body["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    async fn lives(&self, token: &str) -> bool {
        self.call(token, "GET", "auth/token/lookup-self", Value::Null).await.0 == 200
    }
}

#[tokio::test]
async fn children_die_with_their_parent_and_orphans_do_not() {
    let bare = Bare::start().await;
    let policy =
        json!({ "policy": "path \"auth/token/create\" { capabilities = [\"update\", \"sudo\"] }" });
    bare.call("root", "PUT", "sys/policies/acl/maker", policy).await;
    let parent = bare.token("root", json!({ "policies": ["maker"], "ttl": "1h" })).await;
    let child = bare.token(&parent, json!({})).await;
    let orphan = bare.token(&parent, json!({ "no_parent": true })).await;
    bare.call("root", "POST", "auth/token/revoke", json!({ "token": parent })).await;
    let lives = [bare.lives(&parent).await, bare.lives(&child).await, bare.lives(&orphan).await];
    assert_eq!(lives, [false, false, true]);
}

#[tokio::test]
async fn a_token_lives_by_the_clock_that_was_handed_in() {
    let bare = Bare::start().await;
    let body = json!({ "policies": ["default"], "ttl": "1h", "explicit_max_ttl": "90m" });
    let token = bare.token("root", body).await;
    bare.hands.advance(Duration::from_secs(1800));
    let renew = json!({ "increment": "1h" });
    let (_, renewed) = bare.call(&token, "POST", "auth/token/renew-self", renew.clone()).await;
    assert_eq!(renewed["auth"]["lease_duration"], 3600);
    bare.hands.advance(Duration::from_secs(1800));
    let (_, capped) = bare.call(&token, "POST", "auth/token/renew-self", renew).await;
    let warning =
        "TTL of \"1h\" exceeded the effective max_ttl of \"30m\"; TTL value is capped accordingly";
    assert_eq!(
        (&capped["auth"]["lease_duration"], &capped["warnings"][0]),
        (&json!(1800), &json!(warning))
    );
    bare.hands.advance(Duration::from_secs(1800));
    assert!(!bare.lives(&token).await);
}

#[tokio::test]
async fn a_wrapped_answer_is_given_back_once() {
    let bare = Bare::start().await;
    let wrap = [("x-vault-wrap-ttl", "60s")];
    let wrapped =
        bare.call_with("root", "POST", "sys/wrapping/wrap", json!({ "a": 1 }), &wrap).await;
    let (_, wrapped) = wrapped.expect("it answers");
    assert_eq!(wrapped["wrap_info"]["creation_path"], "sys/wrapping/wrap");
    let token = wrapped["wrap_info"]["token"].as_str().expect("a token");
    let (_, first) = bare.call(token, "POST", "sys/wrapping/unwrap", Value::Null).await;
    assert_eq!(first["data"], json!({ "a": 1 }));
    let again = bare.call(token, "POST", "sys/wrapping/unwrap", Value::Null).await;
    let text = "wrapping token is not valid or does not exist";
    assert_eq!(again, (400, json!({ "errors": [text] })));
}

#[tokio::test]
async fn a_token_of_a_namespace_reaches_nothing_outside_of_it() {
    let bare = Bare::start().await;
    bare.call("root", "POST", "sys/namespaces/one", Value::Null).await;
    for namespace in ["", "one/"] {
        let path = format!("{namespace}sys/mounts/kv");
        assert_eq!(bare.call("root", "POST", &path, json!({ "type": "kv-v2" })).await.0, 204);
        let path = format!("{namespace}kv/data/a");
        bare.call("root", "POST", &path, json!({ "data": { "of": namespace } })).await;
    }
    let policy = json!({ "policy": "path \"kv/*\" { capabilities = [\"read\"] }" });
    bare.call("root", "PUT", "one/sys/policies/acl/reader", policy).await;
    let body = json!({ "policies": ["reader"] });
    let (_, made) = bare.call("root", "POST", "one/auth/token/create", body).await;
    let token = made["auth"]["client_token"].as_str().expect("a token");
    let (status, read) = bare.call(token, "GET", "one/kv/data/a", Value::Null).await;
    assert_eq!((status, &read["data"]["data"]["of"]), (200, &json!("one/")));
    assert_eq!(bare.call(token, "GET", "kv/data/a", Value::Null).await.0, 403);
}

#[tokio::test]
async fn a_lost_answer_has_had_its_effect_and_a_broken_connection_has_not() {
    let bare = Bare::start().await;
    let before = bare.vault.tokens();
    let create = || bare.call_with("root", "POST", "auth/token/create", json!({}), &[]);
    bare.vault.weather().next("auth/token/create", 1, Trouble::Lose);
    assert!(create().await.is_err());
    assert_eq!(bare.vault.tokens(), before + 1);
    bare.vault.weather().next("auth/token/create", 1, Trouble::Drop);
    assert!(create().await.is_err());
    assert_eq!(bare.vault.tokens(), before + 1);
}

#[tokio::test]
async fn a_vault_that_goes_down_comes_up_at_the_same_address_with_what_it_knew() {
    let mut bare = Bare::start().await;
    let token = bare.token("root", json!({ "policies": ["default"] })).await;
    bare.vault.go_down().await;
    let refused = bare.call_with(&token, "GET", "auth/token/lookup-self", Value::Null, &[]).await;
    assert!(refused.is_err());
    bare.vault.come_up().await.expect("the port is free");
    assert!(bare.lives(&token).await);
}

#[tokio::test]
async fn a_sealed_vault_answers_its_health_and_nothing_else() {
    let bare = Bare::start().await;
    assert_eq!(bare.call("root", "PUT", "sys/seal", Value::Null).await.0, 204);
    assert_eq!(bare.call("root", "GET", "sys/health", Value::Null).await.0, 503);
    let sealed = bare.call("root", "GET", "sys/mounts", Value::Null).await;
    assert_eq!(sealed, (503, json!({ "errors": ["Vault is sealed"] })));
    let key = json!({ "key": bare.vault.unseal_key() });
    assert_eq!(bare.call("root", "PUT", "sys/unseal", key).await.1["sealed"], false);
    assert!(bare.lives("root").await);
}

#[tokio::test]
async fn a_quota_limits_what_is_below_its_path() {
    let bare = Bare::start().await;
    let quota = json!({ "rate": 1, "path": "cubbyhole/" });
    assert_eq!(bare.call("root", "POST", "sys/quotas/rate-limit/q", quota).await.0, 204);
    let read = || bare.call("root", "GET", "cubbyhole/a", Value::Null);
    assert_eq!(read().await.0, 404);
    let text = "request path \"cubbyhole/a\": rate limit quota exceeded";
    assert_eq!(read().await, (429, json!({ "errors": [text] })));
    bare.hands.advance(Duration::from_secs(1));
    assert_eq!(read().await.0, 404);
}

#[tokio::test]
async fn it_starts_in_milliseconds() {
    let begun = Instant::now();
    let bare = Bare::start().await;
    eprintln!("the development vault serves after {:?}", begun.elapsed());
    assert!(bare.lives("root").await);
}
