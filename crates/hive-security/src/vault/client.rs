//! The client, and what is read and written by its path alone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::body::Body;
use super::config::VaultConfig;
use super::counts::{Counts, Operation};
use super::database::Database;
use super::error::VaultError;
use super::http::{Call, Http, Reply};
use super::kv::Kv;
use super::lease::Lease;
use super::pki::Pki;
use super::route::Route;
use super::tls::config;
use super::token::Auth;
use super::transit::Transit;
use super::wrapping::{RawWrap, Wrapped};
use crate::SecretJson;

/// A client of one Vault. Cheap to clone; it holds no token, so each call is told whose it is.
///
/// Every call ends after 10 s at the latest. Dropping a call is safe for the client; whether Vault has carried it out
/// is then unknown.
#[derive(Clone)]
pub struct VaultClient {
    http: Arc<Http>,
    pub(super) jwt_mount: String,
    namespace: Option<HeaderValue>,
}

/// What a read gave.
#[derive(Debug)]
pub struct Answer {
    /// The data as Vault sent it.
    pub data: SecretJson,
    /// The lease, if there is one.
    pub lease: Option<Lease>,
    /// What Vault had to remark.
    pub warnings: Vec<String>,
}

impl VaultClient {
    /// A client for this Vault. Nothing is sent yet.
    pub fn new(told: VaultConfig) -> Result<Self, VaultError> {
        let namespace = told.namespace.as_deref().map(namespace).transpose()?;
        let http = Arc::new(Http::new(&told)?);
        Ok(Self { http, jwt_mount: told.jwt_mount, namespace })
    }

    /// The same client, whose calls are about another namespace.
    pub fn in_namespace(&self, name: &str) -> Result<Self, VaultError> {
        Ok(Self { namespace: Some(namespace(name)?), ..self.clone() })
    }

    /// What this client and its clones have asked so far.
    pub fn counts(&self) -> Arc<Counts> {
        self.http.counts()
    }

    /// A KV engine of version 2.
    pub fn kv(&self, mount: &str) -> Kv {
        Kv::new(self.clone(), mount)
    }

    /// A database engine.
    pub fn database(&self, mount: &str) -> Database {
        Database::new(self.clone(), mount)
    }

    /// A PKI engine.
    pub fn pki(&self, mount: &str) -> Pki {
        Pki::new(self.clone(), mount)
    }

    /// A transit engine.
    pub fn transit(&self, mount: &str) -> Transit {
        Transit::new(self.clone(), mount)
    }

    /// Reads a path. Reading a credential creates a lease, so this is not repeated either.
    pub async fn read(&self, token: &SecretString, path: &str) -> Result<Answer, VaultError> {
        let call = Call::new(Operation::Read, Method::GET, Route::plain(path)?);
        self.call(call.token(token)).await?.answer()
    }

    /// Writes to a path. The answer has no data where Vault gives none.
    pub async fn write(
        &self,
        token: &SecretString,
        path: &str,
        data: &SecretJson,
    ) -> Result<Answer, VaultError> {
        let call = Call::new(Operation::Write, Method::POST, Route::plain(path)?);
        self.call(call.token(token).body(document(data))).await?.answer()
    }

    /// Reads a path, and has the answer wrapped: whoever unwraps the token first gets it.
    pub async fn read_wrapped(
        &self,
        token: &SecretString,
        path: &str,
        ttl: Duration,
    ) -> Result<Wrapped, VaultError> {
        let call = Call::new(Operation::Read, Method::GET, Route::plain(path)?);
        RawWrap::of(&self.call(call.token(token).wrapped_for(ttl)).await?)
    }

    /// Writes to a path, and has the answer wrapped, such as a new `secret_id`.
    pub async fn write_wrapped(
        &self,
        token: &SecretString,
        path: &str,
        data: &SecretJson,
        ttl: Duration,
    ) -> Result<Wrapped, VaultError> {
        let call = Call::new(Operation::Write, Method::POST, Route::plain(path)?);
        let call = call.token(token).body(document(data)).wrapped_for(ttl);
        RawWrap::of(&self.call(call).await?)
    }

    /// Lists what is below a path.
    pub async fn list(&self, token: &SecretString, path: &str) -> Result<Vec<String>, VaultError> {
        let route = Route::plain(path)?.query("list=true");
        self.keys(Call::new(Operation::Read, Method::GET, route).token(token)).await
    }

    pub(super) async fn call<'a>(&'a self, call: Call<'a>) -> Result<Reply, VaultError> {
        self.http.call(call.namespace(self.namespace.as_ref())).await
    }

    pub(super) async fn call_or_absent<'a>(&'a self, call: Call<'a>) -> Result<Reply, VaultError> {
        self.http.call_or_absent(call.namespace(self.namespace.as_ref())).await
    }

    /// A list's names; nothing there is an empty list.
    pub(super) async fn keys<'a>(&'a self, call: Call<'a>) -> Result<Vec<String>, VaultError> {
        #[derive(Deserialize)]
        struct Keys {
            keys: Vec<String>,
        }
        match self.call(call).await {
            Ok(reply) => Ok(reply.data::<Keys>()?.keys),
            Err(VaultError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }
}

impl fmt::Debug for VaultClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultClient")
            .field("http", &self.http)
            .field("jwt_mount", &self.jwt_mount)
            .field("namespace", &self.namespace)
            .finish()
    }
}

fn namespace(name: &str) -> Result<HeaderValue, VaultError> {
    HeaderValue::from_str(name).map_err(|_| config("a namespace that is no header value"))
}

/// A document that is the whole body.
fn document(data: &SecretJson) -> bytes::Bytes {
    match data.expose_text() {
        "null" => Body::new().bytes(),
        text => bytes::Bytes::from_owner(zeroize::Zeroizing::new(text.as_bytes().to_vec())),
    }
}

/// What is around every answer of Vault.
#[derive(Deserialize)]
pub(super) struct Envelope {
    #[serde(default)]
    pub(super) lease_id: Option<String>,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
    #[serde(default)]
    data: Option<SecretJson>,
    #[serde(default)]
    pub(super) warnings: Option<Vec<String>>,
    #[serde(default)]
    pub(super) auth: Option<Auth>,
}

impl Envelope {
    pub(super) fn lease(&self) -> Option<Lease> {
        let id = self.lease_id.clone().filter(|id| !id.is_empty())?;
        let ttl = Duration::from_secs(self.lease_duration);
        Some(Lease { id, ttl, renewable: self.renewable })
    }
}

#[derive(Deserialize)]
struct WithData<T> {
    data: T,
}

impl Reply {
    /// The members of `data`.
    pub(super) fn data<T: serde::de::DeserializeOwned>(&self) -> Result<T, VaultError> {
        Ok(self.parse::<WithData<T>>()?.data)
    }

    pub(super) fn envelope(&self) -> Result<Envelope, VaultError> {
        self.parse()
    }

    pub(super) fn answer(&self) -> Result<Answer, VaultError> {
        let nothing = || SecretJson::new(Value::Null);
        if self.is_empty() {
            return Ok(Answer { data: nothing(), lease: None, warnings: Vec::new() });
        }
        let envelope = self.envelope()?;
        let lease = envelope.lease();
        Ok(Answer {
            data: envelope.data.unwrap_or_else(nothing),
            lease,
            warnings: envelope.warnings.unwrap_or_default(),
        })
    }
}
