//! The inbox: each free slot asks for a ticket, runs it, and asks again.
//!
//! A slot holds one ticket from its claim to the acknowledgement of its outcome, so a worker never has more
//! than it can execute, and nothing waits inside it.

use crate::backoff::Backoff;
use crate::lender::VaultLender;
use crate::orchestrator::{Claimed, Orchestrator, sentence};
use crate::runner::{Assignment, Runner, now_ms};
use crate::tally::Tally;
use hive_api::orchestrator as wire;
use std::sync::Arc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// One slot.
pub(crate) struct Slot {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) runner: Arc<Runner<Orchestrator, VaultLender>>,
    pub(crate) tally: Arc<Tally>,
}

impl Slot {
    /// Claims and runs until `stop`; the ticket that is running then is withdrawn and reported.
    pub(crate) async fn work(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            // A claim that was granted while this stops waiting runs out, and the ticket is given to another worker.
            let claimed = tokio::select! {
                claimed = self.orchestrator.claim() => claimed,
                () = stop.cancelled() => return,
            };
            match claimed {
                Ok(claimed) => {
                    backoff.reset();
                    self.take(claimed, &stop).await;
                }
                Err(status) => {
                    if backoff.is_fresh() {
                        tracing::warn!(
                            reason = sentence(&status),
                            "no tickets: the orchestrator is asked again"
                        );
                    }
                    tokio::select! {
                        () = sleep(backoff.next_delay()) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn take(&self, claimed: Claimed, stop: &CancellationToken) {
        match claimed {
            Claimed::Nothing => {}
            Claimed::Ticket(assignment) => self.run(&assignment, stop).await,
            Claimed::Rejected { ticket_id, claim, reason } => {
                tracing::error!(
                    ticket = ticket_id,
                    reason,
                    "a ticket was refused and is not executed"
                );
                if !ticket_id.is_empty() {
                    self.runner.report(&refusal(ticket_id, claim, &reason)).await;
                }
            }
        }
    }

    async fn run(&self, assignment: &Assignment, stop: &CancellationToken) {
        let ticket = &assignment.ticket;
        tracing::info!(ticket = ticket.ticket_id, kind = %assignment.kind, attempt = ticket.attempt, "claimed");
        let started = Instant::now();
        let status = self.runner.run(assignment, stop).await;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(ticket = ticket.ticket_id, status = ?status, took_ms, "over");
        self.tally.count(status, took_ms);
    }
}

fn refusal(ticket_id: String, claim: u64, reason: &str) -> wire::Outcome {
    wire::Outcome {
        ticket_id,
        claim,
        status: wire::OutcomeStatus::Failed.into(),
        message: format!("the worker refused it: {reason}"),
        started_at_ms: now_ms(),
        ended_at_ms: now_ms(),
        ..Default::default()
    }
}
