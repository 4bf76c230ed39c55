//! The order to stop, and the first reason that was given for it.

use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Why a ticket is stopped before it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Deadline,
    Draining,
    LoanFailed(String),
    Lost,
    Withdrawn(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Halt {
    token: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
}

impl Halt {
    /// The first order counts; those after it change nothing.
    pub(super) fn order(&self, cause: Cause) {
        // Already set: the first cause stays.
        let _ = self.cause.set(cause);
        self.token.cancel();
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(super) async fn ordered(&self) {
        self.token.cancelled().await;
    }

    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    pub(super) fn cause(&self) -> Option<&Cause> {
        self.cause.get()
    }
}
