//! For servers: who calls, and what they may.

mod admission;
mod age;
mod answer;
mod authenticate;
mod counts;
#[cfg(feature = "axum")]
mod extract;
mod guarded;
mod incoming;
mod log;
mod peer;
mod plain;
mod policy;
mod proof;
#[cfg(test)]
mod tests;

pub use age::ConnectionAge;
pub use authenticate::{Authenticate, Authenticated};
pub use counts::{Counts, Tally};
pub use guarded::Guarded;
pub(crate) use incoming::HandshakeCounts;
pub use incoming::{Handshakes, Incoming, TlsConnection, incoming};
pub use peer::{How, Peer, PeerCertificate, VerifiedCertificate, peer};
pub use plain::serve_http;
pub use policy::{Decision, MethodPolicy, Mistake, Mistakes, PolicyHandle, RuleId, Who};
pub use proof::Proof;
