//! For servers: who calls, and what they may.

mod authenticate;
mod incoming;
mod peer;
mod policy;

pub use authenticate::{Authenticate, Authenticated};
pub use incoming::{TlsConnection, incoming};
pub use peer::{Peer, PeerCertificate, peer};
pub use policy::MethodPolicy;
