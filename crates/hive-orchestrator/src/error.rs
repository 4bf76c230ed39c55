//! What can keep the orchestrator from serving, and why it refuses a call.

use crate::store::StoreError;
use hive_plan::{PlanId, TicketId};
use std::io;
use std::net::SocketAddr;
use tonic::Status;

/// Why the orchestrator ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The conductor ended although nobody asked it to.
    #[error("the conductor ended unexpectedly; its last log line says where")]
    Conductor(#[source] tokio::task::JoinError),
    /// What memory holds and what the log allows are two things; the log is right, so start again from it.
    #[error("{ticket} was queued, but its plan says: {reason}; start again from the log")]
    Diverged {
        /// The ticket.
        ticket: TicketId,
        /// What the plan said.
        reason: String,
    },
    /// This process cannot prove who it is.
    #[error(
        "the orchestrator has no usable identity; see whether the SPIFFE Workload API knows this process"
    )]
    Identity(#[source] hive_security::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another HIVE_LISTEN or stop what holds it")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A plan of the log does not lead to where the log says it led.
    #[error("plan {plan_id} cannot be recovered from its log: {reason}")]
    Recovery {
        /// The plan.
        plan_id: PlanId,
        /// What does not fit.
        reason: String,
    },
    /// The server ended although nobody asked it to.
    #[error("the gRPC server failed")]
    Serve(#[source] tonic::transport::Error),
    /// The log cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a call was refused. The text says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("plan ID {prefix} could mean {first}, {second} and maybe more; write more of it")]
    Ambiguous { prefix: String, first: PlanId, second: PlanId },
    #[error("{0}")]
    Denied(String),
    #[error("{what}: the orchestrator's limit; {remedy}")]
    Full { what: String, remedy: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error("claim {claim} is held by {holder}, not by {caller}")]
    NotTheClaimant { claim: u64, holder: String, caller: String },
    #[error("claim {claim} ended with another outcome; that one was applied, so drop this one")]
    OtherOutcome { claim: u64 },
    #[error(
        "claim {claim} of {ticket} no longer counts; stop the work, drop its outcome and claim anew"
    )]
    Stale { claim: u64, ticket: TicketId },
    #[error("the orchestrator is stopping; ask again in a moment")]
    Stopping,
    #[error("submission {0} was already used for another plan; choose a new submission_id")]
    SubmissionReused(String),
    #[error("the orchestrator cannot sign: {0}; ask again in a moment")]
    Unsigned(String),
    #[error("there is no plan {0}; list them to see which there are")]
    UnknownPlan(String),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Ambiguous { .. } | Refused::Invalid(_) => Self::invalid_argument(text),
            Refused::Full { .. } => Self::resource_exhausted(text),
            Refused::Denied(_) | Refused::NotTheClaimant { .. } => Self::permission_denied(text),
            Refused::OtherOutcome { .. } | Refused::Stale { .. } => Self::failed_precondition(text),
            Refused::Stopping | Refused::Unsigned(_) => Self::unavailable(text),
            Refused::SubmissionReused(_) => Self::already_exists(text),
            Refused::UnknownPlan(_) => Self::not_found(text),
        }
    }
}
