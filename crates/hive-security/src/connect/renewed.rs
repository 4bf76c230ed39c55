//! A connection that is replaced before it is too old.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tonic::transport::Channel;

use super::Dialler;
use crate::Error;
use crate::serve::ConnectionAge;

/// The connection that takes new calls. One that it was before lives on in the calls that it carries, and ends with
/// the last of them.
pub(super) struct Renewed {
    dialler: Dialler,
    age: ConnectionAge,
    state: Mutex<State>,
}

struct State {
    connection: Channel,
    renew_at: Instant,
}

impl Renewed {
    /// Nothing is connected until the first call.
    pub(super) fn new(dialler: Dialler, age: ConnectionAge) -> Result<Self, Error> {
        let connection = dialler.clone().channel()?;
        let state = Mutex::new(State { connection, renew_at: renew_at(&dialler, age) });
        Ok(Self { dialler, age, state })
    }

    /// The connection for a call that begins now.
    pub(super) fn current(&self) -> Channel {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= state.renew_at {
            match self.dialler.clone().channel() {
                Ok(fresh) => state.connection = fresh,
                // It was an address when this was made.
                Err(error) => tracing::error!(%error, "a connection could not be renewed"),
            }
            state.renew_at = renew_at(&self.dialler, self.age);
        }
        state.connection.clone()
    }

    pub(super) fn dialler(&self) -> Dialler {
        self.dialler.clone()
    }
}

/// When it takes no new calls any more: by its age, or before the certificate of its handshake expires, for a stream
/// that begins after that ends at once.
fn renew_at(dialler: &Dialler, age: ConnectionAge) -> Instant {
    let max = dialler.certificate_left().map_or(age.max, |left| age.max.min(left));
    Instant::now() + ConnectionAge { max }.drawn()
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").field("age", &self.age).finish_non_exhaustive()
    }
}
