//! Where a plan and its tickets stand, for those who watch.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::log::UnixMillis;
use super::task::{Phase, Task};
use super::{Cause, Saga, Slot};
use crate::ticket::{TicketName, TicketSpec};
use crate::{duration, story};

/// Where a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanStatus {
    /// Cancelled, and everything that can be undone was.
    Cancelled,
    /// Every ticket is done.
    Done,
    /// Failed, and everything that can be undone was.
    Failed,
    /// Tickets are being worked on, or wait for that.
    Running,
    /// Over, but an undo failed, or a ticket was lost that may have acted: something was left behind.
    Stuck,
    /// Something failed or the plan was stopped: what was done is being undone.
    Unwinding,
}

impl PlanStatus {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Running | Self::Unwinding)
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Stuck => "stuck",
            Self::Unwinding => "unwinding",
        }
    }
}

impl fmt::Display for PlanStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a ticket stands; `Display` is the word of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketState {
    /// The work is done.
    Done,
    /// It failed for good.
    Failed,
    /// Its worker fell silent, and nobody knows how far it came.
    Lost,
    /// The plan stopped before any worker began with it.
    NeverStarted,
    /// A worker may claim it.
    Queued,
    /// A worker has claimed it.
    Running,
    /// Done, but its undo failed: something was left behind.
    UndoFailed,
    /// Done, and being undone.
    Undoing,
    /// Done, and then undone.
    Undone,
    /// Something that it needs is not done.
    Waiting,
    /// Stopped before it was done, because the plan stopped.
    Withdrawn,
}

impl TicketState {
    /// The word of the story.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::NeverStarted => "never started",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::UndoFailed => "undo failed",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
            Self::Waiting => "waiting",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for TicketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where one ticket of a plan stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TicketProgress<'a> {
    /// The ticket as the plan describes it.
    pub spec: &'a TicketSpec,
    /// Where it stands.
    pub state: TicketState,
    /// One line about that; may be empty.
    pub detail: String,
    /// The attempt at its work, or at undoing it once that has begun; 0 before it was queued.
    pub attempt: u32,
    /// The claim of the worker that is at it now.
    pub claim: Option<u64>,
    /// The worker that is, or was last, at it.
    pub worker: Option<&'a str>,
    /// When a worker first claimed it.
    pub started: Option<UnixMillis>,
    /// When its work, or the undoing of it, ended for good.
    pub ended: Option<UnixMillis>,
}

/// How many of the tickets that one waits for are named.
const NEEDS_SHOWN: usize = 3;

