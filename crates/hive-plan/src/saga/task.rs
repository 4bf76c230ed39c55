//! One direction of one ticket: its attempts, its claims, and how it ended.

use std::time::Duration;

use super::log::UnixMillis;
use crate::story::one_line;
use crate::ticket::{Outcome, OutcomeStatus};

/// How many claims may come to nothing through no fault of the ticket: lost, or withdrawn by a worker that was
/// stopped. A ticket that takes its workers down with it must end.
const LOSSES_FORGIVEN: u32 = 5;

/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How often and how patiently a task is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) attempts: u32,
    pub(super) backoff: Duration,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Claimed { claim: u64 },
    Done,
    Failed,
    Lost,
    Queued { not_before: UnixMillis },
    Waiting,
    Withdrawn,
}

/// Why a claim is not the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    AlreadyEnded,
    Stale,
    Unknown,
}

/// One direction of one ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) budget: Budget,
    pub(super) phase: Phase,
    /// From 1; 0 before it was queued.
    pub(super) attempt: u32,
    /// What its worker said last, in one line; or what is to be said of it.
    pub(super) message: String,
    pub(super) worker: Option<String>,
    pub(super) started: Option<UnixMillis>,
    pub(super) ended: Option<UnixMillis>,
    losses: u32,
    latest_claim: Option<u64>,
    /// The claims whose outcome was taken in: at most one for each attempt.
    ended_claims: Vec<u64>,
}

impl Task {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            phase: Phase::Waiting,
            attempt: 0,
            message: String::new(),
            worker: None,
            started: None,
            ended: None,
            losses: 0,
            latest_claim: None,
            ended_claims: Vec::new(),
        }
    }

    /// Whether a worker may have it, or may still take it.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Queued { .. } | Phase::Claimed { .. })
    }

    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.phase, Phase::Claimed { .. })
    }

    /// Whether a claim with this number can be newer than all before.
    pub(super) fn is_newer(&self, claim: u64) -> bool {
        self.latest_claim.is_none_or(|latest| claim > latest)
    }

    /// Whether this claim is the one that counts.
    pub(super) fn check(&self, claim: u64) -> Result<(), Mismatch> {
        if self.phase == (Phase::Claimed { claim }) {
            Ok(())
        } else if self.ended_claims.contains(&claim) {
            Err(Mismatch::AlreadyEnded)
        } else if self.is_newer(claim) {
            Err(Mismatch::Unknown)
        } else {
            Err(Mismatch::Stale)
        }
    }

    /// Makes the first attempt.
    pub(super) fn queue(&mut self, now: UnixMillis) {
        self.attempt = 1;
        self.phase = Phase::Queued { not_before: now };
    }

    /// A worker has taken it off the queue.
    pub(super) fn claim(&mut self, now: UnixMillis, claim: u64, worker: &str) {
        self.phase = Phase::Claimed { claim };
        self.latest_claim = Some(claim);
        self.worker = Some(worker.to_owned());
        self.started.get_or_insert(now);
    }

    /// Takes it off the queue again, for good.
    pub(super) fn withdraw(&mut self, now: UnixMillis) {
        self.settle(now, Phase::Withdrawn);
    }

    /// The current claim ran out. That was nobody's attempt: it is queued at once, a few times.
    pub(super) fn lose(&mut self, now: UnixMillis, may_retry: bool) {
        if may_retry && self.is_forgiven(now) {
            self.message = "its worker fell silent".to_owned();
            return;
        }
        self.message = if may_retry {
            format!("{} workers fell silent over it", self.losses)
        } else {
            "its worker fell silent; how far it came is not known".to_owned()
        };
        self.settle(now, Phase::Lost);
    }

    /// Queues it again without using an attempt, if that has not happened too often.
    fn is_forgiven(&mut self, now: UnixMillis) -> bool {
        self.losses += 1;
        let forgiven = self.losses <= LOSSES_FORGIVEN;
        if forgiven {
            self.phase = Phase::Queued { not_before: now };
        }
        forgiven
    }

    /// The current claim ended like this.
    pub(super) fn end(&mut self, now: UnixMillis, claim: u64, outcome: &Outcome, may_retry: bool) {
        self.ended_claims.push(claim);
        self.message = one_line(&outcome.message);
        let phase = match outcome.status {
            OutcomeStatus::Done => Phase::Done,
            OutcomeStatus::Failed => Phase::Failed,
            OutcomeStatus::FailedRetryable if may_retry && self.attempt < self.budget.attempts => {
                return self.retry(now);
            }
            OutcomeStatus::FailedRetryable => Phase::Failed,
            OutcomeStatus::Withdrawn if !may_retry => Phase::Withdrawn,
            // Its worker was stopped, which says nothing about the ticket.
            OutcomeStatus::Withdrawn if self.is_forgiven(now) => return,
            OutcomeStatus::Withdrawn => Phase::Failed,
        };
        self.settle(now, phase);
    }

    fn retry(&mut self, now: UnixMillis) {
        let doublings = self.attempt.saturating_sub(1).min(31);
        let pause = self.budget.backoff.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        self.attempt += 1;
        self.phase = Phase::Queued { not_before: now.after(pause) };
    }

    fn settle(&mut self, now: UnixMillis, phase: Phase) {
        self.phase = phase;
        self.ended = Some(now);
    }
}
