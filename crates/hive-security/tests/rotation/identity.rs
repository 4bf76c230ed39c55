//! The keys of the trust domain, replaced as fast as it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_dev::authority::Authority;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Rotations that go on until this is dropped.
pub(crate) struct Rotations {
    count: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Rotations {
    pub(crate) fn begin(authority: &Arc<Authority>) -> Self {
        let (authority, count) = (Arc::clone(authority), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            loop {
                // Each waits until verifiers had the time to learn of the new key.
                let (jwt, x509) = tokio::join!(authority.rotate_jwt(), authority.rotate_x509());
                jwt.and(x509).expect("the authority has both kinds of keys");
                counted.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { count, task: task.abort_handle() }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Rotations {
    fn drop(&mut self) {
        self.task.abort();
    }
}
