//! HTTP in, HTTP out: reads a request, has it answered, writes the audit log, and only then answers.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, Method, header};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::audit::Entry;
use super::core::Core;
use super::reply::{Fault, Reply, random_uuid};
use super::routes::{Call, Verb, answer};

/// No request that we serve needs more.
const BODY_MAX_BYTES: usize = 1 << 20;

pub(super) fn router(core: Arc<Core>) -> Router {
    Router::new().fallback(handle).with_state(core)
}

async fn handle(State(core): State<Arc<Core>>, request: Request) -> Response {
    let id = random_uuid();
    let mut entry = Entry {
        event: "request",
        request_id: Some(id.clone()),
        method: Some(request.method().to_string()),
        path: Some(request.uri().path().to_owned()),
        ..Entry::default()
    };
    let outcome = match read(request).await {
        Ok(call) => answer(&core, &call, &mut entry).await,
        Err(fault) => Err(fault),
    };
    entry.status = Some(outcome.as_ref().map_or_else(|fault| fault.status, Reply::status));
    if let Err(error) = core.audit.write(&entry) {
        tracing::error!(%error, "a call was not answered, for it could not be audited");
        return Fault::new(500, "internal error").into_response(&id);
    }
    outcome.map_or_else(|fault| fault.into_response(&id), |reply| reply.into_response(&id))
}

async fn read(request: Request) -> Result<Call, Fault> {
    let (head, body) = request.into_parts();
    let path =
        head.uri.path().strip_prefix("/v1/").unwrap_or_default().trim_end_matches('/').to_owned();
    if path.is_empty() || path.contains('%') {
        return Err(Fault::no_value());
    }
    let query = query(head.uri.query().unwrap_or_default());
    let verb = verb(&head.method, &query).ok_or_else(Fault::unsupported)?;
    let body = if verb == Verb::Write { write_body(body).await? } else { Map::new() };
    Ok(Call { verb, path, query, token: token(&head.headers), body })
}

/// Nothing, an object, or `null`, which some clients send for nothing.
async fn write_body(body: Body) -> Result<Map<String, Value>, Fault> {
    let too_large = || Fault::new(413, "http: request body too large");
    let body = to_bytes(body, BODY_MAX_BYTES).await.map_err(|_| too_large())?;
    if body.is_empty() {
        return Ok(Map::new());
    }
    let body: Option<Map<String, Value>> =
        serde_json::from_slice(&body).map_err(|_| Fault::new(400, "error parsing JSON"))?;
    Ok(body.unwrap_or_default())
}

fn verb(method: &Method, query: &HashMap<String, String>) -> Option<Verb> {
    match method.as_str() {
        "GET" if query.get("list").is_some_and(|value| value == "true") => Some(Verb::List),
        "GET" | "HEAD" => Some(Verb::Read),
        "LIST" => Some(Verb::List),
        "POST" | "PUT" => Some(Verb::Write),
        "DELETE" => Some(Verb::Delete),
        _ => None,
    }
}

/// Our own parameters are words and numbers, so nothing is decoded.
fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn token(headers: &HeaderMap) -> Option<SecretString> {
    let bearer = || headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
    let token =
        headers.get("x-vault-token").and_then(|value| value.to_str().ok()).or_else(bearer)?;
    Some(SecretString::from(token))
}
