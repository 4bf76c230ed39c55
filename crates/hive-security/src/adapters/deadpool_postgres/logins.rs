//! The logins of a pool, and who uses them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_postgres::{CancelToken, Config};

/// One generation. Whoever uses it, or is about to, holds it.
pub(super) struct OneLogin {
    pub(super) generation: u64,
    pub(super) config: Config,
    open: Mutex<Vec<Open>>,
}

/// What it takes to end a session that somebody else holds.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) cancel: CancelToken,
    pub(super) connection: AbortHandle,
}

pub(super) struct Logins {
    /// None while nothing may be used.
    current: watch::Sender<Option<Arc<OneLogin>>>,
    /// All that may still be in use.
    known: Mutex<Vec<Weak<OneLogin>>>,
}

impl Default for Logins {
    fn default() -> Self {
        Self { current: watch::Sender::new(None), known: Mutex::default() }
    }
}

impl Logins {
    pub(super) fn adopt(&self, login: OneLogin) {
        let login = Arc::new(login);
        let mut known = locked(&self.known);
        known.retain(|login| login.strong_count() > 0);
        known.push(Arc::downgrade(&login));
        drop(known);
        self.current.send_replace(Some(login));
    }

    pub(super) fn bar(&self) {
        self.current.send_replace(None);
    }

    /// Waits until no credential is valid. Cancel-safe.
    pub(super) async fn barred(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.current.subscribe().wait_for(Option::is_none).await;
    }

    pub(super) fn current(&self) -> Option<Arc<OneLogin>> {
        self.current.borrow().clone()
    }

    /// A login that was withdrawn and came back is another one: its sessions are opened anew.
    pub(super) fn is_current(&self, login: &Arc<OneLogin>) -> bool {
        self.current.borrow().as_ref().is_some_and(|current| Arc::ptr_eq(current, login))
    }

    pub(super) fn used_below(&self, generation: u64) -> bool {
        self.below(generation).next().is_some()
    }

    pub(super) fn open_below(&self, generation: u64) -> Vec<Open> {
        self.below(generation).flat_map(|login| locked(&login.open).clone()).collect()
    }

    fn below(&self, generation: u64) -> impl Iterator<Item = Arc<OneLogin>> {
        let known: Vec<_> = locked(&self.known).iter().filter_map(Weak::upgrade).collect();
        known.into_iter().filter(move |login| login.generation < generation)
    }
}

impl OneLogin {
    pub(super) fn new(generation: u64, config: Config) -> Self {
        Self { generation, config, open: Mutex::default() }
    }

    /// Those that have ended are forgotten, so there are never more than the pool has, and one.
    pub(super) fn note(&self, cancel: CancelToken, connection: AbortHandle) {
        let mut open = locked(&self.open);
        open.retain(|open| !open.connection.is_finished());
        open.push(Open { cancel, connection });
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
