//! The whole stack, driven through the built binary as its users drive it.

mod agents;
mod bad_input;
mod cleanup;
mod cores;
mod dev_lender;
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
#[path = "../../../hive-dev/tests/it/faults/logs.rs"]
mod logs;
mod plans;
mod registry_import;
#[cfg(feature = "etcd")]
mod replicas;
#[path = "../../../hive-security/tests/scripted/mod.rs"]
mod scripted;
mod search;
mod secrets;
mod secrets_rotating;
mod stranger;
