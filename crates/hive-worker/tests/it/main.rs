//! The executors and the sandbox, with real programs on a real kernel.

#![allow(clippy::unwrap_used, missing_docs)]
// A parameter map is written where it is handed over.
#![allow(clippy::needless_pass_by_value)]

mod executors;
mod sandbox;
mod service;
mod world;
