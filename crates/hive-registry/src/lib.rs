//! Who is alive and what they can do: workers register, everybody else asks.
//!
//! The registry is held in memory alone. One that was restarted answers heartbeats with `NOT_FOUND`, whereupon
//! workers register again: after one heartbeat interval it knows its agents as before. An agent belongs to the
//! SPIFFE ID that registered it, and a silent agent is not discoverable.
//!
//! What it deliberately does not know: tickets, plans, and what a capability means.
//!
//! ```text
//!  worker ──Register, Heartbeat──▶ server ──▶ Directory (registration.rs)
//!  orchestrator ──Discover───────▶ server ──▶ discovery.rs ◀── liveness.rs (time handed in)
//! ```

mod config;
mod discovery;
mod error;
mod liveness;
mod registration;
mod server;

pub use config::Config;
pub use error::Error;
pub use server::run;
