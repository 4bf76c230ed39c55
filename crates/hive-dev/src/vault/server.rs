//! HTTP in, HTTP out: reads a request, has it answered, writes the audit log, and only then answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, header, request};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::audit::Entry;
use super::clock;
use super::connections::{HangUp, Peer};
use super::core::{Core, token_key};
use super::reply::{Fault, Reply, random_uuid};
use super::routes::{Call, Verb, answer};
use super::storm;

/// No request that we serve needs more.
const BODY_MAX_BYTES: usize = 1 << 20;

pub(super) fn router(core: Arc<Core>) -> Router {
    Router::new().fallback(handle).with_state(core)
}

async fn handle(State(core): State<Arc<Core>>, request: Request) -> Response {
    let hang_up = request.extensions().get::<HangUp>().cloned().unwrap_or_default();
    let id = random_uuid();
    let mut entry = Entry {
        event: "request",
        request_id: Some(id.clone()),
        method: Some(request.method().to_string()),
        path: Some(request.uri().path().to_owned()),
        ..Entry::default()
    };
    let path = request.uri().path().trim_start_matches("/v1/").to_owned();
    let trouble = core.weather.standby(&path).or_else(|| core.weather.take(&path));
    if let Some(met) = storm::before(&core, trouble.as_ref(), &path, &hang_up).await {
        return met;
    }
    let outcome = match read(&core, request).await {
        Ok(call) => checked(&core, &call, &mut entry).await,
        Err(fault) => Err(fault),
    };
    entry.status = Some(outcome.as_ref().map_or_else(|fault| fault.status, Reply::status));
    if let Err(error) = core.audit.write(&entry) {
        tracing::error!(%error, "a call was not answered, for it could not be audited");
        return Fault::internal().into_response(&id);
    }
    let response =
        outcome.map_or_else(|fault| fault.into_response(&id), |reply| reply.into_response(&id));
    storm::after(trouble, response, &hang_up).await
}

async fn checked(core: &Arc<Core>, call: &Call, entry: &mut Entry) -> Result<Reply, Fault> {
    if let Some(token) = &call.token {
        core.weather.check(&token_key(token.expose_secret()))?;
    }
    answer(core, call, entry).await
}

async fn read(core: &Core, request: Request) -> Result<Call, Fault> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().strip_prefix("/v1/").unwrap_or_default();
    let path = decoded(path).filter(|path| !path.is_empty()).ok_or_else(Fault::no_value)?;
    let query = query(head.uri.query().unwrap_or_default());
    let verb = verb(&head, &query)?;
    let body = match verb {
        Verb::Patch | Verb::Write => write_body(body).await?,
        _ => parameters(&query),
    };
    let namespace = text(&head.headers, "x-vault-namespace").unwrap_or_default();
    let (namespace, path) = core.namespace_of(namespace, &path)?;
    let wrap_ttl = wrap_ttl(&head.headers)?;
    let token = token(&head.headers);
    let peer = head.extensions.get::<Peer>().cloned().unwrap_or_default();
    Ok(Call { verb, namespace, path, query, token, body, wrap_ttl, peer })
}

/// What a read is asked with stands in its query.
fn parameters(query: &HashMap<String, String>) -> Map<String, Value> {
    query.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

/// Nothing, an object, or `null`, which some clients send for nothing.
async fn write_body(body: Body) -> Result<Map<String, Value>, Fault> {
    let too_large = || Fault::new(413, "http: request body too large");
    let body = to_bytes(body, BODY_MAX_BYTES).await.map_err(|_| too_large())?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let value: Value = serde_json::from_slice(&body).map_err(|error| {
        // What could not be read is not repeated, for it may hold secrets.
        let at = error.column();
        Fault::new(400, format!("failed to decode JSON input: invalid character at {at}"))
    })?;
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(members) => Ok(members),
        other => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                _ => "string",
            };
            let text = format!(
                "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            );
            Err(Fault::new(400, format!("failed to decode JSON input: {text}")))
        }
    }
}

fn verb(head: &request::Parts, query: &HashMap<String, String>) -> Result<Verb, Fault> {
    let says = |name: &str| query.get(name).is_some_and(|value| value == "true");
    match head.method.as_str() {
        "GET" if says("list") => Ok(Verb::List),
        "GET" if says("scan") => Ok(Verb::Scan),
        "GET" | "HEAD" => Ok(Verb::Read),
        "LIST" => Ok(Verb::List),
        "SCAN" => Ok(Verb::Scan),
        "POST" | "PUT" => Ok(Verb::Write),
        "PATCH" => patches(&head.headers),
        "DELETE" => Ok(Verb::Delete),
        _ if head.method == Method::OPTIONS => {
            Err(Fault::new(400, "cannot handle internal-only request operation"))
        }
        _ => Err(Fault::unsupported()),
    }
}

fn patches(headers: &HeaderMap) -> Result<Verb, Fault> {
    match text(headers, "content-type").map(|kind| kind.split(';').next().unwrap_or(kind).trim()) {
        Some("application/merge-patch+json") => Ok(Verb::Patch),
        None | Some("") => Err(Fault::new(400, "mime: no media type")),
        Some(other) => {
            let wanted = "PATCH requires Content-Type of application/merge-patch+json, provided";
            Err(Fault::new(415, format!("{wanted} {other}")))
        }
    }
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let plain = |text: &str| decoded(&text.replace('+', " ")).unwrap_or_default();
    pairs.map(|(name, value)| (plain(name), plain(value))).collect()
}

/// Without its percent signs; None if that is no text.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn wrap_ttl(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(given) = text(headers, "x-vault-wrap-ttl") else { return Ok(None) };
    let ttl = clock::parse_duration(&json!(given)).ok_or_else(|| {
        let is_negative = given
            .strip_prefix('-')
            .is_some_and(|rest| clock::parse_duration(&json!(rest)).is_some());
        let why = if is_negative {
            "requested wrap ttl cannot be negative".to_owned()
        } else {
            format!("time: invalid duration \"{given}\"")
        };
        Fault::new(400, format!("error parsing X-Vault-Wrap-TTL header: {why}"))
    })?;
    Ok(Some(ttl).filter(|ttl| !ttl.is_zero()))
}

fn token(headers: &HeaderMap) -> Option<SecretString> {
    let bearer = || headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
    let token = headers.get("x-vault-token").map(HeaderValue::to_str).and_then(Result::ok);
    Some(SecretString::from(token.filter(|token| !token.is_empty()).or_else(bearer)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_what_is_no_text_is_refused() {
        let table = [("a%2Fb", Some("a/b")), ("a b", Some("a b")), ("%e4", None), ("%zz", None)];
        for (given, expected) in table {
            assert_eq!(decoded(given).as_deref(), expected, "{given}");
        }
        assert_eq!(query("a=b+c&d=%20")["a"], "b c");
    }
}
