//! Development servers on the real wires, and every test's fixture.
//!
//! - [`authority`]: the SPIFFE Workload API, with attestation of real processes and real rotation;
//! - [`vault`]: the HTTP API of Vault and OpenBao, with leases that truly end;
//! - [`postgres`], [`redis`], [`kafka`], [`etcd`], [`openbao`]: throw-away instances of the real ones, and [`tools`], where
//!   their programs are;
//! - [`proxy`]: stands before one of them, or before a real one, and loses, delays and spoils answers;
//! - [`witness`]: tells a test which secrets these servers issued, so that it can search for them.
//!
//! Services find them where they would find the real ones, and cannot tell the difference. This crate deliberately
//! knows nothing of plans, workers or the registry, and no production crate depends on it.
//!
//! # Test your SPIFFE client in ten lines
//!
//! Any client will do; here it is the crate `spiffe`. The authority runs inside the test and is gone with it.
//!
//! ```
//! # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
//! use hive_dev::authority::{Authority, AuthorityConfig, Entry};
//!
//! let directory = tempfile::tempdir()?;
//! let authority = Authority::start(AuthorityConfig::new(directory.path().join("api.sock"))).await?;
//! authority.add_entry(Entry::of_process("/ns/shop/sa/cart", std::process::id()))?;
//!
//! let source = spiffe::X509Source::builder().endpoint(authority.endpoint()).build().await?;
//! assert_eq!(source.svid()?.spiffe_id().path(), "/ns/shop/sa/cart");
//!
//! authority.rotate_x509().await?; // your client keeps working, or your test fails
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).expect("it works");
//! ```
//!
//! # Test your Vault code in ten lines
//!
//! Any client will do; here it is plain HTTP. The clock is the test's, so that an hour takes no time.
//!
//! ```
//! # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
//! use hive_dev::{vault::{Setup, Vault}, witness::Witness};
//! use hive_security::{clock::Clock, vault::{VaultClient, VaultConfig}};
//!
//! let (clock, hands) = Clock::by_hand();
//! let vault = Vault::start_with_clock(Setup::danger_root("root"), Witness::none(), clock).await?;
//! let client = VaultClient::new(VaultConfig::at(&vault.address))?;
//! let root = secrecy::SecretString::from("root");
//! assert!(client.lookup_self(&root).await.is_ok());
//!
//! vault.set_sealed(true); // your client waits, or your test fails
//! assert!(client.lookup_self(&root).await.is_err());
//! hands.advance(std::time::Duration::from_secs(3600));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).expect("it works");
//! ```
//!
//! Over TLS, with or without a certificate of the client's (the auth method `cert` is there, too), it is one line more:
//!
//! ```
//! # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
//! # use hive_dev::{vault::{Setup, Tls, Vault}, witness::Witness};
//! # use hive_security::vault::{VaultClient, VaultConfig};
//! let setup = Setup { tls: Some(Tls::default()), ..Setup::danger_root("root") };
//! let vault = Vault::start(setup, Witness::none()).await?;
//! let tls = vault.tls.clone().expect("it was asked for");
//! let client =
//!     VaultClient::new(VaultConfig { ca_pem: tls.ca_pem, ..VaultConfig::at(&tls.address) })?;
//! assert!(client.health().await.is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).expect("it works");
//! ```

mod algorithms;
pub mod authority;
mod calls;
pub mod etcd;
pub mod kafka;
pub mod openbao;
pub mod postgres;
pub mod proxy;
pub mod redis;
mod server;
pub mod tools;
pub mod vault;
mod web;
pub mod witness;
