//! What Vault says about itself, and about what a token may do.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::Call;
use super::route::Route;

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
    /// Its clock, in seconds since 1970 (UTC).
    #[serde(default, rename = "server_time_utc")]
    pub server_time_s: Option<i64>,
    /// Which cluster it belongs to. A sealed node does not say.
    #[serde(default)]
    pub cluster_id: Option<String>,
}

/// How far a sealed Vault is from being unsealed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct SealStatus {
    /// Whether it was ever initialised.
    pub initialized: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// How many key shares it takes.
    #[serde(default, rename = "t")]
    pub shares_needed: u32,
    /// How many were given.
    #[serde(default, rename = "progress")]
    pub shares_given: u32,
}

/// What a token may do, by path: `read`, `update`, …, or `root`, or `deny`.
pub type Capabilities = BTreeMap<String, BTreeSet<String>>;

impl Health {
    pub(super) fn call() -> Call<'static> {
        let query = "standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";
        Call::new(Operation::Health, Method::GET, Route::fixed("sys/health").query(query))
    }
}

impl VaultClient {
    /// The state of the node; answers for a sealed or uninitialised one, too.
    pub async fn health(&self) -> Result<Health, VaultError> {
        // The health of a node is the same for every namespace, and some servers have no such path but in the root.
        let health = self.http().call(Health::call()).await?.parse::<Health>()?;
        self.http().note(&health);
        Ok(health)
    }

    /// How far it is sealed.
    pub async fn seal_status(&self) -> Result<SealStatus, VaultError> {
        let route = Route::fixed("sys/seal-status");
        self.http().call(Call::new(Operation::Health, Method::GET, route)).await?.parse()
    }

    /// What this token may do with each of the paths.
    pub async fn capabilities_self(
        &self,
        token: &SecretString,
        paths: &[&str],
    ) -> Result<Capabilities, VaultError> {
        let route = Route::fixed("sys/capabilities-self");
        let call = Call::new(Operation::Capabilities, Method::POST, route).token(token);
        let body = Body::new().plain("paths", paths.to_vec());
        let reply = self.call(call.body(body.bytes())).await?;
        let mut told = reply.data::<BTreeMap<String, Value>>()?;
        let mut granted = |path: &&str| {
            let capabilities =
                told.remove(*path).and_then(|told| serde_json::from_value(told).ok());
            let capabilities = capabilities.ok_or_else(|| reply.odd("it leaves out a path"))?;
            Ok(((*path).to_owned(), capabilities))
        };
        paths.iter().map(&mut granted).collect()
    }
}
