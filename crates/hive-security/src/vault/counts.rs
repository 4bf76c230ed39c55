//! How often the client asked for what, how it ended, and how long it took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::VaultError;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What was asked of Vault, without any name in it.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[non_exhaustive]
        pub enum Operation { $($(#[$doc])* $name,)* }

        impl Operation {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// For a label of a metric.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

operations! {
    /// What a token may do.
    Capabilities => "capabilities",
    /// A database login, or the rotation of one.
    Database => "database",
    /// The state of a node.
    Health => "health",
    /// Deletion, restoration and destruction of versions.
    KvDelete => "kv_delete",
    /// Metadata and lists of secrets.
    KvMetadata => "kv_metadata",
    /// A secret.
    KvRead => "kv_read",
    /// A new version of a secret.
    KvWrite => "kv_write",
    /// A lease's facts, and lists of leases.
    LeaseLookup => "lease_lookup",
    /// A lease's extension.
    LeaseRenew => "lease_renew",
    /// A lease's end.
    LeaseRevoke => "lease_revoke",
    /// A login.
    Login => "login",
    /// Certificates.
    Pki => "pki",
    /// Anything read by its path.
    Read => "read",
    /// A child token.
    TokenCreate => "token_create",
    /// A token's facts.
    TokenLookup => "token_lookup",
    /// A token's extension.
    TokenRenew => "token_renew",
    /// A token's end.
    TokenRevoke => "token_revoke",
    /// Encryption and signatures.
    Transit => "transit",
    /// Wrapping.
    Wrapping => "wrapping",
    /// Anything written by its path.
    Write => "write",
}

/// Every word that [`VaultError::kind`] has, and the one for success.
const STATUSES: [&str; 17] = [
    "success",
    "config",
    "denied",
    "lease_gone",
    "limited",
    "login_refused",
    "name",
    "not_found",
    "not_renewed",
    "not_serving",
    "protocol",
    "rejected",
    "sealed",
    "server",
    "unreachable",
    "version_mismatch",
    "wrap_gone",
];
/// Upper ends of the buckets. A call ends after 10 s at the latest.
const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000];

const OPERATIONS: usize = Operation::ALL.len();

/// Counters of one client and all its clones: they only grow, and a metrics registry can read them at any time. They
/// tell the kind of an operation and how it ended, and no name, path or role.
#[derive(Debug, Default)]
pub struct Counts {
    calls: [[AtomicU64; STATUSES.len()]; OPERATIONS],
    buckets: [[AtomicU64; BOUNDS_MS.len()]; OPERATIONS],
    micros: [AtomicU64; OPERATIONS],
}

/// How often an operation ended in this way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tally {
    /// What was asked.
    pub operation: Operation,
    /// `success`, or the [kind](VaultError::kind) of the error.
    pub status: &'static str,
    /// How often.
    pub count: u64,
}

/// How long the calls of an operation took, those that failed as well.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    /// What was asked.
    pub operation: Operation,
    /// How many calls took at most so many seconds, for growing numbers of seconds.
    pub buckets: Vec<(f64, u64)>,
    /// All of them together, in seconds.
    pub sum_s: f64,
    /// How many there were.
    pub count: u64,
}

impl Counts {
    /// What was asked at least once, by how it ended.
    pub fn tallies(&self) -> Vec<Tally> {
        let mut tallies = Vec::new();
        for (operation, calls) in Operation::ALL.iter().zip(&self.calls) {
            for (status, calls) in STATUSES.iter().zip(calls) {
                let count = calls.load(Ordering::Relaxed);
                if count > 0 {
                    tallies.push(Tally { operation: *operation, status, count });
                }
            }
        }
        tallies
    }

    /// How long it took, for each operation that was asked at least once.
    pub fn durations(&self) -> Vec<Durations> {
        let all = Operation::ALL.iter().zip(&self.calls).zip(self.buckets.iter().zip(&self.micros));
        let all = all.map(|((operation, calls), (buckets, micros))| {
            let mut below = 0;
            let mut so_far = |(bound, bucket): (&u64, &AtomicU64)| {
                below += bucket.load(Ordering::Relaxed);
                (Duration::from_millis(*bound).as_secs_f64(), below)
            };
            Durations {
                operation: *operation,
                buckets: BOUNDS_MS.iter().zip(buckets).map(&mut so_far).collect(),
                sum_s: Duration::from_micros(micros.load(Ordering::Relaxed)).as_secs_f64(),
                count: calls.iter().map(|calls| calls.load(Ordering::Relaxed)).sum(),
            }
        });
        all.filter(|durations| durations.count > 0).collect()
    }

    pub(crate) fn add<T>(
        &self,
        operation: Operation,
        outcome: &Result<T, VaultError>,
        took: Duration,
    ) {
        let status = outcome.as_ref().err().map_or("success", VaultError::kind);
        let place = operation as usize;
        let status = STATUSES.iter().position(|known| *known == status);
        let bucket = BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound));
        let count = |counter: Option<&AtomicU64>, by| {
            counter.map(|counter| counter.fetch_add(by, Ordering::Relaxed));
        };
        count(status.and_then(|status| self.calls.get(place)?.get(status)), 1);
        count(bucket.and_then(|bucket| self.buckets.get(place)?.get(bucket)), 1);
        count(self.micros.get(place), took.as_micros().try_into().unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_read_by_operation_status_and_time() {
        let counts = Counts::default();
        let gone = VaultError::LeaseGone { operation: "PUT sys/leases/renew".to_owned() };
        counts.add(Operation::Login, &Ok(()), Duration::from_millis(3));
        counts.add(Operation::Login, &Ok(()), Duration::from_secs(11));
        counts.add(Operation::LeaseRenew, &Err::<(), _>(gone), Duration::from_micros(10));
        let told: Vec<_> =
            counts.tallies().iter().map(|t| (t.operation, t.status, t.count)).collect();
        let expected = [(Operation::LeaseRenew, "lease_gone", 1), (Operation::Login, "success", 2)];
        assert_eq!(told, expected);
        let durations = counts.durations();
        assert_eq!(durations.len(), 2);
        let login = &durations[1];
        assert_eq!((login.count, login.sum_s), (2, 11.003));
        assert_eq!(
            login.buckets.iter().map(|(_, below)| *below).collect::<Vec<_>>()[..4],
            [0, 0, 1, 1]
        );
        assert_eq!(login.buckets.last(), Some(&(10.0, 1)));
    }
}
