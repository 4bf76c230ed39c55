//! How often a server decided what.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one [`Authenticate`](super::Authenticate): they only grow, and a metrics registry can read
/// them at any time.
#[derive(Debug, Default)]
pub struct Counts {
    allowed: AtomicU64,
    denied: AtomicU64,
    exempt: AtomicU64,
    expired: AtomicU64,
    revoked: AtomicU64,
    unauthenticated: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Calls of known callers whom a rule allowed.
    pub allowed: u64,
    /// Calls of known callers whom no rule allowed.
    pub denied: u64,
    /// Calls of services that anyone may ask.
    pub exempt: u64,
    /// Streams that were ended because a document of their caller expired.
    pub expired: u64,
    /// Streams that were ended because the policy was replaced by one that does not allow them.
    pub revoked: u64,
    /// Calls that did not prove who makes them.
    pub unauthenticated: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Allowed,
    Denied,
    Exempt,
    Expired,
    Revoked,
    Unauthenticated,
}

impl Counts {
    /// The counters of this moment.
    pub fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            allowed: read(&self.allowed),
            denied: read(&self.denied),
            exempt: read(&self.exempt),
            expired: read(&self.expired),
            revoked: read(&self.revoked),
            unauthenticated: read(&self.unauthenticated),
        }
    }

    pub(super) fn add(&self, what: Counted) {
        let counter = match what {
            Counted::Allowed => &self.allowed,
            Counted::Denied => &self.denied,
            Counted::Exempt => &self.exempt,
            Counted::Expired => &self.expired,
            Counted::Revoked => &self.revoked,
            Counted::Unauthenticated => &self.unauthenticated,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
