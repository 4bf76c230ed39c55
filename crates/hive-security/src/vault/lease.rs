//! Leases: how long what Vault issued lives.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, whole_seconds};
use super::route::Route;

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

impl VaultClient {
    /// Extends a lease.
    pub async fn renew_lease(
        &self,
        token: &SecretString,
        id: &str,
        increment: Duration,
    ) -> Result<Renewal, VaultError> {
        let body = of_lease(id).plain("increment", whole_seconds(increment));
        let call = put(Operation::LeaseRenew, "sys/leases/renew", token).body(body.bytes());
        let envelope = self.call(call).await?.envelope()?;
        Ok(Renewal {
            ttl: Duration::from_secs(envelope.lease_duration),
            renewable: envelope.renewable,
            warnings: envelope.warnings.unwrap_or_default(),
        })
    }

    /// Gives a lease back and waits until what was issued is truly gone. A lease that is gone already is no error.
    pub async fn revoke_lease(&self, token: &SecretString, id: &str) -> Result<(), VaultError> {
        let body = of_lease(id).plain("sync", true);
        let call = put(Operation::LeaseRevoke, "sys/leases/revoke", token).body(body.bytes());
        match self.call(call).await {
            Err(VaultError::LeaseGone { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Gives back every lease below a prefix, such as `database/creds/orders`, whoever made it, and waits until what
    /// was issued is gone. Needs `sudo`.
    pub async fn revoke_leases(
        &self,
        token: &SecretString,
        prefix: &str,
    ) -> Result<(), VaultError> {
        let route = Route::fixed("sys/leases/revoke-prefix").below(prefix)?;
        let call = Call::new(Operation::LeaseRevoke, Method::PUT, route).token(token);
        self.call(call.body(Body::new().plain("sync", true).bytes())).await.map(drop)
    }

    /// What is left of a lease.
    pub async fn lookup_lease(&self, token: &SecretString, id: &str) -> Result<Lease, VaultError> {
        let call = put(Operation::LeaseLookup, "sys/leases/lookup", token);
        let raw = self.call(call.body(of_lease(id).bytes())).await?.data::<RawLease>()?;
        let ttl = Duration::from_secs(raw.ttl.max(0).unsigned_abs());
        Ok(Lease { id: raw.id, ttl, renewable: raw.renewable })
    }

    /// The last parts of the ids of all leases directly below a prefix, whoever made them. Needs `sudo`.
    pub async fn list_leases(
        &self,
        token: &SecretString,
        prefix: &str,
    ) -> Result<Vec<String>, VaultError> {
        let route = Route::fixed("sys/leases/lookup").below(prefix)?.query("list=true");
        self.keys(Call::new(Operation::LeaseLookup, Method::GET, route).token(token)).await
    }
}

fn put<'a>(operation: Operation, path: &'static str, token: &'a SecretString) -> Call<'a> {
    Call::new(operation, Method::PUT, Route::fixed(path)).token(token)
}

fn of_lease(id: &str) -> Body {
    Body::new().text("lease_id", id)
}

#[derive(Deserialize)]
struct RawLease {
    id: String,
    #[serde(default)]
    ttl: i64,
    #[serde(default)]
    renewable: bool,
}
