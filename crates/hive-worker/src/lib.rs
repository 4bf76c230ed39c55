//! Executes tickets: one deadline and one outcome each.
//!
//! ```text
//!  orchestrator ◀─ Claim ── inbox ──▶ runner ──▶ epoch (Vault) ──▶ credentials (files)
//!               ◀─ Extend ────────────┤                                  │
//!               ◀─ Report ────────────┘◀── outcome ── executor ◀─────────┘
//!                                                        └─▶ sandbox ──▶ the command
//!  registry     ◀─ Register, Heartbeat ── heartbeat
//! ```
//!
//! What it deliberately does not know: plans. It sees one ticket at a time, never why it exists or what comes next.

pub mod artifacts;
pub mod config;
pub mod credentials;
pub mod executors;
pub mod runner;
pub mod sandbox;
pub mod workspace;

mod backoff;
mod heartbeat;
mod hex;
mod inbox;
mod lender;
mod notices;
mod orchestrator;
mod service;
mod tally;
mod tree;

pub use config::Config;
pub use service::{Error, run};
