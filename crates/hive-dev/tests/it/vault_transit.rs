//! The transit engine over the API: what was tested beside it, through tokens and policies.

use serde_json::{Value, json};

use crate::operator::Operator;

const HELLO: &str = "aGVsbG8=";

#[tokio::test]
async fn a_key_encrypts_for_those_who_may_and_is_made_only_for_who_may_create() {
    let operator = Operator::start().await;
    operator.write("sys/mounts/transit", json!({ "type": "transit" })).await;
    operator.write("transit/keys/app", json!({})).await;
    let rules = "path \"transit/encrypt/*\" { capabilities = [\"update\"] }";
    let token = operator.token_with(rules).await;
    let body = json!({ "plaintext": HELLO });
    let (status, sealed) =
        operator.call_as(Some(&token), "POST", "transit/encrypt/app", body.clone()).await;
    assert_eq!(status, 200, "{sealed}");
    let sealed = json!({ "ciphertext": sealed["data"]["ciphertext"] });
    let (status, _) =
        operator.call_as(Some(&token), "POST", "transit/decrypt/app", sealed.clone()).await;
    assert_eq!(status, 403);
    let (status, _) =
        operator.call_as(Some(&token), "POST", "transit/encrypt/other", body.clone()).await;
    assert_eq!(status, 403, "the key would have been made");
    let opened = operator.write("transit/decrypt/app", sealed).await;
    assert_eq!(opened["data"]["plaintext"], HELLO);
    assert_eq!(operator.call("GET", "transit/keys/other", Value::Null).await.0, 404);
    operator.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_refused_as_the_real_server_does() {
    let operator = Operator::start().await;
    operator.write("sys/mounts/transit", json!({ "type": "transit" })).await;
    let unsupported = "1 error occurred:\n\t* unsupported operation\n\n".to_owned();
    let refused = operator.refused("GET", "transit/encrypt/app", Value::Null).await;
    assert_eq!(refused, (405, unsupported));
    let no_path = "1 error occurred:\n\t* unsupported path\n\n".to_owned();
    assert_eq!(operator.refused("GET", "transit/nowhere", Value::Null).await, (404, no_path));
    let (status, batch) = operator
        .call("POST", "transit/encrypt/a", json!({ "batch_input": [{ "plaintext": "%" }] }))
        .await;
    assert_eq!((status, batch["errors"].is_null()), (400, true), "{batch}");
    assert_eq!(batch["data"]["batch_results"][0]["error"], "illegal base64 data at input byte 0");
    operator.vault.stop().await.expect("nothing is left");
}
