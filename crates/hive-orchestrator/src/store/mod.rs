//! What outlives the process: the log of every plan, and the work that it asks for.

mod sqlite;

use hive_plan::{Event, Outcome, PlanId, PlanStatus, TicketId, TicketKind, UnixMillis};
use std::io;
use std::path::PathBuf;

pub(crate) use sqlite::Store;

/// A plan as it was submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    pub(crate) plan_id: PlanId,
    pub(crate) submission_id: String,
    pub(crate) source: String,
    pub(crate) workspace: String,
    pub(crate) submitted_by: String,
    pub(crate) submitted_at: UnixMillis,
}

/// Work that a plan asked for and that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) ticket: TicketId,
    /// The kind that a worker must offer: `COMPENSATE` for an undo.
    pub(crate) kind: TicketKind,
    pub(crate) attempt: u32,
    pub(crate) not_before: UnixMillis,
    /// Who works on it; without, it is queued.
    pub(crate) claim: Option<Claim>,
}

/// A worker's hold on a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The fencing token.
    pub(crate) number: u64,
    pub(crate) worker: String,
    /// When the work must have ended.
    pub(crate) deadline: UnixMillis,
    /// Why the worker shall stop, if it shall.
    pub(crate) stop: Option<String>,
}

/// A change of the outstanding work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Puts it there, or replaces what is there of the same ticket and direction.
    Put(Work),
    /// Takes it away.
    Remove(TicketId),
}

/// An outcome as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) claim: u64,
    pub(crate) ticket: TicketId,
    pub(crate) worker: String,
    pub(crate) outcome: Outcome,
    /// The signed envelope, encoded.
    pub(crate) envelope: Vec<u8>,
}

/// The state of a plan that is read without folding its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) status: PlanStatus,
    /// How many events the log holds.
    pub(crate) revision: u64,
    /// When it ended, and its last view, encoded; `None` while it runs.
    pub(crate) over: Option<(UnixMillis, Vec<u8>)>,
}

/// Everything that one event changes. It is stored whole or not at all.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) plan_id: &'a PlanId,
    pub(crate) at: UnixMillis,
    /// The event; `None` for the submission itself, whose commands follow from the plan.
    pub(crate) event: Option<&'a Event>,
    pub(crate) submission: Option<(&'a Submission, &'a str)>,
    pub(crate) summary: &'a Summary,
    pub(crate) changes: &'a [Change],
    pub(crate) received: Option<&'a Received>,
    /// The fencing token, when this step gave one out.
    pub(crate) last_claim: Option<u64>,
}

/// A plan that was running when its log was last written, with its log.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) submission: Submission,
    pub(crate) events: Vec<(UnixMillis, Event)>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another orchestrator uses the directory.
    #[error("another orchestrator uses {0}; stop it, or give this one a HIVE_DATA_DIR of its own")]
    InUse(PathBuf),
    /// The directory cannot be used.
    #[error("the data directory {path} cannot be used; see that it exists and is writable")]
    Directory {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// SQLite refused.
    #[error("the log in HIVE_DATA_DIR cannot be read or written; see whether the disk is full")]
    Sqlite(#[from] sqlx::Error),
    /// What is stored makes no sense to this version.
    #[error("the log holds {what} that this version cannot read: {value}")]
    Unreadable {
        /// The kind of thing.
        what: &'static str,
        /// Where, or what it holds.
        value: String,
    },
}

#[cfg(test)]
mod tests;
