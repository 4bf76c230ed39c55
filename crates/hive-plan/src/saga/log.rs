//! What a saga takes in, what it asks for, and why it refuses.

use serde::{Deserialize, Serialize};

use super::progress::PlanStatus;
use crate::ticket::{Direction, Outcome, TicketName};

/// A moment: milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The moment `pause` later.
    pub(crate) fn after(self, pause: std::time::Duration) -> Self {
        let pause_ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(pause_ms))
    }
}

/// Something that happened to a plan. Its JSON is the log, and so it is stable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Somebody asked for the plan to stop.
    CancelRequested {
        /// Who asked.
        by: String,
        /// Why, in their words.
        reason: String,
    },
    /// A worker took a queued ticket.
    Claimed {
        /// Which one.
        ticket: TicketName,
        /// Which way.
        direction: Direction,
        /// The fencing token: greater than that of every earlier claim of this ticket.
        claim: u64,
        /// Who took it.
        worker: String,
    },
    /// The plan's deadline passed.
    DeadlinePassed,
    /// The worker reported what came of its claim.
    Ended {
        /// Which one.
        ticket: TicketName,
        /// Which way.
        direction: Direction,
        /// The claim under which it was worked on.
        claim: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// A claim ran out: its worker was not heard of for too long.
    Lost {
        /// Which one.
        ticket: TicketName,
        /// Which way.
        direction: Direction,
        /// The claim that ran out.
        claim: u64,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The plan is over.
    Finish {
        /// How it ended.
        status: PlanStatus,
    },
    /// Let a worker claim this ticket, but not before this moment.
    Queue {
        /// Which one.
        ticket: TicketName,
        /// Which way.
        direction: Direction,
        /// Which attempt it is, from 1.
        attempt: u32,
        /// The end of the back-off.
        not_before: UnixMillis,
    },
    /// Take it off the queue if it is there, or tell its worker to stop.
    Withdraw {
        /// Which one.
        ticket: TicketName,
        /// Which way.
        direction: Direction,
    },
}

/// Why an event changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// What came of this claim is known: a repeated report, which may be answered like the first.
    #[error("claim {claim} of `{ticket}` has already ended")]
    AlreadyEnded {
        /// The ticket.
        ticket: TicketName,
        /// The claim.
        claim: u64,
    },
    /// The plan is being unwound, and cannot be stopped twice.
    #[error("the plan is already being unwound")]
    AlreadyUnwinding,
    /// The ticket is not on the queue, so nobody can claim it.
    #[error("`{ticket}` is not queued")]
    NotQueued {
        /// The ticket.
        ticket: TicketName,
    },
    /// The plan is over.
    #[error("the plan is over")]
    Over,
    /// This claim does not count: it ran out, or there is a later one.
    #[error("claim {claim} of `{ticket}` does not count any more")]
    StaleClaim {
        /// The ticket.
        ticket: TicketName,
        /// The claim.
        claim: u64,
    },
    /// Nobody has claimed the ticket with this number.
    #[error("`{ticket}` was never claimed with number {claim}")]
    UnknownClaim {
        /// The ticket.
        ticket: TicketName,
        /// The claim.
        claim: u64,
    },
    /// The plan has no such ticket, or none that goes this way.
    #[error("the plan has no `{ticket}`, or nothing of it to undo")]
    UnknownTicket {
        /// The ticket.
        ticket: TicketName,
    },
}
