//! Between what travels and what the domain means: total in one direction, checked in the other.

use crate::orchestrator as wire;
use hive_plan::{CredentialRequest, Outcome, OutcomeStatus, PlanStatus, TicketKind};

/// The DSSE payload type of a signed ticket.
pub const TICKET_PAYLOAD: &str = "application/vnd.neural-hive.ticket.v1+protobuf";

/// The DSSE payload type of a signed outcome.
pub const OUTCOME_PAYLOAD: &str = "application/vnd.neural-hive.outcome.v1+protobuf";

/// A message that no version of this protocol allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// An enumeration has a value that this version does not know, or none at all.
    #[error("{field} has no meaning here: {value}; the peer may be of another version")]
    UnknownValue {
        /// The field that holds it.
        field: &'static str,
        /// The number that came.
        value: i32,
    },
}

impl From<TicketKind> for wire::TicketKind {
    fn from(kind: TicketKind) -> Self {
        match kind {
            TicketKind::Build => Self::Build,
            TicketKind::Compensate => Self::Compensate,
            TicketKind::Deploy => Self::Deploy,
            TicketKind::Execute => Self::Execute,
            TicketKind::Query => Self::Query,
            TicketKind::Test => Self::Test,
            TicketKind::Transform => Self::Transform,
            TicketKind::Validate => Self::Validate,
        }
    }
}

impl wire::TicketKind {
    /// The kind that a field of this name holds.
    pub fn domain(field: &'static str, value: i32) -> Result<TicketKind, ConvertError> {
        match Self::try_from(value) {
            Ok(Self::Build) => Ok(TicketKind::Build),
            Ok(Self::Compensate) => Ok(TicketKind::Compensate),
            Ok(Self::Deploy) => Ok(TicketKind::Deploy),
            Ok(Self::Execute) => Ok(TicketKind::Execute),
            Ok(Self::Query) => Ok(TicketKind::Query),
            Ok(Self::Test) => Ok(TicketKind::Test),
            Ok(Self::Transform) => Ok(TicketKind::Transform),
            Ok(Self::Validate) => Ok(TicketKind::Validate),
            Ok(Self::Unspecified) | Err(_) => Err(ConvertError::UnknownValue { field, value }),
        }
    }
}

impl From<PlanStatus> for wire::PlanStatus {
    fn from(status: PlanStatus) -> Self {
        match status {
            PlanStatus::Cancelled => Self::PlanCancelled,
            PlanStatus::Done => Self::PlanDone,
            PlanStatus::Failed => Self::PlanFailed,
            PlanStatus::Running => Self::PlanRunning,
            PlanStatus::Stuck => Self::PlanStuck,
            PlanStatus::Unwinding => Self::PlanUnwinding,
        }
    }
}

impl From<OutcomeStatus> for wire::OutcomeStatus {
    fn from(status: OutcomeStatus) -> Self {
        match status {
            OutcomeStatus::Done => Self::Done,
            OutcomeStatus::Failed => Self::Failed,
            OutcomeStatus::FailedRetryable => Self::FailedRetryable,
            OutcomeStatus::Withdrawn => Self::Withdrawn,
        }
    }
}

impl TryFrom<&wire::Outcome> for Outcome {
    type Error = ConvertError;

    fn try_from(outcome: &wire::Outcome) -> Result<Self, ConvertError> {
        let status = match wire::OutcomeStatus::try_from(outcome.status) {
            Ok(wire::OutcomeStatus::Done) => OutcomeStatus::Done,
            Ok(wire::OutcomeStatus::Failed) => OutcomeStatus::Failed,
            Ok(wire::OutcomeStatus::FailedRetryable) => OutcomeStatus::FailedRetryable,
            Ok(wire::OutcomeStatus::Withdrawn) => OutcomeStatus::Withdrawn,
            Ok(wire::OutcomeStatus::Unspecified) | Err(_) => {
                return Err(ConvertError::UnknownValue {
                    field: "outcome.status",
                    value: outcome.status,
                });
            }
        };
        let outputs = outcome.outputs.clone().into_iter().collect();
        Ok(Self { status, outputs, message: outcome.message.clone() })
    }
}

impl From<&CredentialRequest> for wire::Credential {
    fn from(request: &CredentialRequest) -> Self {
        Self { name: request.name.clone(), path: request.path.clone(), optional: request.optional }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in
            ["BUILD", "COMPENSATE", "DEPLOY", "EXECUTE", "QUERY", "TEST", "TRANSFORM", "VALIDATE"]
        {
            let kind: TicketKind = kind.parse().expect("it is a kind");
            let sent = wire::TicketKind::from(kind) as i32;
            assert_eq!(wire::TicketKind::domain("kind", sent), Ok(kind));
        }
    }

    #[test]
    fn a_value_of_another_version_is_refused_and_named() {
        let refused = wire::TicketKind::domain("ticket.kind", 99);
        assert_eq!(refused, Err(ConvertError::UnknownValue { field: "ticket.kind", value: 99 }));
        let outcome = wire::Outcome { status: 0, ..Default::default() };
        assert!(Outcome::try_from(&outcome).is_err());
    }
}
