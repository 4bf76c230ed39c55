//! Credentials that are replaced before they end, and the holders that move over to the new ones.
//!
//! A [`Credential`] is one generation of something borrowed. A [`Holder`] is whoever uses it: a connection pool, a
//! producer, a file. Holders are moved, never surprised: a new generation is *probed*, *adopted*, the old one is
//! *drained*, and only then revoked.
//!
//! ```text
//!              Vault                       holders
//!  login ─▶ issue ─▶ ………………………………………… probe       new connections are made, nothing changes
//!                                           │ good
//!                                         adopt       what begins uses the new one     ◀─ current() is the new one
//!                                           │
//!                    the old one ………… drain       what runs goes on with the old one
//!                                           │ nobody left, or the overlap is over: cut
//!   revoke leases ─▶ revoke the token ◀─────┘
//! ```
//!
//! ```no_run
//! # async fn example(
//! #     vault: hive_security::vault::VaultClient,
//! #     workload: hive_security::Workload,
//! #     pool: std::sync::Arc<dyn hive_security::credentials::Holder>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use hive_security::credentials::{Credentials, Request, Settings};
//! use hive_security::vault::LoginMethod;
//!
//! let login = LoginMethod::JwtSvid { workload, role: "orders".to_owned() };
//! let requests = vec![Request::read("db", "database/creds/orders")];
//! let credentials = Credentials::open(vault, login, requests, Settings::default()).await?;
//! let _held = credentials.hold("db", pool).await?; // from now on it moves by itself
//! // …
//! credentials.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! All decisions are those of [`hive_lease::Rotation`]; the task in here performs them, and it alone knows the token.

mod board;
mod credential;
mod driver;
mod holder;
mod keep;
mod notes;
mod request;
mod slot;
mod work;

pub(crate) use board::{Board, lock};
pub use board::{CredentialStatus, RotationState, Status};
pub use credential::Credential;
pub use hive_lease::{Policy, PolicyMistake, Refresh};
pub use holder::{Holder, HolderError};
pub use keep::{Credentials, Hold, HoldError};
pub use request::{Request, Settings};

pub use crate::epoch::Error;
