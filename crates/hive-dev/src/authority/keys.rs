//! The JWT keys over HTTP on loopback, for verifiers that are no workloads: `/keys` is a JWKS with the JWT keys only,
//! `/.well-known/openid-configuration` points there. The same two paths as SPIRE's OIDC discovery provider.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::issuer::Issuer;
use super::jwt::Use;

pub(super) fn router(issuer: Arc<Issuer>) -> Router {
    Router::new()
        .route("/keys", get(keys))
        .route("/.well-known/openid-configuration", get(discovery))
        .with_state(issuer)
}

async fn keys(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    Json(issuer.jwks(Use::OpenId))
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let base = issuer.keys_base();
    Json(json!({
        "issuer": base,
        "jwks_uri": format!("{base}/keys"),
        "authorization_endpoint": "",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}
