//! The calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::VaultError;
use super::http::{Http, Reply};
use crate::{JwtSvid, SecretJson};

/// Where Vault is and how to trust it.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// `http://` for loopback only, else `https://`.
    pub address: String,
    /// The certificate authorities that Vault's certificate must come from, PEM. Required for `https://`.
    pub ca_pem: Option<String>,
    /// The namespace of every call, if any.
    pub namespace: Option<String>,
    /// Where the JWT login is mounted, usually `jwt`.
    pub jwt_mount: String,
}

impl VaultConfig {
    /// Vault at this address, with the JWT login at `jwt`, no namespace, and no certificate authority.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), ca_pem: None, namespace: None, jwt_mount: "jwt".to_owned() }
    }
}

/// A client of one Vault. Cheap to clone; it holds no token, so each call is told whose it is.
#[derive(Clone)]
pub struct VaultClient {
    http: Arc<Http>,
    jwt_mount: String,
}

/// What a login gave.
#[derive(Debug)]
pub struct Login {
    /// The token.
    pub token: SecretString,
    /// Names the token without being able to use it.
    pub accessor: String,
    /// How long it lives without renewal; zero: for ever.
    pub ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
}

/// Vault's promise that what it issued lives this long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Names the lease.
    pub id: String,
    /// How long it lasts from the request.
    pub ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
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

/// What a renewal gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Renewal {
    /// How long it lasts now.
    pub ttl: Duration,
    /// Whether it can be renewed again.
    pub renewable: bool,
    /// What Vault had to remark, such as that the maximum was reached.
    pub warnings: Vec<String>,
}

/// What Vault says of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenFacts {
    /// Names the token without being able to use it.
    pub accessor: String,
    /// How long it still lives.
    pub ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The policies that it carries.
    pub policies: Vec<String>,
}

/// The state of a Vault node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Health {
    /// Whether it was ever initialised.
    pub initialized: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Whether it is a standby.
    pub standby: bool,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

impl VaultClient {
    /// A client for this Vault. Nothing is sent yet.
    pub fn new(config: VaultConfig) -> Result<Self, VaultError> {
        let http = Http::new(&config.address, config.ca_pem.as_deref(), config.namespace)?;
        Ok(Self { http: Arc::new(http), jwt_mount: config.jwt_mount })
    }

    /// The state of the node; answers for a sealed or uninitialised one, too.
    pub async fn health(&self) -> Result<Health, VaultError> {
        let path = "sys/health?standbyok=true&sealedcode=200&uninitcode=200";
        let reply = self.http.call(Method::GET, path, None, None).await?;
        reply.parse::<Health>()
    }

    /// Logs in with a JWT-SVID whose audience is this Vault.
    pub async fn login_jwt(&self, role: &str, svid: &JwtSvid) -> Result<Login, VaultError> {
        self.login(role, svid.token()).await
    }

    /// Exchanges a JWT for a token. Not repeated: a lost answer may have left a token behind, which then expires.
    pub async fn login(&self, role: &str, jwt: &SecretString) -> Result<Login, VaultError> {
        let path = format!("auth/{}/login", self.jwt_mount);
        let body = secret_body(&json!({ "role": role, "jwt": jwt.expose_secret() }));
        let reply = self.http.call(Method::POST, &path, None, Some(body)).await?;
        let auth = reply.parse::<Envelope>()?.auth.ok_or_else(|| reply.misses("auth"))?;
        Ok(auth.into_login())
    }

    /// Reads a path. Reading a credential creates a lease, so this is not repeated either.
    pub async fn read(&self, token: &SecretString, path: &str) -> Result<Answer, VaultError> {
        let reply = self.http.call(Method::GET, path, Some(token), None).await?;
        Ok(reply.parse::<Envelope>()?.into_answer())
    }

    /// Writes to a path and reads the answer, such as a certificate. It may create a lease, so it is not repeated.
    pub async fn write(
        &self,
        token: &SecretString,
        path: &str,
        body: &Value,
    ) -> Result<Answer, VaultError> {
        let body = secret_body(body);
        let reply = self.http.call(Method::POST, path, Some(token), Some(body)).await?;
        Ok(reply.parse::<Envelope>()?.into_answer())
    }

    /// What Vault says of this token.
    pub async fn lookup_self(&self, token: &SecretString) -> Result<TokenFacts, VaultError> {
        let reply =
            self.http.call(Method::GET, "auth/token/lookup-self", Some(token), None).await?;
        Ok(reply.parse::<Wrapped<RawToken>>()?.data.into())
    }

