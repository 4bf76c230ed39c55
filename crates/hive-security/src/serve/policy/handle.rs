//! A policy that can be replaced while a server runs.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::{MethodPolicy, Mistakes};

/// A policy that is replaced while servers use it. Cheap to clone; all clones are one.
///
/// Calls that were admitted go on; the next call is decided by the new policy.
#[derive(Clone, Debug)]
pub struct PolicyHandle(Arc<ArcSwap<MethodPolicy>>);

impl PolicyHandle {
    /// A handle on `policy`.
    pub fn new(policy: MethodPolicy) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }

    /// Replaces the policy by what a file says. With a mistake in it, the old policy stays.
    pub fn reload(&self, text: &str) -> Result<(), Mistakes> {
        self.replace(MethodPolicy::parse(text)?);
        Ok(())
    }

    /// Replaces the policy.
    pub fn replace(&self, policy: MethodPolicy) {
        self.0.store(Arc::new(policy));
    }

    /// The policy of this moment.
    pub fn current(&self) -> Arc<MethodPolicy> {
        self.0.load_full()
    }

    pub(in crate::serve) fn load(&self) -> Guard<Arc<MethodPolicy>> {
        self.0.load()
    }
}

impl From<MethodPolicy> for PolicyHandle {
    fn from(policy: MethodPolicy) -> Self {
        Self::new(policy)
    }
}
