//! The wires: protocol buffers, the code generated from them, and the conversions to domain types.
//!
//! What it deliberately does not know: how a message is authenticated, stored or acted upon.

mod convert;
pub mod names;

pub use convert::{ConvertError, OUTCOME_PAYLOAD, TICKET_PAYLOAD};

/// `neural_hive.orchestrator.v1`: plans in, tickets out, outcomes in.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod orchestrator {
    tonic::include_proto!("neural_hive.orchestrator.v1");
}

/// `neural_hive.service_registry`: the predecessor's contract, with its field numbers.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod registry {
    tonic::include_proto!("neural_hive.service_registry");

    /// What server reflection tells of the service: an encoded `FileDescriptorSet`.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("service_registry");
}
