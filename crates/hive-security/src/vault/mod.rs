//! The Vault HTTP API, as much of it as a workload needs: typed calls that keep every lease and warning.
//!
//! ```no_run
//! # async fn example(workload: hive_security::Workload) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::vault::{LoginMethod, VaultClient, VaultConfig};
//!
//! let vault = VaultClient::new(VaultConfig::at("http://127.0.0.1:8200"))?;
//! let login = LoginMethod::JwtSvid { workload, role: "orders".to_owned() }.login(&vault).await?;
//! let lease = vault.database("database").credentials(&login.token, "orders").await?.lease;
//! vault.revoke_self(&login.token).await?;
//! # let _ = lease;
//! # Ok(())
//! # }
//! ```
//!
//! A call is made once. The client never repeats what may have created a token or a lease; with several addresses it
//! goes on to the next one only when the first certainly did nothing. It follows one redirect, and only to one of its
//! own addresses, uses no proxy, and neither logs nor returns the body of an answer that it did not understand. Names
//! of roles, mounts and secrets are data: see [`VaultError::Name`].
//!
//! # The orphans of a lost answer
//!
//! When the answer to a call that creates something is lost, what was created is there and nobody knows its name. What
//! can be done about it depends on what it is:
//!
//! | lost | what ends it |
//! |---|---|
//! | a lease (database, PKI with leases) | [`VaultClient::revoke_self`] of the token that it was asked with: Vault revokes every lease of a token with it, known or not |
//! | a child token | the same: children end with their parent |
//! | a login | its time to live alone, for its token and accessor are unknown. Keep the TTL of login roles short |
//! | a wrapping token | its time to live alone |
//! | a `secret_id`, a certificate without a lease | its time to live alone |
//!
//! There is no other sound way: leases can be listed by prefix with [`VaultClient::list_leases`] (which needs `sudo`),
//! but no call tells which token made a lease, so an orphan cannot be told from a neighbour's good lease. That is why
//! an epoch asks for all its leases with one token of its own, and gives that token back at its end.

mod body;
mod client;
mod config;
mod counts;
mod database;
mod error;
mod http;
mod kv;
mod lease;
mod login;
mod nodes;
mod pki;
mod route;
mod sys;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod token;
mod transit;
mod verdict;
mod wrapping;

pub use client::{Answer, VaultClient};
pub use config::VaultConfig;
pub use counts::{Counts, Durations, Operation, Tally};
pub use database::{Database, DatabaseLogin, StaticLogin};
pub use error::{LoginFault, VaultError};
pub use kv::{Kv, KvMetadata, KvRead, KvSecret, KvVersion};
pub use lease::{Lease, Renewal};
pub use login::{LoginError, LoginMethod, SecretId};
pub use pki::{Certificate, CertificateRequest, IssuedCertificate, Pki};
pub use sys::{Capabilities, Health, SealStatus};
pub use token::{ChildToken, Login, TokenFacts};
pub use transit::Transit;
pub use wrapping::{WrapFacts, Wrapped};
