//! What can go wrong around a service whose credentials come from Vault, each thing on purpose: our vault, a real
//! PostgreSQL, a service under load, and a clock that the tests turn.
//!
//! Each test ends in one of two ways: no operation of any user failed, or everything failed closed, with a typed error,
//! within a second of the moment at which the credential truly ended.
//! Which fault is shown where, and what a user sees of it: `docs/decisions/faults.md`.

mod answers;
mod busy;
mod cable;
mod clocks;
mod database;
mod ends;
mod identity;
mod limits;
mod load;
mod logs;
mod operator;
mod real;
mod rhythm;
mod scene;
mod server;
mod shutdown;
mod stage;
mod together;
mod world;
