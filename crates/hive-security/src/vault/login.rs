//! How a workload proves to Vault who it is.

use std::time::Duration;

use tokio::time::timeout;

use super::client::{Login, VaultClient};
use super::error::VaultError;
use crate::{Audience, Error, Workload};

/// The Workload API is a socket on this machine; an answer that takes longer does not come.
const SVID_DEADLINE: Duration = Duration::from_secs(5);

/// A way to log in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LoginMethod {
    /// A JWT-SVID of this workload, for the audience `vault.<trust domain>`.
    JwtSvid {
        /// Whose.
        workload: Workload,
        /// The Vault role.
        role: String,
    },
}

/// Why a login did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// There was no document to log in with.
    #[error("there is no identity to log in to Vault with")]
    Identity(#[source] Error),
    /// The Workload API did not answer.
    #[error("the Workload API gave no JWT-SVID within {} s", SVID_DEADLINE.as_secs())]
    IdentityTimeout,
    /// Vault did not accept it, or could not be asked.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl LoginMethod {
    /// The Vault role that is asked for.
    pub fn role(&self) -> &str {
        match self {
            Self::JwtSvid { role, .. } => role,
        }
    }

    /// Logs in once. A lost answer may have left a token behind, which then expires.
    pub async fn login(&self, vault: &VaultClient) -> Result<Login, LoginError> {
        match self {
            Self::JwtSvid { workload, role } => {
                let audience = Audience::parse(&format!("vault.{}", workload.trust_domain()))
                    .map_err(LoginError::Identity)?;
                let svid = timeout(SVID_DEADLINE, workload.jwt_svid(&audience)).await;
                let svid = svid.map_err(|_| LoginError::IdentityTimeout)?;
                let svid = svid.map_err(LoginError::Identity)?;
                Ok(vault.login_jwt(role, &svid).await?)
            }
        }
    }
}
