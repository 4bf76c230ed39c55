//! A session that was opened before anybody needs it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Session;
use super::logins::Logins;

/// At most one, and only while somebody is at work to replace old sessions.
#[derive(Default)]
pub(super) struct Spare {
    session: Mutex<Option<Session>>,
    movers: AtomicUsize,
}

/// Somebody replaces old sessions.
pub(super) struct Moving<'a>(&'a Spare);

impl Spare {
    /// Says that old sessions are being replaced, as long as what it returns is kept.
    pub(super) fn moving(&self) -> Moving<'_> {
        self.movers.fetch_add(1, Ordering::Relaxed);
        Moving(self)
    }

    pub(super) fn is_moving(&self) -> bool {
        self.movers.load(Ordering::Relaxed) > 0
    }

    /// Whether there is one of the login of now. Another is let go.
    pub(super) fn is_there(&self, logins: &Logins) -> bool {
        let mut session = self.session();
        *session = session.take().filter(|session| session.is_usable(logins));
        session.is_some()
    }

    pub(super) fn take(&self, logins: &Logins) -> Option<Session> {
        self.session().take().filter(|session| session.is_usable(logins))
    }

    pub(super) fn put(&self, session: Session) {
        *self.session() = Some(session);
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        // Nothing panics while it is held.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        if self.0.movers.fetch_sub(1, Ordering::Relaxed) == 1 {
            drop(self.0.session().take());
        }
    }
}
