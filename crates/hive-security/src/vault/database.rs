//! Database logins.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, Reply};
use super::lease::Lease;
use super::route::Route;

/// A database engine.
#[derive(Clone, Debug)]
pub struct Database {
    vault: VaultClient,
    mount: String,
}

/// A login that was made for us, and lives as long as its lease.
#[derive(Debug)]
pub struct DatabaseLogin {
    /// The user's name.
    pub username: String,
    /// Its password.
    pub password: SecretString,
    /// How long it lives.
    pub lease: Lease,
}

/// The login of a user that stays, whose password Vault changes from time to time.
#[derive(Debug)]
pub struct StaticLogin {
    /// The user's name.
    pub username: String,
    /// Its password of the moment. The one before is worth nothing.
    pub password: SecretString,
    /// When the password is changed next, from now.
    pub ttl: Duration,
}

impl Database {
    pub(super) fn new(vault: VaultClient, mount: &str) -> Self {
        Self { vault, mount: mount.to_owned() }
    }

    /// Makes a login for a role. Not repeated: after a lost answer the login is there, and ends with `token`.
    pub async fn credentials(
        &self,
        token: &SecretString,
        role: &str,
    ) -> Result<DatabaseLogin, VaultError> {
        let reply = self.ask(Method::GET, "creds", token, role).await?;
        let raw = reply.data::<Raw>()?;
        let lease = reply.envelope()?.lease();
        let lease = lease.ok_or_else(|| reply.odd("it carries no lease"))?;
        Ok(DatabaseLogin { username: raw.username, password: raw.password, lease })
    }

    /// The login of a static role.
    pub async fn static_credentials(
        &self,
        token: &SecretString,
        role: &str,
    ) -> Result<StaticLogin, VaultError> {
        let raw = self.ask(Method::GET, "static-creds", token, role).await?.data::<Raw>()?;
        let ttl = Duration::from_secs(raw.ttl.max(0).unsigned_abs());
        Ok(StaticLogin { username: raw.username, password: raw.password, ttl })
    }

    /// Changes the password of a static role now.
    pub async fn rotate_role(&self, token: &SecretString, role: &str) -> Result<(), VaultError> {
        self.ask(Method::POST, "rotate-role", token, role).await.map(drop)
    }

    async fn ask(
        &self,
        method: Method,
        what: &'static str,
        token: &SecretString,
        role: &str,
    ) -> Result<Reply, VaultError> {
        let route = Route::mount(&self.mount)?.then(what).name(role)?;
        self.vault.call(Call::new(Operation::Database, method, route).token(token)).await
    }
}

#[derive(Deserialize)]
struct Raw {
    username: String,
    password: SecretString,
    #[serde(default)]
    ttl: i64,
}
