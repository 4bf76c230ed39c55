//! Who is alive and what they can do: agents register, everybody else asks.
//!
//! An agent belongs to the SPIFFE ID that registered it. Membership is kept in a store; heartbeats, questions and
//! watches are answered from memory, which follows the store. A silent agent is suspect, then dead, then forgotten; the
//! dead are never offered. When many fall silent together, nobody dies for a while.
//!
//! What it deliberately does not know: tickets, plans, and what a capability means.
//!
//! ```text
//!  agent ───Register, Heartbeat, Attend──▶ service ──▶ replica: directory, liveness, watch log (no I/O, time handed in)
//!  others ──Discover, List, Watch, Notify─▶   │            │ changes            ▲ feed
//!                                             └──▶ node ───┴──────▶ store ──────┘
//! ```

mod agent;
mod attend;
#[cfg(feature = "bench")]
pub mod bench;
mod bounds;
mod census;
mod config;
mod directory;
mod discovery;
mod encoding;
mod error;
mod exposition;
mod filter;
mod forward;
mod import;
mod index;
mod liveness;
mod metrics;
mod node;
mod questions;
mod replica;
mod server;
mod service;
mod store;
mod watch;
mod watching;
mod wire;

pub use config::{Config, StoreConfig};
pub use error::Error;
pub use server::run;
#[cfg(feature = "etcd")]
pub use store::EtcdConfig;
pub use store::FileError;
