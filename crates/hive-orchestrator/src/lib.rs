//! Carries plans: tickets out, outcomes in.
//!
//! The embedded engine: a log in SQLite, one conductor that owns every running plan, and workers that claim tickets
//! over gRPC. What happens next is decided by `hive_plan::Saga`, a fold over the log; here it is stored, in one
//! transaction with the work it asks for, and carried out. So a process that is killed at any moment continues where
//! its log ends, and an outcome is applied once.
//!
//! What it deliberately does not know: how a ticket is executed, and any secret that a ticket uses.
//!
//! ```text
//!  operator ──Submit───────▶ intake ────┐                        ┌──▶ Saga (decides)
//!                                       ├─▶ conductor (one task) ┼──▶ store (one transaction an event)
//!  worker ──Claim, Report──▶ dispatch ──┘     ▲                  └──▶ queue (in memory, mirrors the store)
//!         ◀─signed ticket───                  └── time: claims run out, deadlines pass
//! ```
//!
//! Claims carry a fencing number that only grows. A worker that is not heard of loses its claim, and whatever it
//! reports afterwards is refused.

mod conductor;
mod config;
mod dispatch;
mod error;
mod intake;
mod queue;
mod server;
mod store;
mod view;

pub use config::Config;
pub use error::Error;
pub use server::run;
pub use store::StoreError;
