//! The orchestrator, over gRPC: tickets in, outcomes out, both signed.

use crate::runner::{Assignment, Desk, Extension, Receipt};
use hive_api::orchestrator as wire;
use hive_api::orchestrator::tickets_client::TicketsClient;
use hive_api::{OUTCOME_PAYLOAD, TICKET_PAYLOAD};
use hive_plan::TicketKind;
use hive_security::connect::Channel;
use hive_security::{Envelope, IdPattern, Workload};
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

/// How long the orchestrator may keep a claim waiting for a ticket.
const WAIT_MS: u32 = 10_000;
/// How long an answer may take beyond that.
const CLAIM_PATIENCE: Duration = Duration::from_secs(15);
/// How long any other answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client of the orchestrator, with this worker's identity. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Orchestrator {
    pub(crate) client: TicketsClient<Channel>,
    pub(crate) workload: Workload,
    /// Whose signature makes a ticket one.
    pub(crate) signer: IdPattern,
    /// What this worker offers.
    pub(crate) kinds: Vec<TicketKind>,
}

/// What a claim brought.
pub(crate) enum Claimed {
    Nothing,
    Ticket(Box<Assignment>),
    /// Something that must not be executed. With an ID, it can be reported.
    Rejected {
        ticket_id: String,
        claim: u64,
        reason: String,
    },
}

impl Orchestrator {
    /// Asks for a ticket and waits a while for one.
    pub(crate) async fn claim(&self) -> Result<Claimed, Status> {
        let kinds = self.kinds.iter().map(|kind| wire::TicketKind::from(*kind).into()).collect();
        let mut request = tonic::Request::new(wire::ClaimRequest { kinds, wait_ms: WAIT_MS });
        request.set_timeout(CLAIM_PATIENCE);
        let answer = tokio::time::timeout(CLAIM_PATIENCE, self.client.clone().claim(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))??
            .into_inner();
        let Some(envelope) = answer.ticket else { return Ok(Claimed::Nothing) };
        Ok(self.judge(envelope, Duration::from_millis(answer.claim_ttl_ms)))
    }

    /// A ticket is what the orchestrator signed, for this worker, for now. Anything else is never executed.
    fn judge(&self, envelope: wire::SignedEnvelope, claim_ttl: Duration) -> Claimed {
        let envelope = Envelope {
            payload_type: envelope.payload_type,
            payload: envelope.payload,
            certificate_chain: envelope.certificate_chain,
            signature: envelope.signature,
        };
        let opened = self.workload.open(&envelope, TICKET_PAYLOAD, &self.signer);
        let ticket = match wire::Ticket::decode(envelope.payload.as_slice()) {
            Ok(ticket) => ticket,
            Err(error) => {
                return rejected(&wire::Ticket::default(), format!("it is no ticket: {error}"));
            }
        };
        let own = match (opened, self.workload.spiffe_id()) {
            (Err(refusal), _) => {
                return rejected(&ticket, format!("its signature was refused: {refusal}"));
            }
            (_, Err(error)) => {
                return rejected(&ticket, format!("this worker has no identity: {error}"));
            }
            (Ok(_), Ok(own)) => own,
        };
        match check(&ticket, &own.to_string(), crate::runner::now_ms(), &self.kinds) {
            Ok((kind, undoes)) => {
                Claimed::Ticket(Box::new(Assignment { ticket, kind, undoes, claim_ttl }))
            }
            Err(reason) => rejected(&ticket, reason),
        }
    }

    fn sign(&self, outcome: &wire::Outcome) -> Result<wire::SignedEnvelope, hive_security::Error> {
        let signed = self.workload.sign(OUTCOME_PAYLOAD, &outcome.encode_to_vec())?;
        Ok(wire::SignedEnvelope {
            payload_type: signed.payload_type,
            payload: signed.payload,
            certificate_chain: signed.certificate_chain,
            signature: signed.signature,
        })
    }
}

impl Desk for Orchestrator {
    async fn extend(&self, ticket_id: &str, claim: u64) -> Extension {
        let mut request =
            tonic::Request::new(wire::ExtendRequest { ticket_id: ticket_id.to_owned(), claim });
        request.set_timeout(PATIENCE);
        match self.client.clone().extend(request).await.map(tonic::Response::into_inner) {
            Ok(wire::ExtendResponse { stop: true, reason }) => Extension::Stop(reason),
            Ok(_) => Extension::Alive,
            Err(status) if is_final(status.code()) => Extension::Lost(sentence(&status)),
            Err(status) => Extension::Unreachable(sentence(&status)),
        }
    }

