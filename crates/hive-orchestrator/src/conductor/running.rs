//! One running plan: what the fold says, in terms of what is stored, queued and shown.

use crate::queue::Queue;
use crate::store::{Change, Submission, Summary, Work};
use crate::view;
use hive_api::orchestrator::PlanView;
use hive_plan::{Command, Direction, Event, PlanStatus, Saga, TicketId, TicketKind, UnixMillis};
use prost::Message;
use std::sync::Arc;
use tokio::sync::watch;

/// A plan that is not over.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) saga: Saga,
    pub(super) submission: Submission,
    pub(super) revision: u64,
    pub(super) views: watch::Sender<Arc<PlanView>>,
}

impl Running {
    pub(super) fn new(saga: Saga, submission: Submission, revision: u64) -> Self {
        let views = watch::Sender::new(Arc::new(view::plan(&saga, &submission, revision)));
        Self { saga, submission, revision, views }
    }

    pub(super) fn view(&self) -> PlanView {
        view::plan(&self.saga, &self.submission, self.revision)
    }

    /// Shows the plan as it is now to whoever watches it.
    pub(super) fn publish(&mut self) {
        if self.views.receiver_count() > 0 {
            self.views.send_replace(Arc::new(self.view()));
        }
    }

    /// When the deadline has to be looked at; not any more once the plan is stopping.
    pub(super) fn deadline(&self) -> Option<UnixMillis> {
        (self.saga.status() == PlanStatus::Running).then(|| self.saga.deadline())
    }

    pub(super) fn summary(&self, now: UnixMillis) -> Summary {
        let status = self.saga.status();
        let over = status.is_over().then(|| (now, self.view().encode_to_vec()));
        Summary { status, revision: self.revision, over }
    }

    /// What the fold's commands mean for the outstanding work.
    pub(super) fn changes(
        &self,
        commands: &[Command],
        queue: &Queue,
        stop_reason: &str,
    ) -> Vec<Change> {
        commands.iter().filter_map(|command| self.change(command, queue, stop_reason)).collect()
    }

    fn change(&self, command: &Command, queue: &Queue, stop_reason: &str) -> Option<Change> {
        match command {
            Command::Finish { .. } => None,
            Command::Queue { ticket, direction, attempt, not_before } => {
                let kind = match direction {
                    Direction::Forward => self.saga.plan().ticket(ticket)?.kind,
                    Direction::Undo => TicketKind::Compensate,
                };
                let ticket = TicketId::new(self.saga.id().clone(), ticket.clone(), *direction);
                let (attempt, not_before) = (*attempt, *not_before);
                Some(Change::Put(Work { ticket, kind, attempt, not_before, claim: None }))
            }
            Command::Withdraw { ticket, direction } => {
                let ticket = TicketId::new(self.saga.id().clone(), ticket.clone(), *direction);
                withdrawn(queue.of(&ticket)?.clone(), stop_reason)
            }
        }
    }
}

/// Queued work is taken back; a worker that is at it is told to stop.
fn withdrawn(mut work: Work, stop_reason: &str) -> Option<Change> {
    let Some(claim) = work.claim.as_mut() else { return Some(Change::Remove(work.ticket)) };
    claim.stop = Some(stop_reason.to_owned());
    Some(Change::Put(work))
}

/// Why a worker shall stop, in words for its log.
pub(super) fn stop_reason(event: &Event) -> String {
    match event {
        Event::CancelRequested { by, reason } => {
            format!("the plan was cancelled by {by}: {reason}")
        }
        Event::Claimed { .. } => String::new(),
        Event::DeadlinePassed => "the plan's deadline passed".to_owned(),
        Event::Ended { ticket, .. } | Event::Lost { ticket, .. } => {
            format!("the plan is being undone because {ticket} failed")
        }
    }
}
