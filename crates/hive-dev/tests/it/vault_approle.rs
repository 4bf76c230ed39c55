//! Logging in with an id and a secret id, and with the token of a Kubernetes service account.

use std::time::Duration;

use axum::Json;
use axum::routing::post;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use hive_security::clock::Clock;
use serde_json::{Value, json};

use crate::operator::Operator;

const LOGIN: &str = "auth/approle/login";

async fn with_role(clock: Clock, role: Value) -> (Operator, String) {
    let operator = Operator::start_with_clock(clock).await;
    operator.write("sys/auth/approle", json!({ "type": "approle" })).await;
    operator.write("auth/approle/role/app", role).await;
    let id = operator.read("auth/approle/role/app/role-id").await;
    let id = id["data"]["role_id"].as_str().expect("an id").to_owned();
    (operator, id)
}

async fn log_in(operator: &Operator, id: &str, secret: &Value) -> (u16, Value) {
    let body = json!({ "role_id": id, "secret_id": secret });
    operator.call_as(None, "POST", LOGIN, body).await
}

#[tokio::test]
async fn a_wrapped_secret_id_is_unwrapped_once_and_used_as_often_as_it_may_be() {
    let role = json!({ "token_policies": "app", "token_ttl": "1h", "secret_id_num_uses": 2 });
    let (operator, id) = with_role(Clock::system(), role).await;
    let body = json!({ "metadata": "{\"pod\":\"one\"}" });
    let wrapped = operator.wrapped("auth/approle/role/app/secret-id", body).await;
    assert!(wrapped["data"].is_null(), "the secret id itself is not there");
    let token = wrapped["wrap_info"]["token"].as_str().expect("a token").to_owned();
    assert_eq!(wrapped["wrap_info"]["creation_path"], "auth/approle/role/app/secret-id");
    let unwrap = || operator.call_as(Some(&token), "POST", "sys/wrapping/unwrap", json!({}));
    let secret = unwrap().await.1["data"]["secret_id"].clone();
    assert!(secret.is_string());
    assert_eq!(unwrap().await.0, 400, "somebody else was there before");
    for _ in 0..2 {
        let (status, answer) = log_in(&operator, &id, &secret).await;
        assert_eq!(status, 200, "{answer}");
        let auth = &answer["auth"];
        assert_eq!(auth["policies"], json!(["app", "default"]));
        assert_eq!(auth["metadata"], json!({ "pod": "one", "role_name": "app" }));
        assert_eq!(auth["lease_duration"], 3600);
    }
    let (status, answer) = log_in(&operator, &id, &secret).await;
    assert_eq!((status, &answer["errors"][0]), (400, &json!("invalid role or secret ID")));
    operator.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn a_secret_id_ends_with_its_time_and_when_it_is_destroyed() {
    let (clock, hands) = Clock::by_hand();
    let (operator, id) = with_role(clock, json!({ "secret_id_ttl": "10m" })).await;
    let made = operator.write("auth/approle/role/app/secret-id", json!({})).await["data"].clone();
    assert_eq!(log_in(&operator, &id, &made["secret_id"]).await.0, 200);
    hands.advance(Duration::from_secs(601));
    assert_eq!(log_in(&operator, &id, &made["secret_id"]).await.0, 400);
    let custom = json!({ "secret_id": "my-own" });
    let made = operator.write("auth/approle/role/app/custom-secret-id", custom.clone()).await;
    assert_eq!(log_in(&operator, &id, &json!("my-own")).await.0, 200);
    let accessor = json!({ "secret_id_accessor": made["data"]["secret_id_accessor"] });
    let path = "auth/approle/role/app/secret-id-accessor";
    let shown = operator.write(&format!("{path}/lookup"), accessor.clone()).await;
    assert_eq!(shown["data"]["secret_id_ttl"], 600);
    operator.write(&format!("{path}/destroy"), accessor).await;
    assert_eq!(log_in(&operator, &id, &json!("my-own")).await.0, 400);
    let looked = operator.call("POST", "auth/approle/role/app/secret-id/lookup", custom).await;
    assert_eq!(looked.0, 204);
    operator.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn refusals_are_those_of_the_real_server() {
    let role = json!({ "secret_id_num_uses": 2, "secret_id_ttl": "10m" });
    let (operator, id) = with_role(Clock::system(), role).await;
    let path = "auth/approle/role/app/secret-id";
    for (body, why) in [
        (json!({ "num_uses": 5 }), "num_uses cannot be higher than the role's secret_id_num_uses"),
        (json!({ "ttl": "1h" }), "ttl cannot be longer than the role's secret_id_ttl"),
    ] {
        assert_eq!(operator.refused("POST", path, body).await, (400, why.to_owned()));
    }
    for (body, status, why) in [
        (json!({}), 500, "missing role_id"),
        (json!({ "role_id": id }), 400, "missing secret_id"),
        (json!({ "role_id": "x", "secret_id": "y" }), 400, "invalid role or secret ID"),
    ] {
        let (said, answer) = operator.call_as(None, "POST", LOGIN, body).await;
        assert_eq!((said, &answer["errors"][0]), (status, &json!(why)));
    }
    operator.vault.stop().await.expect("nothing is left");
}

/// An API server that vouches for one service account.
async fn api_server() -> String {
    let review = |Json(asked): Json<Value>| async move {
        let good = asked["spec"]["token"].as_str().is_some_and(|token| token.ends_with(".good"));
        Json(json!({
            "kind": "TokenReview",
            "status": {
                "authenticated": good,
                "audiences": asked["spec"]["audiences"],
                "user": { "username": "system:serviceaccount:shop:cart", "uid": "u1" },
            },
        }))
    };
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let router = axum::Router::new().route(path, post(review));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn token(name: &str, signature: &str) -> String {
    let claims = json!({
        "aud": ["vault"],
        "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": name, "uid": "u1" } },
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(&json!({ "alg": "RS256" })), part(&claims))
}

#[tokio::test]
async fn a_service_account_logs_in_if_the_api_server_vouches_for_it() {
    let operator = Operator::start().await;
    operator.write("sys/auth/kubernetes", json!({ "type": "kubernetes" })).await;
    operator.write("sys/mounts/pki", json!({ "type": "pki" })).await;
    let root = json!({ "common_name": "kubernetes", "key_type": "ec" });
    let ca = operator.write("pki/root/generate/internal", root).await;
    let config = json!({
        "kubernetes_host": api_server().await, "kubernetes_ca_cert": ca["data"]["certificate"],
    });
    operator.write("auth/kubernetes/config", config).await;
    let role = json!({
        "bound_service_account_names": "cart", "bound_service_account_namespaces": "shop",
        "audience": "vault", "token_policies": "app",
    });
    operator.write("auth/kubernetes/role/cart", role).await;
    let login = |jwt: String| {
        let body = json!({ "role": "cart", "jwt": jwt });
        operator.call_as(None, "POST", "auth/kubernetes/login", body)
    };
    let (status, answer) = login(token("cart", "good")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["auth"]["metadata"]["service_account_uid"], "u1");
    assert_eq!(answer["auth"]["policies"], json!(["app", "default"]));
    assert_eq!(login(token("cart", "forged")).await.0, 403);
    assert_eq!(login(token("other", "good")).await.0, 403);
    operator.vault.stop().await.expect("nothing is left");
}
