//! What is wanted, and by which numbers it is kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hive_lease::{Policy, Refresh, Want};
use serde_json::Value;

use crate::SecretJson;
use crate::clock::Clock;
use crate::epoch;
use crate::issuer::Ask;

/// A credential that is wanted.
#[derive(Clone)]
pub struct Request {
    name: String,
    path: String,
    is_optional: bool,
    body: Option<Arc<SecretJson>>,
    refresh: Refresh,
}

impl Request {
    /// What is read at `path`, such as `database/creds/app` or `secret/data/app`; its holder calls it `name`.
    pub fn read(name: impl Into<String>, path: impl Into<String>) -> Self {
        let (name, path) = (name.into(), path.into());
        Self { name, path, is_optional: false, body: None, refresh: Refresh::default() }
    }

    /// What is answered when `body` is written to `path`, such as a certificate from `pki/issue/app`.
    pub fn write(name: impl Into<String>, path: impl Into<String>, body: Value) -> Self {
        Self { body: Some(Arc::new(SecretJson::new(body))), ..Self::read(name, path) }
    }

    /// The others are of use without it, where nothing is mounted at its path or there is no such role.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }

    /// How often it is asked for again if it comes without a lease: every five minutes if nothing is said.
    #[must_use]
    pub fn refreshed(self, refresh: Refresh) -> Self {
        Self { refresh, ..self }
    }

    /// What its holder calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is asked for.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn want(&self) -> Want {
        Want { optional: self.is_optional, refresh: Some(self.refresh) }
    }

    pub(super) fn ask(&self) -> Ask {
        Ask { path: self.path.clone(), body: self.body.clone() }
    }
}

impl From<epoch::Request> for Request {
    fn from(request: epoch::Request) -> Self {
        Self { is_optional: request.optional, ..Self::read(request.name, request.path) }
    }
}

/// The body may say more than others should read.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("name", &self.name)
            .field("path", &self.path)
            .field("is_optional", &self.is_optional)
            .finish_non_exhaustive()
    }
}

/// By which numbers a set of credentials is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where time comes from.
    pub clock: Clock,
    /// When to renew and replace, how long to overlap.
    pub policy: Policy,
    /// How long the first generation may take until it can be used.
    pub open_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let open_within = Duration::from_secs(30);
        Self { clock: Clock::system(), policy: Policy::default(), open_within }
    }
}
