//! Tickets out, outcomes in: signed in both directions, so that whoever carries them can neither invent nor change one.

use crate::conductor::{HandedOut, Handle};
use crate::error::Refused;
use crate::store::Received;
use hive_api::names::WORKERS;
use hive_api::orchestrator::{
    ClaimRequest, ClaimResponse, Credential, ExtendRequest, ExtendResponse, Outcome, ReportRequest,
    SignedEnvelope, Ticket, TicketKind,
};
use hive_api::{OUTCOME_PAYLOAD, TICKET_PAYLOAD};
use hive_plan::{Direction, TicketId};
use hive_security::{Envelope, IdPattern, SpiffeId, Workload};
use prost::Message;
use std::time::Duration;

/// A claim waits this long at most: below the patience of whatever stands between worker and orchestrator.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Kinds in one claim, at most: there are no more of them.
const KINDS_MAX: usize = 8;
/// Bytes of all outputs of one ticket, at most: they are small facts, kept in the log for good.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Characters of an outcome's message that are kept: it is one sentence, and a view shows a thousand of them twice.
const MESSAGE_CHARS_MAX: usize = 500;

/// What is handed out and taken in.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    conductor: Handle,
    workload: Workload,
    workers: IdPattern,
    claim_ttl: Duration,
}

impl Dispatch {
    pub(crate) fn new(
        conductor: Handle,
        workload: Workload,
        claim_ttl: Duration,
    ) -> Result<Self, hive_security::Error> {
        let workers = IdPattern::in_trust_domain(&workload.trust_domain(), WORKERS.path)?;
        Ok(Self { conductor, workload, workers, claim_ttl })
    }

    /// Waits for a ticket and signs it.
    pub(crate) async fn claim(
        &self,
        worker: &SpiffeId,
        request: ClaimRequest,
    ) -> Result<ClaimResponse, Refused> {
        let kinds = kinds(&request)?;
        let wait = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        // Without a key nothing can be signed, and a claim that is never delivered would have to run out.
        self.workload.x509_svid().map_err(|error| Refused::Unsigned(error.to_string()))?;
        let handed_out = self.conductor.claim(worker.to_string(), kinds, wait).await?;
        let ticket = handed_out.map(|handed_out| self.signed(handed_out)).transpose()?;
        let claim_ttl_ms = u64::try_from(self.claim_ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(ClaimResponse { ticket, claim_ttl_ms })
    }

    /// Keeps a claim alive.
    pub(crate) async fn extend(
        &self,
        caller: &SpiffeId,
        request: ExtendRequest,
    ) -> Result<ExtendResponse, Refused> {
        let ticket = ticket_id(&request.ticket_id)?;
        let stop = self.conductor.extend(caller.to_string(), ticket, request.claim).await?;
        Ok(ExtendResponse { stop: stop.is_some(), reason: stop.unwrap_or_default() })
    }

    /// Takes in an outcome. Returns once it is durable.
    pub(crate) async fn report(
        &self,
        caller: &SpiffeId,
        request: ReportRequest,
    ) -> Result<(), Refused> {
        let envelope = request.outcome.ok_or_else(|| invalid("the report holds no outcome"))?;
        let encoded = envelope.encode_to_vec();
        let envelope = from_wire(envelope);
        let signer = self
            .workload
            .open(&envelope, OUTCOME_PAYLOAD, &self.workers)
            .map_err(|refusal| Refused::Denied(format!("the outcome was refused: {refusal}")))?;
        if signer != *caller {
            return Err(Refused::Denied(format!(
                "the outcome is signed by {signer}, but {caller} reports it; report your own work"
            )));
        }
        let outcome = Outcome::decode(envelope.payload.as_slice())
            .map_err(|error| invalid(&format!("the outcome cannot be decoded: {error}")))?;
        self.conductor.report(received(&signer, &outcome, encoded)?).await
    }

    fn signed(&self, handed_out: HandedOut) -> Result<SignedEnvelope, Refused> {
        let payload = ticket(handed_out).encode_to_vec();
        let envelope = self.workload.sign(TICKET_PAYLOAD, &payload);
        envelope.map(to_wire).map_err(|error| Refused::Unsigned(error.to_string()))
    }
}

/// The ticket on the wire.
fn ticket(handed_out: HandedOut) -> Ticket {
    let HandedOut { ticket, plan_name, workspace, spec, attempt, claim, issued_at, .. } =
        handed_out;
    let kind = TicketKind::from(spec.kind);
    let (kind, undoes) = match ticket.direction {
        Direction::Forward => (kind, TicketKind::Unspecified),
        Direction::Undo => (TicketKind::Compensate, kind),
    };
    Ticket {
        ticket_id: ticket.to_string(),
        plan_id: ticket.plan.to_string(),
        plan_name,
        name: ticket.ticket.to_string(),
        kind: kind.into(),
        undoes: undoes.into(),
        attempt,
        claim: claim.number,
        claimed_by: claim.worker,
        issued_at_ms: issued_at.0,
        deadline_ms: claim.deadline.0,
        timeout_ms: u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX),
        workspace,
        parameters_json: serde_json::Value::Object(handed_out.parameters).to_string(),
        credentials: spec.credentials.iter().map(Credential::from).collect(),
        outputs: handed_out.outputs.into_iter().collect(),
    }
}

fn received(signer: &SpiffeId, outcome: &Outcome, envelope: Vec<u8>) -> Result<Received, Refused> {
    let mut kept =
        hive_plan::Outcome::try_from(outcome).map_err(|error| invalid(&error.to_string()))?;
    let bytes: usize = kept.outputs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > OUTPUT_BYTES_MAX {
        return Err(invalid(&format!(
            "the outputs have {bytes} bytes, at most {OUTPUT_BYTES_MAX} are kept; report FAILED, or put out less"
        )));
    }
    if let Some((end, _)) = kept.message.char_indices().nth(MESSAGE_CHARS_MAX) {
        kept.message.truncate(end);
        kept.message.push('…');
    }
    Ok(Received {
        claim: outcome.claim,
        ticket: ticket_id(&outcome.ticket_id)?,
        worker: signer.to_string(),
        outcome: kept,
        envelope,
    })
}

fn kinds(request: &ClaimRequest) -> Result<Vec<hive_plan::TicketKind>, Refused> {
    if request.kinds.is_empty() || request.kinds.len() > KINDS_MAX {
        return Err(invalid(&format!("a claim names 1 to {KINDS_MAX} kinds")));
    }
    let kind = |value: &i32| TicketKind::domain("claim.kinds", *value);
    let kinds: Result<_, _> = request.kinds.iter().map(kind).collect();
    kinds.map_err(|error| invalid(&error.to_string()))
}

fn ticket_id(text: &str) -> Result<TicketId, Refused> {
    TicketId::parse(text).map_err(|error| invalid(&error.to_string()))
}

fn invalid(text: &str) -> Refused {
    Refused::Invalid(text.to_owned())
}

fn to_wire(envelope: Envelope) -> SignedEnvelope {
    let Envelope { payload_type, payload, certificate_chain, signature } = envelope;
    SignedEnvelope { payload_type, payload, certificate_chain, signature }
}

fn from_wire(envelope: SignedEnvelope) -> Envelope {
    let SignedEnvelope { payload_type, payload, certificate_chain, signature } = envelope;
    Envelope { payload_type, payload, certificate_chain, signature }
}

#[cfg(test)]
mod tests;
