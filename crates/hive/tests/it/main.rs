//! The whole stack, driven through the built binary as its users drive it.

mod bad_input;
mod cleanup;
mod doctor;
#[cfg(feature = "kafka")]
mod doctor_kafka;
mod doctor_vault;
mod durability;
mod exec;
mod harness;
mod identity;
mod lease;
mod lender;
mod plans;
#[path = "../../../hive-security/tests/scripted/mod.rs"]
mod scripted;
mod secrets;
mod stranger;
