//! Knows whether a holder is at something, so that time does not pass meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hive_security::credentials::{Credential, Holder, HolderError};

/// Counts what is under way: work, which ends soon, and waiting for users to leave, which may take as long as they like.
#[derive(Clone, Default)]
pub(crate) struct Busy {
    working: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

struct Guard(Arc<AtomicUsize>);

impl Busy {
    pub(crate) fn is_working(&self) -> bool {
        self.working.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

async fn during<T>(counter: &Arc<AtomicUsize>, work: BoxFuture<'_, T>) -> T {
    counter.fetch_add(1, Ordering::SeqCst);
    let _guard = Guard(Arc::clone(counter));
    work.await
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A holder that is counted while it is at something.
pub(crate) struct Counted<H> {
    holder: H,
    busy: Busy,
}

impl<H> Counted<H> {
    pub(crate) fn new(holder: H, busy: Busy) -> Self {
        Self { holder, busy }
    }
}

impl<H: Holder> Holder for Counted<H> {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        during(&self.busy.working, self.holder.probe(fresh)).boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        during(&self.busy.working, self.holder.adopt(fresh)).boxed()
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        during(&self.busy.waiting, self.holder.drained(generation)).boxed()
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        during(&self.busy.working, self.holder.cut(generation)).boxed()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        during(&self.busy.working, self.holder.withdraw()).boxed()
    }
}
