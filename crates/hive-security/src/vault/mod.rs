//! The Vault HTTP API, as much of it as a workload needs: a dozen typed calls that keep every lease and warning.
//!
//! A call is made once. The client never repeats what may have created a token or a lease, follows no redirect, uses
//! no proxy, and neither logs nor returns the body of an answer that it did not understand.

mod client;
mod error;
mod http;
mod login;

pub use client::{Answer, Health, Lease, Login, Renewal, TokenFacts, VaultClient, VaultConfig};
pub use error::VaultError;
pub use login::{LoginError, LoginMethod};
