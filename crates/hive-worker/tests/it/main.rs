//! The executors and the sandbox, with real programs on a real kernel.

#![allow(clippy::unwrap_used, missing_docs)]

mod executors;
mod sandbox;
mod service;
mod world;
