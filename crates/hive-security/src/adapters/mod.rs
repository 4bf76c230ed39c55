//! Holders for the clients that services use, each behind the feature that is named after its library.
//!
//! # gRPC, Temporal and whatever else speaks TLS
//!
//! There is nothing to adopt: the X.509-SVID and the bundles are read at every handshake, so a connection that is made
//! after a rotation uses the new ones. Old connections end by their age.
//!
//! ```no_run
//! # async fn example(workload: hive_security::Workload) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::{Audience, IdPattern, connect, tls};
//!
//! // tonic: a channel that also carries the JWT-SVID, and replaces its connections.
//! let stock = IdPattern::in_trust_domain(&workload.trust_domain(), "/ns/shop/sa/stock")?;
//! let audience = Audience::parse("stock.shop")?;
//! let channel = connect::channel(&workload, "https://stock.shop:7001", stock.clone(), audience)?;
//! // Clients that take a config of rustls, such as those of hyper and reqwest.
//! let config = tls::client_config(&workload, stock)?;
//! // The Temporal SDK: `TlsOptions { client_cert_resolver, server_cert_verifier, .. }` of its feature `dynamic-tls`.
//! let frontend = IdPattern::in_trust_domain(&workload.trust_domain(), "/ns/temporal/sa/frontend")?;
//! let client_cert_resolver = tls::client_cert_resolver(&workload);
//! let server_cert_verifier = tls::server_cert_verifier(&workload, frontend);
//! # let _ = (channel, config, client_cert_resolver, server_cert_verifier);
//! # Ok(())
//! # }
//! ```
//!
//! The Temporal SDK refuses these two together with its load balancing by DNS, which must be set to none. The frontend
//! closes connections after five minutes (`frontend.keepAliveMaxConnectionAge`); X.509-SVIDs should live twice as long.

#[cfg(feature = "deadpool-postgres")]
pub mod deadpool_postgres;
pub mod files;
pub mod http;
mod login;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
mod postgres;
#[cfg(feature = "rdkafka")]
pub mod rdkafka;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlx")]
pub mod sqlx;

pub use login::Barred;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
pub use postgres::Doubt;

#[cfg(all(
    test,
    feature = "deadpool-postgres",
    feature = "rdkafka",
    feature = "redis",
    feature = "sqlx"
))]
mod tests;