impl Saga {
    pub(super) fn progress(&self, position: usize) -> TicketProgress<'_> {
        let slot = &self.slots[position];
        // Once there is an attempt at undoing, that is what there is to see.
        let undo = slot.undo.as_ref().filter(|undo| undo.attempt > 0);
        let task = undo.unwrap_or(&slot.forward);
        let claim = match task.phase {
            Phase::Claimed { claim } => Some(claim),
            _ => None,
        };
        let state = self.state(slot);
        TicketProgress {
            spec: self.spec(position),
            state,
            detail: self.detail(position, state, task),
            attempt: task.attempt,
            claim,
            worker: task.worker.as_deref(),
            started: slot.forward.started,
            ended: task.ended,
        }
    }

    fn state(&self, slot: &Slot) -> TicketState {
        match slot.forward.phase {
            Phase::Claimed { .. } => TicketState::Running,
            Phase::Done => match slot.undo.as_ref().map(|undo| undo.phase) {
                None | Some(Phase::Waiting) => TicketState::Done,
                Some(Phase::Claimed { .. } | Phase::Queued { .. }) => TicketState::Undoing,
                Some(Phase::Done) => TicketState::Undone,
                Some(Phase::Failed | Phase::Lost | Phase::Withdrawn) => TicketState::UndoFailed,
            },
            Phase::Failed => TicketState::Failed,
            Phase::Lost => TicketState::Lost,
            Phase::Queued { .. } => TicketState::Queued,
            Phase::Waiting if self.cause.is_none() => TicketState::Waiting,
            Phase::Withdrawn if slot.forward.started.is_some() => TicketState::Withdrawn,
            Phase::Waiting | Phase::Withdrawn => TicketState::NeverStarted,
        }
    }

    fn detail(&self, position: usize, state: TicketState, task: &Task) -> String {
        match state {
            TicketState::Done if self.cause.is_some() => match self.slots[position].undo {
                Some(_) => "to be undone".to_owned(),
                None => "nothing to undo".to_owned(),
            },
            TicketState::Done | TicketState::NeverStarted | TicketState::Undone => String::new(),
            TicketState::Failed | TicketState::Lost | TicketState::UndoFailed => failure(task),
            TicketState::Queued | TicketState::Running | TicketState::Undoing => {
                self.activity(state, task)
            }
            TicketState::Waiting => self.waiting_for(position),
            TicketState::Withdrawn => task.message.clone(),
        }
    }

    fn activity(&self, state: TicketState, task: &Task) -> String {
        let again = match (task.attempt, task.message.as_str()) {
            (1, "") => String::new(),
            (1, message) => format!("again, because {message}"),
            (attempt, "") => format!("attempt {attempt} of {}", task.budget.attempts),
            (attempt, message) => {
                format!("attempt {attempt} of {}, after: {message}", task.budget.attempts)
            }
        };
        let worker = task.worker.as_deref().filter(|_| task.is_claimed());
        let place = match worker {
            Some(worker) => format!("on {}", short(worker)),
            None if state == TicketState::Undoing => "queued".to_owned(),
            None => String::new(),
        };
        let told = state == TicketState::Running && self.cause.is_some();
        let stop = if told { "told to stop" } else { "" };
        let parts = [place.as_str(), again.as_str(), stop];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn waiting_for(&self, position: usize) -> String {
        let is_unmet = |need: &&TicketName| {
            self.index.get(*need).is_some_and(|slot| self.slots[*slot].forward.phase != Phase::Done)
        };
        let needs = self.spec(position).needs.iter().filter(is_unmet).map(TicketName::as_str);
        let needs: Vec<&str> = needs.collect();
        let shown = needs[..needs.len().min(NEEDS_SHOWN)].join(", ");
        match needs.len().saturating_sub(NEEDS_SHOWN) {
            0 => format!("for {shown}"),
            more => format!("for {shown} and {more} more"),
        }
    }

    /// Why the plan stopped before it was done, in one line.
    pub fn reason(&self) -> Option<String> {
        let cause = match self.cause.as_ref()? {
            Cause::Cancelled { by, reason } if reason.is_empty() => format!("by {by}"),
            Cause::Cancelled { by, reason } => format!("{reason} (by {by})"),
            Cause::DeadlinePassed => {
                format!("not done within {}", duration::write(self.plan.deadline()))
            }
            Cause::Ticket { slot, message } => {
                format!("{}: {}", self.spec(*slot).name, or_no_reason(message))
            }
        };
        let left_behind = (0..self.slots.len()).filter(|slot| self.slots[*slot].is_left_behind());
        let names: Vec<&str> = left_behind.map(|slot| self.spec(slot).name.as_str()).collect();
        if names.is_empty() {
            return Some(cause);
        }
        Some(format!("{cause}; not undone: {}", names.join(", ")))
    }
}

fn failure(task: &Task) -> String {
    let message = or_no_reason(&task.message);
    match task.attempt {
        0 | 1 => message.to_owned(),
        attempts => format!("{message}, after {attempts} attempts"),
    }
}

fn or_no_reason(message: &str) -> &str {
    if message.is_empty() { "no reason given" } else { message }
}

/// The last part of a worker's SPIFFE ID, which is its name.
fn short(worker: &str) -> String {
    story::one_line(worker.rsplit('/').next().unwrap_or(worker))
}