    /// Extends the token.
    pub async fn renew_self(
        &self,
        token: &SecretString,
        increment: Duration,
    ) -> Result<Renewal, VaultError> {
        let body = secret_body(&json!({ "increment": whole_seconds(increment) }));
        let reply =
            self.http.call(Method::POST, "auth/token/renew-self", Some(token), Some(body)).await?;
        let envelope = reply.parse::<Envelope>()?;
        let auth = envelope.auth.ok_or_else(|| reply.misses("auth"))?;
        let warnings = envelope.warnings.unwrap_or_default();
        Ok(Renewal {
            ttl: Duration::from_secs(auth.lease_duration),
            renewable: auth.renewable,
            warnings,
        })
    }

    /// Ends the token and every lease made with it.
    pub async fn revoke_self(&self, token: &SecretString) -> Result<(), VaultError> {
        self.http.call(Method::POST, "auth/token/revoke-self", Some(token), None).await.map(drop)
    }

    /// Extends a lease.
    pub async fn renew_lease(
        &self,
        token: &SecretString,
        id: &str,
        increment: Duration,
    ) -> Result<Renewal, VaultError> {
        let body = secret_body(&json!({ "lease_id": id, "increment": whole_seconds(increment) }));
        let reply =
            self.http.call(Method::PUT, "sys/leases/renew", Some(token), Some(body)).await?;
        let envelope = reply.parse::<Envelope>()?;
        let warnings = envelope.warnings.unwrap_or_default();
        Ok(Renewal {
            ttl: Duration::from_secs(envelope.lease_duration),
            renewable: envelope.renewable,
            warnings,
        })
    }

    /// Gives a lease back and waits until what was issued is truly gone. A lease that is gone already is no error.
    pub async fn revoke_lease(&self, token: &SecretString, id: &str) -> Result<(), VaultError> {
        let body = secret_body(&json!({ "lease_id": id, "sync": true }));
        match self.http.call(Method::PUT, "sys/leases/revoke", Some(token), Some(body)).await {
            Err(VaultError::LeaseGone { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// What is left of a lease.
    pub async fn lookup_lease(&self, token: &SecretString, id: &str) -> Result<Lease, VaultError> {
        let body = secret_body(&json!({ "lease_id": id }));
        let reply =
            self.http.call(Method::PUT, "sys/leases/lookup", Some(token), Some(body)).await?;
        let raw = reply.parse::<Wrapped<RawLease>>()?.data;
        let ttl = Duration::from_secs(raw.ttl.max(0).unsigned_abs());
        Ok(Lease { id: raw.id, ttl, renewable: raw.renewable })
    }
}

impl fmt::Debug for VaultClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultClient")
            .field("http", &self.http)
            .field("jwt_mount", &self.jwt_mount)
            .finish()
    }
}

/// Vault counts in whole seconds; rounding up never asks for less than was wanted.
fn whole_seconds(increment: Duration) -> u64 {
    increment.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

fn secret_body(body: &Value) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(body.to_string().into_bytes())
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    lease_id: Option<String>,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    data: Option<SecretJson>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    auth: Option<Auth>,
}

impl Envelope {
    fn into_answer(self) -> Answer {
        let (ttl, renewable) = (Duration::from_secs(self.lease_duration), self.renewable);
        let lease =
            self.lease_id.filter(|id| !id.is_empty()).map(|id| Lease { id, ttl, renewable });
        Answer {
            data: self.data.unwrap_or_else(|| SecretJson::new(Value::Null)),
            lease,
            warnings: self.warnings.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretString,
    #[serde(default)]
    accessor: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Auth {
    fn into_login(self) -> Login {
        let ttl = Duration::from_secs(self.lease_duration);
        Login { token: self.client_token, accessor: self.accessor, ttl, renewable: self.renewable }
    }
}

#[derive(Deserialize)]
struct Wrapped<T> {
    data: T,
}

#[derive(Deserialize)]
struct RawLease {
    id: String,
    #[serde(default)]
    ttl: i64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct RawToken {
    #[serde(default)]
    accessor: String,
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    policies: Vec<String>,
}

impl From<RawToken> for TokenFacts {
    fn from(raw: RawToken) -> Self {
        let ttl = Duration::from_secs(raw.ttl);
        Self { accessor: raw.accessor, ttl, renewable: raw.renewable, policies: raw.policies }
    }
}

impl Reply {
    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, VaultError> {
        serde_json::from_slice(self.body()).map_err(|_| self.misses("the expected JSON"))
    }
}
