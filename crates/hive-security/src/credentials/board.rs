//! What can be seen of a set of credentials from outside: for people, for readiness, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use hive_lease::RotationState;

/// A set of credentials at one moment. It holds no secret.
#[derive(Clone, Debug)]
pub struct Status {
    /// The Vault role.
    pub role: String,
    /// Where the rotation stands.
    pub state: RotationState,
    /// Which successive epoch is used; 0 if none is.
    pub generation: u64,
    /// When the login token ends, if nothing extends it.
    pub token_expires_at: Option<SystemTime>,
    /// The credentials, in the order of the requests.
    pub credentials: Vec<CredentialStatus>,
    /// How many leases and tokens are held, those that are being given back included.
    pub held: usize,
    /// How many older epochs are still used by somebody.
    pub draining: usize,
}

/// One credential at one moment.
#[derive(Clone, Debug)]
pub struct CredentialStatus {
    /// What its holder calls it.
    pub name: String,
    /// Where it was asked for.
    pub path: String,
    /// Its number: it grows each time holders move. 0 before the first.
    pub generation: u64,
    /// Its lease, if it has one.
    pub lease_id: Option<String>,
    /// When it ends, if nothing extends it; None if it has no lease.
    pub expires_at: Option<SystemTime>,
    /// How many holders use it.
    pub holders: usize,
}

impl Status {
    /// Whether everything may be used at this moment.
    pub fn is_ready(&self) -> bool {
        use RotationState::{Active, Degraded, Overlap, Rotating};
        matches!(self.state, Active | Degraded | Overlap | Rotating)
    }
}

/// How often what happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) logins: Outcomes,
    pub(crate) token_renewals: Outcomes,
    pub(crate) issues: Outcomes,
    pub(crate) refreshes: Outcomes,
    pub(crate) revocations: Outcomes,
    pub(crate) probes: Outcomes,
    /// By the path of the credential.
    pub(crate) renewals: Mutex<BTreeMap<String, [u64; 2]>>,
    /// By why they became necessary.
    pub(crate) rotations: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) withdrawals: AtomicU64,
    pub(crate) cuts: AtomicU64,
    /// Given up: they live on until they expire.
    pub(crate) left: AtomicU64,
    /// Nameless, because the answer with their name was lost; their token ended them.
    pub(crate) orphans: AtomicU64,
    pub(crate) overlaps: AtomicU64,
    pub(crate) overlap_micros: AtomicU64,
}

/// How often something was done, and how often in vain.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Outcomes {
    pub(crate) fn count(&self, succeeded: bool) {
        let counter = if succeeded { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> [u64; 2] {
        [self.succeeded.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed)]
    }
}

impl Counts {
    pub(super) fn renewal(&self, path: &str, succeeded: bool) {
        let mut renewals = lock(&self.renewals);
        let counts = renewals.entry(path.to_owned()).or_default();
        counts[usize::from(!succeeded)] += 1;
    }

    pub(super) fn rotation(&self, reason: &'static str) {
        *lock(&self.rotations).entry(reason).or_default() += 1;
    }

    pub(super) fn overlap(&self, lasted: Duration) {
        self.overlaps.fetch_add(1, Ordering::Relaxed);
        let micros = lasted.as_micros().try_into().unwrap_or(u64::MAX);
        self.overlap_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// What the driver writes on, and everybody reads.
#[derive(Debug)]
pub(crate) struct Board {
    status: Mutex<Status>,
    pub(crate) counts: Counts,
}

impl Board {
    pub(super) fn new(role: &str, credentials: impl Iterator<Item = (String, String)>) -> Self {
        let row = |(name, path)| CredentialStatus {
            name,
            path,
            generation: 0,
            lease_id: None,
            expires_at: None,
            holders: 0,
        };
        let status = Status {
            role: role.to_owned(),
            state: RotationState::Opening,
            generation: 0,
            token_expires_at: None,
            credentials: credentials.map(row).collect(),
            held: 0,
            draining: 0,
        };
        Self { status: Mutex::new(status), counts: Counts::default() }
    }

    pub(crate) fn status(&self) -> Status {
        lock(&self.status).clone()
    }

    pub(super) fn write(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }
}

/// Whoever panicked while writing left at worst one old number.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_counted_apart_from_what_was_tried_in_vain() {
        let counts = Counts::default();
        for succeeded in [true, true, false] {
            counts.probes.count(succeeded);
            counts.renewal("database/creds/app", succeeded);
        }
        assert_eq!(counts.probes.read(), [2, 1]);
        assert_eq!(lock(&counts.renewals)["database/creds/app"], [2, 1]);
    }

    #[test]
    fn nothing_is_ready_before_it_was_issued_nor_after_it_was_withdrawn() {
        use RotationState::{
            Active, Closing, Degraded, Done, Opening, Overlap, Rotating, Withdrawn,
        };
        let ready = |state| {
            let board = Board::new("app", std::iter::empty());
            board.write().state = state;
            board.status().is_ready()
        };
        assert!([Active, Degraded, Overlap, Rotating].into_iter().all(ready));
        assert!(![Closing, Done, Opening, Withdrawn].into_iter().any(ready));
    }
}
