//! Secrets in versions: the KV engine, version 2.

use std::collections::BTreeMap;

use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, Reply};
use super::route::Route;
use crate::SecretJson;

/// A KV engine of version 2.
#[derive(Clone, Debug)]
pub struct Kv {
    vault: VaultClient,
    mount: String,
}

/// What a read found. Nothing at all is [`VaultError::NotFound`].
#[derive(Debug)]
#[non_exhaustive]
pub enum KvRead {
    /// The secret.
    Found(KvSecret),
    /// That version was deleted or destroyed; this is left of it.
    Gone(KvVersion),
}

/// A version of a secret.
#[derive(Debug)]
pub struct KvSecret {
    /// Its fields.
    pub data: SecretJson,
    /// Which version it is.
    pub version: KvVersion,
}

/// What is known of a version without its fields.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct KvVersion {
    /// Its number, from 1.
    #[serde(default)]
    pub version: u64,
    /// When it was written, RFC 3339.
    #[serde(default, rename = "created_time")]
    pub created_at: String,
    /// When it was or will be deleted, RFC 3339; empty: never.
    #[serde(default, rename = "deletion_time")]
    pub deleted_at: String,
    /// Whether it can never be brought back.
    #[serde(default)]
    pub destroyed: bool,
}

/// What is known of all versions of a secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct KvMetadata {
    /// The number of the newest version; 0: there is none.
    pub current_version: u64,
    /// The number of the oldest version that is kept.
    #[serde(default)]
    pub oldest_version: u64,
    /// Whether every write has to say which version it is based on.
    #[serde(default)]
    pub cas_required: bool,
    /// What people noted.
    #[serde(default)]
    pub custom_metadata: Option<BTreeMap<String, String>>,
    /// The versions that are kept, by number.
    #[serde(default, deserialize_with = "numbered")]
    pub versions: BTreeMap<u64, KvVersion>,
}

impl Kv {
    pub(super) fn new(vault: VaultClient, mount: &str) -> Self {
        Self { vault, mount: mount.to_owned() }
    }

    /// The current version, or this one.
    pub async fn read(
        &self,
        token: &SecretString,
        path: &str,
        version: Option<u64>,
    ) -> Result<KvRead, VaultError> {
        let mut route = self.route("data", path)?;
        if let Some(version) = version {
            route = route.query(format!("version={version}"));
        }
        let call = Call::new(Operation::KvRead, Method::GET, route).token(token);
        let reply = self.vault.call_or_absent(call).await?;
        let raw = reply.data::<RawSecret>()?;
        match raw.data.filter(|_| reply.status != 404) {
            Some(data) => Ok(KvRead::Found(KvSecret { data, version: raw.metadata })),
            None => Ok(KvRead::Gone(raw.metadata)),
        }
    }

    /// Writes a new version. With `based_on` only if that is the current one (0: only if there is none), else
    /// [`VaultError::VersionMismatch`].
    pub async fn write(
        &self,
        token: &SecretString,
        path: &str,
        data: &SecretJson,
        based_on: Option<u64>,
    ) -> Result<KvVersion, VaultError> {
        self.put(Method::POST, "application/json", token, path, data, based_on).await
    }

    /// Writes a new version that has these fields of the current one replaced (and those that are null removed).
    pub async fn patch(
        &self,
        token: &SecretString,
        path: &str,
        data: &SecretJson,
        based_on: Option<u64>,
    ) -> Result<KvVersion, VaultError> {
        self.put(Method::PATCH, "application/merge-patch+json", token, path, data, based_on).await
    }

    async fn put(
        &self,
        method: Method,
        content_type: &'static str,
        token: &SecretString,
        path: &str,
        data: &SecretJson,
        based_on: Option<u64>,
    ) -> Result<KvVersion, VaultError> {
        let body = Body::new().document("data", data);
        let body = match based_on {
            Some(version) => body.plain("options", serde_json::json!({ "cas": version })),
            None => body,
        };
        let call = Call::new(Operation::KvWrite, method, self.route("data", path)?);
        let call = call.token(token).content_type(content_type).body(body.bytes());
        self.vault.call(call).await?.data()
    }

    /// Deletes the current version. It can be brought back.
    pub async fn delete(&self, token: &SecretString, path: &str) -> Result<(), VaultError> {
        let call = Call::new(Operation::KvDelete, Method::DELETE, self.route("data", path)?);
        self.vault.call(call.token(token)).await.map(drop)
    }

    /// Deletes versions. They can be brought back.
    pub async fn delete_versions(
        &self,
        token: &SecretString,
        path: &str,
        versions: &[u64],
    ) -> Result<(), VaultError> {
        self.change("delete", token, path, versions).await.map(drop)
    }

    /// Brings versions back.
    pub async fn undelete(
        &self,
        token: &SecretString,
        path: &str,
        versions: &[u64],
    ) -> Result<(), VaultError> {
        self.change("undelete", token, path, versions).await.map(drop)
    }

    /// Removes versions for ever.
    pub async fn destroy(
        &self,
        token: &SecretString,
        path: &str,
        versions: &[u64],
    ) -> Result<(), VaultError> {
        self.change("destroy", token, path, versions).await.map(drop)
    }

    /// What is known of the versions.
    pub async fn metadata(
        &self,
        token: &SecretString,
        path: &str,
    ) -> Result<KvMetadata, VaultError> {
        let call = Call::new(Operation::KvMetadata, Method::GET, self.route("metadata", path)?);
        self.vault.call(call.token(token)).await?.data()
    }

    /// Removes a secret for ever, with all its versions.
    pub async fn remove(&self, token: &SecretString, path: &str) -> Result<(), VaultError> {
        let call = Call::new(Operation::KvDelete, Method::DELETE, self.route("metadata", path)?);
        self.vault.call(call.token(token)).await.map(drop)
    }

    /// The names below a path, or below the whole mount; those that end with a slash have others below them.
    pub async fn list(
        &self,
        token: &SecretString,
        below: Option<&str>,
    ) -> Result<Vec<String>, VaultError> {
        let route = Route::mount(&self.mount)?.then("metadata");
        let route = match below {
            Some(below) => route.below(below.trim_end_matches('/'))?,
            None => route,
        };
        let route = route.query("list=true");
        self.vault.keys(Call::new(Operation::KvMetadata, Method::GET, route).token(token)).await
    }

    async fn change(
        &self,
        what: &'static str,
        token: &SecretString,
        path: &str,
        versions: &[u64],
    ) -> Result<Reply, VaultError> {
        let call = Call::new(Operation::KvDelete, Method::POST, self.route(what, path)?);
        let body = Body::new().plain("versions", versions.to_vec());
        self.vault.call(call.token(token).body(body.bytes())).await
    }

    fn route(&self, what: &'static str, path: &str) -> Result<Route, VaultError> {
        Route::mount(&self.mount)?.then(what).below(path)
    }
}

#[derive(Deserialize)]
struct RawSecret {
    #[serde(default)]
    data: Option<SecretJson>,
    metadata: KvVersion,
}

/// The numbers are names of members, and each member lacks its own.
fn numbered<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<u64, KvVersion>, D::Error> {
    let named = BTreeMap::<String, KvVersion>::deserialize(from)?;
    let number = |(name, version): (String, KvVersion)| {
        let number =
            name.parse().map_err(|_| serde::de::Error::custom("a version has no number"))?;
        Ok((number, KvVersion { version: number, ..version }))
    };
    named.into_iter().map(number).collect()
}
