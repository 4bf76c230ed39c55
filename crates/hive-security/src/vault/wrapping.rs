//! Wrapping: an answer that can be had once.

use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::body::Body;
use super::client::{Answer, VaultClient};
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, Reply};
use super::route::Route;
use crate::SecretJson;

/// An answer that Vault keeps for whoever brings this token first.
#[derive(Debug)]
pub struct Wrapped {
    /// What it is unwrapped with.
    pub token: SecretString,
    /// Names the token without being able to use it.
    pub accessor: String,
    /// How long it is kept.
    pub ttl: Duration,
    /// Which call's answer it is.
    pub creation_path: String,
}

/// What Vault says of a wrapping token. Asking does not use it up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrapFacts {
    /// Which call's answer it is.
    pub creation_path: String,
    /// How long it is kept from its creation.
    pub ttl: Duration,
}

impl VaultClient {
    /// Has a document wrapped.
    pub async fn wrap(
        &self,
        token: &SecretString,
        data: &SecretJson,
        ttl: Duration,
    ) -> Result<Wrapped, VaultError> {
        self.write_wrapped(token, "sys/wrapping/wrap", data, ttl).await
    }

    /// Which answer this wrapping token holds; [`VaultError::WrapGone`] where it holds none any more.
    pub async fn lookup_wrapped(&self, wrapping: &SecretString) -> Result<WrapFacts, VaultError> {
        #[derive(Deserialize)]
        struct Raw {
            creation_path: String,
            #[serde(default)]
            creation_ttl: u64,
        }
        let body = Body::new().secret("token", wrapping).bytes();
        let raw = self.call(post("sys/wrapping/lookup").body(body)).await?.data::<Raw>()?;
        let ttl = Duration::from_secs(raw.creation_ttl);
        Ok(WrapFacts { creation_path: raw.creation_path, ttl })
    }

    /// The answer that was wrapped, once. [`VaultError::WrapGone`] may mean that somebody else has it: look at
    /// [`lookup_wrapped`](Self::lookup_wrapped) first, and raise an alarm.
    pub async fn unwrap(&self, wrapping: &SecretString) -> Result<Answer, VaultError> {
        self.call(post("sys/wrapping/unwrap").token(wrapping)).await?.answer()
    }

    /// A new wrapping token for the same answer; the old one ends. `token` has to be allowed to do so.
    pub async fn rewrap(
        &self,
        token: &SecretString,
        wrapping: &SecretString,
    ) -> Result<Wrapped, VaultError> {
        let body = Body::new().secret("token", wrapping).bytes();
        let call = post("sys/wrapping/rewrap").token(token).body(body);
        RawWrap::of(&self.call(call).await?)
    }
}

fn post(path: &'static str) -> Call<'static> {
    Call::new(Operation::Wrapping, Method::POST, Route::fixed(path))
}

#[derive(Deserialize)]
pub(super) struct RawWrap {
    token: SecretString,
    #[serde(default)]
    accessor: String,
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    creation_path: String,
}

impl RawWrap {
    pub(super) fn of(reply: &Reply) -> Result<Wrapped, VaultError> {
        #[derive(Deserialize)]
        struct Outer {
            wrap_info: Option<RawWrap>,
        }
        let raw = reply.parse::<Outer>()?.wrap_info;
        let raw = raw.ok_or_else(|| reply.odd("it is not wrapped"))?;
        let ttl = Duration::from_secs(raw.ttl);
        let Self { token, accessor, creation_path, .. } = raw;
        Ok(Wrapped { token, accessor, ttl, creation_path })
    }
}
