//! How handshakes ended.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Unmet;

/// Counters of the handshakes of one workload's servers.
#[derive(Debug, Default)]
pub(crate) struct HandshakeCounts {
    succeeded: AtomicU64,
    failed: AtomicU64,
    expired: AtomicU64,
    gone: AtomicU64,
    shed: AtomicU64,
}

/// How the handshakes of this workload's servers have ended, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handshakes {
    /// There is a connection.
    pub succeeded: u64,
    /// One side refused the other, or what came was not TLS.
    pub failed: u64,
    /// Nothing came of it in time: a silent client, or too little processor time.
    pub expired: u64,
    /// The client hung up before its end.
    pub gone: u64,
    /// It had waited longest when another came and every place was taken, or every file.
    pub shed: u64,
}

impl HandshakeCounts {
    pub(crate) fn tally(&self) -> Handshakes {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Handshakes {
            succeeded: read(&self.succeeded),
            failed: read(&self.failed),
            expired: read(&self.expired),
            gone: read(&self.gone),
            shed: read(&self.shed),
        }
    }

    pub(super) fn add<T>(&self, met: &Result<T, Unmet>) {
        let counter = match met {
            Ok(_) => &self.succeeded,
            Err(Unmet::Failed(_)) => &self.failed,
            Err(Unmet::Expired) => &self.expired,
            Err(Unmet::Gone) => &self.gone,
            Err(Unmet::Shed) => &self.shed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
