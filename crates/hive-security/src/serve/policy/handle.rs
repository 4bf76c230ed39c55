//! A policy that can be replaced while a server runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::{MethodPolicy, Mistakes};

/// A policy that is replaced while servers use it. Cheap to clone; all clones are one.
///
/// The next call is decided by the new policy. Open streams are judged by it at once: one whose caller may not use
/// its method any more ends with `PERMISSION_DENIED`. Unary calls that were admitted go on.
#[derive(Clone, Debug)]
pub struct PolicyHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: ArcSwap<MethodPolicy>,
    /// Grows with each policy, after it is in place.
    revision: AtomicU64,
    changed: watch::Sender<()>,
}

impl PolicyHandle {
    /// A handle on `policy`.
    pub fn new(policy: MethodPolicy) -> Self {
        Self(Arc::new(Shared {
            policy: ArcSwap::from_pointee(policy),
            revision: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        }))
    }

    /// Replaces the policy by what a file says. With a mistake in it, the old policy stays.
    pub fn reload(&self, text: &str) -> Result<(), Mistakes> {
        self.replace(MethodPolicy::parse(text)?);
        Ok(())
    }

    /// Replaces the policy.
    pub fn replace(&self, policy: MethodPolicy) {
        self.0.policy.store(Arc::new(policy));
        self.0.revision.fetch_add(1, Ordering::Release);
        self.0.changed.send_replace(());
    }

    /// The policy of this moment.
    pub fn current(&self) -> Arc<MethodPolicy> {
        self.0.policy.load_full()
    }

    pub(in crate::serve) fn load(&self) -> Guard<Arc<MethodPolicy>> {
        self.0.policy.load()
    }

    /// Read before the policy is, it never claims more than was looked at.
    pub(in crate::serve) fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Acquire)
    }

    /// Waits for another policy than that of `revision`.
    pub(in crate::serve) async fn changed_since(&self, revision: u64) {
        let mut changes = self.0.changed.subscribe();
        while self.revision() == revision {
            // The sender is ours.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl From<MethodPolicy> for PolicyHandle {
    fn from(policy: MethodPolicy) -> Self {
        Self::new(policy)
    }
}
