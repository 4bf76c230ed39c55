//! Answers, down to the shape of the envelope and the texts that clients look for.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::{Map, Value, json};

use super::engine::Login;

/// What a call came to.
pub(super) enum Reply {
    /// A body of its own shape.
    Bare { status: u16, body: Value },
    /// The envelope, with whatever is in it.
    Body(Box<Envelope>),
    /// Done, and nothing to say.
    Empty,
    /// An auth method vouches for somebody; the core makes the token of it.
    Login(Box<Login>),
    /// Not JSON: a certificate, a revocation list.
    #[allow(dead_code, reason = "only engines that serve certificates answer so")]
    Raw { status: u16, content_type: &'static str, body: Vec<u8> },
}

/// What an ordinary answer consists of.
pub(super) struct Envelope {
    pub(super) status: u16,
    pub(super) data: Value,
    /// Some answers of `sys` repeat their data beside the envelope.
    pub(super) at_top: bool,
    pub(super) lease: Option<LeaseFacts>,
    pub(super) warnings: Vec<String>,
    pub(super) auth: Value,
    pub(super) wrap_info: Value,
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
    /// A few say why in a warning of an empty envelope.
    pub(super) warnings: Vec<String>,
    /// A few say nothing at all.
    pub(super) silent: bool,
}

impl Fault {
    pub(super) fn new(status: u16, error: impl Into<String>) -> Self {
        let errors = vec![error.into()];
        Self { status, errors, data: None, warnings: Vec::new(), silent: false }
    }

    /// One of the faults that the real server lists, though there is only one.
    pub(super) fn listed(status: u16, error: &str) -> Self {
        Self::new(status, format!("1 error occurred:\n\t* {error}\n\n"))
    }

    /// A field that cannot be read, where fields are looked at before anything else is.
    pub(super) fn of_field(self) -> Self {
        Self::new(400, format!("Field validation failed: {}", self.errors.concat()))
    }

    /// Nothing is stored there.
    pub(super) fn no_value() -> Self {
        Self { errors: Vec::new(), ..Self::new(404, "") }
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
        Self::listed(403, "permission denied")
    }

    /// The path is known, and this cannot be done there.
    pub(super) fn unsupported() -> Self {
        Self::listed(405, "unsupported operation")
    }

    /// The engine knows no such path.
    pub(super) fn unsupported_path() -> Self {
        Self::listed(404, "unsupported path")
    }

    pub(super) fn internal() -> Self {
        Self::new(500, "internal error")
    }
}

impl Reply {
    pub(super) fn data(data: Value) -> Self {
        Self::Body(Box::new(Envelope { data, ..Envelope::new() }))
    }

    /// Data that is repeated beside the envelope.
    pub(super) fn data_at_top(data: Value) -> Self {
        Self::Body(Box::new(Envelope { data, at_top: true, ..Envelope::new() }))
    }

    /// The keys of a listing; none is a 404.
    pub(super) fn keys(keys: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Fault> {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        if keys.is_empty() {
            Err(Fault::no_value())
        } else {
            Ok(Self::data(json!({ "keys": keys })))
        }
    }

    pub(super) fn lease(data: Value, lease: LeaseFacts, warnings: Vec<String>) -> Self {
        Self::Body(Box::new(Envelope { data, lease: Some(lease), warnings, ..Envelope::new() }))
    }

    pub(super) fn auth(auth: Value, warnings: Vec<String>) -> Self {
        Self::Body(Box::new(Envelope { auth, warnings, ..Envelope::new() }))
    }

    /// An auth method vouches for somebody.
    pub(super) fn login(login: Login) -> Self {
        Self::Login(Box::new(login))
    }

    /// Nothing but a remark.
    pub(super) fn warning(status: u16, text: &str) -> Self {
        let warnings = vec![text.to_owned()];
        Self::Body(Box::new(Envelope { status, warnings, ..Envelope::new() }))
    }

    pub(super) fn bare(body: Value) -> Self {
        Self::Bare { status: 200, body }
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Bare { status, .. } | Self::Raw { status, .. } => *status,
            Self::Body(envelope) => envelope.status,
            Self::Login(_) => 200,
            Self::Empty => 204,
        }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response {
        let status = self.status();
        match self {
            Self::Bare { body, .. } => json_body(status, &body),
            Self::Body(envelope) => json_body(status, &envelope.json(request_id)),
            Self::Raw { content_type, body: bytes, .. } => {
                typed(status, content_type, Body::from(bytes))
            }
            // The core has made a token of every login.
            Self::Login(_) => Fault::internal().into_response(request_id),
            Self::Empty => body(status, Body::empty()),
        }
    }
}

impl Envelope {
    pub(super) fn new() -> Self {
        Self {
            status: 200,
            data: Value::Null,
            at_top: false,
            lease: None,
            warnings: Vec::new(),
            auth: Value::Null,
            wrap_info: Value::Null,
        }
    }

    /// As it is sent.
    pub(super) fn json(&self, request_id: &str) -> Value {
        let lease = self.lease.as_ref();
        let warnings = if self.warnings.is_empty() { Value::Null } else { json!(self.warnings) };
        let mut body = match &self.data {
            Value::Object(data) if self.at_top => data.clone(),
            _ => Map::new(),
        };
        let envelope = json!({
            // The answer that was wrapped had an id; the wrapping has none.
            "request_id": if self.wrap_info.is_null() { request_id } else { "" },
            "lease_id": lease.map_or("", |lease| &lease.id),
            "renewable": lease.is_some_and(|lease| lease.renewable),
            "lease_duration": lease.map_or(0, |lease| lease.ttl_s),
            "data": self.data,
            "wrap_info": self.wrap_info,
            "warnings": warnings,
            "auth": self.auth,
        });
        body.extend(envelope.as_object().cloned().unwrap_or_default());
        Value::Object(body)
    }
}

impl Fault {
    pub(super) fn into_response(self, request_id: &str) -> Response {
        if self.silent {
            return body(self.status, Body::empty());
        }
        if self.data.is_none() && self.warnings.is_empty() {
            return json_body(self.status, &json!({ "errors": self.errors }));
        }
        let data = self.data.unwrap_or_default();
        let envelope = Envelope { data, warnings: self.warnings, ..Envelope::new() };
        json_body(self.status, &envelope.json(request_id))
    }
}

fn json_body(status: u16, value: &Value) -> Response {
    let mut text = value.to_string();
    text.push('\n');
    body(status, Body::from(text))
}

fn typed(status: u16, content_type: &'static str, content: Body) -> Response {
    let mut response = body(status, content);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn body(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Also where there is nothing to say, as the real server does.
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Nothing in between may keep a credential.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Random letters and digits from the system's generator.
pub(crate) fn random_text(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// Random hexadecimal digits.
pub(super) fn random_hex(length: usize) -> String {
    let mut random = rand::rng();
    (0..length).map(|_| char::from_digit(random.random_range(0..16), 16).unwrap_or('0')).collect()
}

/// A random UUID, version 4.
pub(super) fn random_uuid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
