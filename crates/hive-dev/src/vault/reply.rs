//! Answers, down to the shape of the envelope and the texts that clients look for.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::{Value, json};

/// What a call came to.
pub(super) enum Reply {
    /// The `auth` object of a login or a renewal.
    Auth { auth: Value, warnings: Vec<String> },
    /// A body of its own shape.
    Bare { status: u16, body: Value },
    /// Data, perhaps under a lease.
    Data { data: Value, lease: Option<LeaseFacts>, warnings: Vec<String> },
    /// Done, and nothing to say.
    Empty,
}

/// The lease fields of an envelope.
pub(super) struct LeaseFacts {
    pub(super) id: String,
    pub(super) ttl_s: u64,
    pub(super) renewable: bool,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) status: u16,
    pub(super) errors: Vec<String>,
    /// A deleted version of a secret is a 404 that carries its metadata.
    pub(super) data: Option<Value>,
}

impl Fault {
    pub(super) fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, errors: vec![error.into()], data: None }
    }

    /// Nothing is stored there.
    pub(super) fn no_value() -> Self {
        Self { status: 404, errors: Vec::new(), data: None }
    }

    pub(super) fn no_route(path: &str) -> Self {
        Self::new(404, format!("no handler for route \"{path}\". route entry not found."))
    }

    /// No token, or one that is not valid.
    pub(super) fn no_token() -> Self {
        Self::new(403, "permission denied")
    }

    /// The token is good and its policies do not grant this.
    pub(super) fn denied() -> Self {
        Self::new(403, "1 error occurred:\n\t* permission denied\n\n")
    }

    pub(super) fn unsupported() -> Self {
        Self::new(405, "1 error occurred:\n\t* unsupported operation\n\n")
    }
}

impl Reply {
    pub(super) fn data(data: Value) -> Self {
        Self::Data { data, lease: None, warnings: Vec::new() }
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Bare { status, .. } => *status,
            Self::Auth { .. } | Self::Data { .. } => 200,
            Self::Empty => 204,
        }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response {
        let status = self.status();
        match self {
            Self::Auth { auth, warnings } => {
                json_body(status, &envelope(request_id, None, &Value::Null, &warnings, &auth))
            }
            Self::Bare { body, .. } => json_body(status, &body),
            Self::Data { data, lease, warnings } => {
                json_body(status, &envelope(request_id, lease, &data, &warnings, &Value::Null))
            }
            Self::Empty => body(status, Body::empty()),
        }
    }
}

impl Fault {
    pub(super) fn into_response(self, request_id: &str) -> Response {
        match self.data {
            Some(data) => {
                json_body(self.status, &envelope(request_id, None, &data, &[], &Value::Null))
            }
            None => json_body(self.status, &json!({ "errors": self.errors })),
        }
    }
}

fn envelope(
    id: &str,
    lease: Option<LeaseFacts>,
    data: &Value,
    warnings: &[String],
    auth: &Value,
) -> Value {
    let lease = lease.unwrap_or(LeaseFacts { id: String::new(), ttl_s: 0, renewable: false });
    let warnings = if warnings.is_empty() { Value::Null } else { json!(warnings) };
    json!({
        "request_id": id,
        "lease_id": lease.id,
        "renewable": lease.renewable,
        "lease_duration": lease.ttl_s,
        "data": data,
        "wrap_info": null,
        "warnings": warnings,
        "auth": auth,
    })
}

fn json_body(status: u16, value: &Value) -> Response {
    let mut response = body(status, Body::from(value.to_string()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn body(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Nothing in between may keep a credential.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Random letters and digits from the system's generator.
pub(crate) fn random_text(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// A random UUID, version 4.
pub(super) fn random_uuid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
