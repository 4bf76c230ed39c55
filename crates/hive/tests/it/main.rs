//! The whole stack, driven through the built binary as its users drive it.

mod bad_input;
mod cleanup;
mod durability;
mod harness;
mod identity;
mod plans;
mod secrets;
mod stranger;
