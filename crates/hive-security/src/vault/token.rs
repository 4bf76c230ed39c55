//! Tokens: what a login gives, and what becomes of it.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, Reply, whole_seconds};
use super::lease::Renewal;
use super::route::Route;

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

/// What Vault says of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenFacts {
    /// Names the token without being able to use it.
    pub accessor: String,
    /// How long it still lives; zero: for ever.
    pub ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The policies that it carries.
    pub policies: Vec<String>,
    /// The end that no renewal moves, counted from its creation, if there is one.
    pub explicit_ttl_max: Option<Duration>,
}

/// A child token that is asked for. It ends with its parent.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChildToken {
    /// Its policies; none: those of the parent.
    pub policies: Vec<String>,
    /// How long it lives without renewal; None: as long as the server likes.
    pub ttl: Option<Duration>,
    /// The end that no renewal moves.
    pub explicit_ttl_max: Option<Duration>,
}

impl VaultClient {
    /// What Vault says of this token.
    pub async fn lookup_self(&self, token: &SecretString) -> Result<TokenFacts, VaultError> {
        let route = Route::fixed("auth/token/lookup-self");
        let call = Call::new(Operation::TokenLookup, Method::GET, route);
        Ok(self.call(call.token(token)).await?.data::<RawToken>()?.into())
    }

    /// Extends the token. With [`VaultError::NotRenewed`] it was not, and will not be: a login is needed before it ends.
    pub async fn renew_self(
        &self,
        token: &SecretString,
        increment: Duration,
    ) -> Result<Renewal, VaultError> {
        let body = Body::new().plain("increment", whole_seconds(increment));
        let route = Route::fixed("auth/token/renew-self");
        let call = Call::new(Operation::TokenRenew, Method::POST, route);
        let reply = self.call(call.token(token).body(body.bytes())).await?;
        if reply.is_empty() {
            return Err(reply.not_renewed());
        }
        let envelope = reply.envelope()?;
        let auth = envelope.auth.ok_or_else(|| reply.odd("it carries no `auth`"))?;
        Ok(Renewal {
            ttl: Duration::from_secs(auth.lease_duration),
            renewable: auth.renewable,
            warnings: envelope.warnings.unwrap_or_default(),
        })
    }

    /// Ends the token, its children, and every lease made with any of them, those of lost answers too.
    pub async fn revoke_self(&self, token: &SecretString) -> Result<(), VaultError> {
        let route = Route::fixed("auth/token/revoke-self");
        let call = Call::new(Operation::TokenRevoke, Method::POST, route);
        self.call(call.token(token)).await.map(drop)
    }

    /// Ends the token that has this accessor, as [`revoke_self`](Self::revoke_self) does.
    pub async fn revoke_accessor(
        &self,
        token: &SecretString,
        accessor: &str,
    ) -> Result<(), VaultError> {
        let route = Route::fixed("auth/token/revoke-accessor");
        let call = Call::new(Operation::TokenRevoke, Method::POST, route);
        let body = Body::new().text("accessor", accessor).bytes();
        self.call(call.token(token).body(body)).await.map(drop)
    }

    /// Makes a child of the token. After a lost answer it ends with its parent.
    pub async fn create_token(
        &self,
        token: &SecretString,
        wanted: &ChildToken,
    ) -> Result<Login, VaultError> {
        let seconds = |ttl: Option<Duration>| ttl.map(|ttl| format!("{}s", whole_seconds(ttl)));
        let policies = Some(wanted.policies.clone()).filter(|policies| !policies.is_empty());
        let body = Body::new()
            .maybe("policies", policies)
            .maybe("ttl", seconds(wanted.ttl))
            .maybe("explicit_max_ttl", seconds(wanted.explicit_ttl_max));
        let route = Route::fixed("auth/token/create");
        let call = Call::new(Operation::TokenCreate, Method::POST, route);
        self.call(call.token(token).body(body.bytes())).await?.login()
    }
}

impl Reply {
    pub(super) fn login(&self) -> Result<Login, VaultError> {
        let auth = self.envelope()?.auth.ok_or_else(|| self.odd("it carries no `auth`"))?;
        let ttl = Duration::from_secs(auth.lease_duration);
        let Auth { client_token: token, accessor, renewable, .. } = auth;
        Ok(Login { token, accessor, ttl, renewable })
    }
}

#[derive(Deserialize)]
pub(super) struct Auth {
    client_token: SecretString,
    #[serde(default)]
    accessor: String,
    #[serde(default)]
    lease_duration: u64,
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
    #[serde(default)]
    explicit_max_ttl: u64,
}

impl From<RawToken> for TokenFacts {
    fn from(raw: RawToken) -> Self {
        let whole = Some(raw.explicit_max_ttl).filter(|seconds| *seconds > 0);
        Self {
            accessor: raw.accessor,
            ttl: Duration::from_secs(raw.ttl),
            renewable: raw.renewable,
            policies: raw.policies,
            explicit_ttl_max: whole.map(Duration::from_secs),
        }
    }
}
