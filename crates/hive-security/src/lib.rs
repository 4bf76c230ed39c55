//! Who this workload is, and what it may use.
//!
//! One thing to import for a service that holds no secret. Its identity comes from the SPIFFE Workload API and
//! is replaced while the service runs, without anyone noticing; servers know their callers by name, clients know
//! the servers they call, and payloads can be signed for those who come later.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use hive_security::serve::{Authenticate, MethodPolicy, incoming};
//! use hive_security::{Audience, IdPattern, Workload, WorkloadConfig, connect};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = CancellationToken::new();
//! let config = WorkloadConfig::new("unix:///run/spire/agent/api.sock", Duration::from_secs(30));
//! let (workload, upkeep) = Workload::attach(config).await?;
//! tokio::spawn(upkeep.run(stop.clone()));
//!
//! // A server: who may call what.
//! let workers = IdPattern::in_trust_domain(&workload.trust_domain(), "/ns/*/sa/worker-agents/**")?;
//! let policy = MethodPolicy::new().allow("/shop.v1.Orders/*", workers);
//! let audience = Audience::of_service("orders", &workload.trust_domain())?;
//! let layer = Authenticate::new(&workload, audience, policy);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7000").await?;
//! let connections = incoming(listener, &workload)?;
//! # let _ = (layer, connections);
//! // tonic::transport::Server::builder().layer(layer).add_service(…).serve_with_incoming(connections)
//!
//! // A client: whom it expects, and whom its JWT-SVID is for.
//! let stock = IdPattern::in_trust_domain(&workload.trust_domain(), "/ns/shop/sa/stock")?;
//! let audience = Audience::of_service("stock", &workload.trust_domain())?;
//! let channel = connect::channel(&workload, "https://127.0.0.1:7001", stock, audience)?;
//! # let _ = channel;
//! // StockClient::new(channel)
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   Workload API ──X.509-SVID, bundles──▶ Rotating ──▶ tls      every handshake reads the current ones
//!        │       ──JWT bundles──────────▶ Rotating ──▶ serve    every call is verified by the current ones
//!        └─────────JWT-SVIDs, as asked──▶ per audience ─▶ connect
//!   bundle endpoints ──────bundles───────▶ Rotating ──▶ federation   who has no Workload API that does it
//! ```
//!
//! What it deliberately does not know: where it runs (there is no development mode; a development authority is
//! another Workload API), what the services do, and any fallback to something weaker. It emits `tracing` events
//! and opens no port of its own accord.

pub mod adapters;
pub mod clock;
pub mod connect;
pub mod credentials;
pub mod epoch;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod issuer;
pub mod metrics;
mod refusal;
pub mod rotating;
mod secret;
pub mod serve;
mod sign;
mod spiffe;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod vault;
mod workload;

pub use crate::spiffe::bundle::{JwtBundle, X509Bundle};
pub use crate::spiffe::federation;
pub use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
pub use crate::spiffe::jwt::JwtSvidFetches;
pub use crate::spiffe::pattern::IdPattern;
pub use crate::spiffe::probe::{Clocks, ProbeError, Probed, probe};
pub use crate::spiffe::source::{JwtBundles, X509Material};
pub use crate::spiffe::svid::{JwtSvid, X509Svid};
pub use crate::spiffe::trust::Usage;
pub use crate::spiffe::verify::{BundleDocument, BundleMap, VerifiedJwt, Verifier};
pub use error::{Cause, Error};
pub use refusal::Refusal;
pub use secret::{SecretJson, SecretShape};
pub use sign::Envelope;
pub use workload::{Endpoint, Upkeep, Workload, WorkloadConfig, WrongSetting};