    async fn report(&self, outcome: &wire::Outcome) -> Receipt {
        // Signed at each try: the identity may have been renewed since the last.
        let outcome = match self.sign(outcome) {
            Ok(outcome) => Some(outcome),
            Err(error) => return Receipt::Unreachable(hive_runtime::errors::chain(&error)),
        };
        let mut request = tonic::Request::new(wire::ReportRequest { outcome });
        request.set_timeout(PATIENCE);
        match self.client.clone().report(request).await {
            Ok(_) => Receipt::Accepted,
            Err(status) if is_final(status.code()) || is_hopeless(status.code()) => {
                Receipt::Refused(sentence(&status))
            }
            Err(status) => Receipt::Unreachable(sentence(&status)),
        }
    }
}

fn rejected(ticket: &wire::Ticket, reason: String) -> Claimed {
    Claimed::Rejected { ticket_id: ticket.ticket_id.clone(), claim: ticket.claim, reason }
}

/// Everything about a ticket that its signature does not say.
fn check(
    ticket: &wire::Ticket,
    own: &str,
    now_ms: i64,
    offered: &[TicketKind],
) -> Result<(TicketKind, bool), String> {
    if ticket.claimed_by != own {
        return Err(format!("it was claimed by {:?}, and this is {own}", ticket.claimed_by));
    }
    if ticket.deadline_ms <= now_ms {
        return Err(format!("its deadline passed {} ms ago", now_ms - ticket.deadline_ms));
    }
    let kind = wire::TicketKind::domain("kind", ticket.kind).map_err(|error| error.to_string())?;
    let undoes = kind == TicketKind::Compensate;
    let kind = match undoes {
        true => {
            wire::TicketKind::domain("undoes", ticket.undoes).map_err(|error| error.to_string())?
        }
        false => kind,
    };
    if !offered.contains(&kind) || kind == TicketKind::Compensate {
        return Err(format!("this worker does not offer {kind}"));
    }
    Ok((kind, undoes))
}

/// The orchestrator knows the claim, and says that it is over.
fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::NotFound)
}

/// The same call can only be answered the same way.
fn is_hopeless(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented)
}

pub(crate) fn sentence(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "spiffe://example.org/ns/neural-hive-execution/sa/worker-agents/worker-1";
    const OFFERED: [TicketKind; 2] = [TicketKind::Deploy, TicketKind::Compensate];

    fn ticket(kind: wire::TicketKind) -> wire::Ticket {
        wire::Ticket {
            claimed_by: OWN.to_owned(),
            deadline_ms: 1_000,
            kind: kind.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_ticket_for_this_worker_and_for_now_is_accepted() {
        let accepted = check(&ticket(wire::TicketKind::Deploy), OWN, 999, &OFFERED);
        assert_eq!(accepted, Ok((TicketKind::Deploy, false)));
    }

    #[test]
    fn an_undo_is_of_the_kind_that_it_undoes() {
        let undo = wire::Ticket {
            undoes: wire::TicketKind::Deploy.into(),
            ..ticket(wire::TicketKind::Compensate)
        };
        assert_eq!(check(&undo, OWN, 0, &OFFERED), Ok((TicketKind::Deploy, true)));
    }

    #[test]
    fn whatever_is_wrong_with_a_ticket_is_said() {
        let good = ticket(wire::TicketKind::Deploy);
        let compensate = wire::TicketKind::Compensate;
        let table = [
            (wire::Ticket { claimed_by: format!("{OWN}0"), ..good.clone() }, "claimed by"),
            (wire::Ticket { deadline_ms: 500, ..good.clone() }, "deadline passed 0 ms ago"),
            (ticket(wire::TicketKind::Query), "does not offer QUERY"),
            (wire::Ticket { kind: 99, ..good }, "kind has no meaning here: 99"),
            (ticket(compensate), "undoes has no meaning here: 0"),
            (
                wire::Ticket { undoes: compensate.into(), ..ticket(compensate) },
                "does not offer COMPENSATE",
            ),
        ];
        for (ticket, expected) in table {
            let reason = check(&ticket, OWN, 500, &OFFERED).expect_err(expected);
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
