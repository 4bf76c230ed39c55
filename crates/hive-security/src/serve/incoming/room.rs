//! Places for those who wait.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use super::Unmet;

/// A bounded number of places. The door stays open when all are taken: whoever has waited longest loses his, for he is the
/// least likely to be served, be it that he is silent or that his client is about to give up.
#[derive(Debug)]
pub(super) struct Room {
    places_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    arrivals: u64,
    /// By arrival. Whose sender is dropped, is shown out.
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place in a room, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    arrival: u64,
    shown_out: oneshot::Receiver<()>,
}

impl Room {
    pub(super) fn new(places_max: usize) -> Arc<Self> {
        Arc::new(Self { places_max, taken: Mutex::default() })
    }

    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let (stays, shown_out) = oneshot::channel();
        let mut taken = self.lock();
        let arrival = taken.arrivals;
        taken.arrivals += 1;
        taken.places.insert(arrival, stays);
        if taken.places.len() > self.places_max {
            taken.places.pop_first();
        }
        drop(taken);
        Place { room: Arc::clone(self), arrival, shown_out }
    }

    /// Shows out so many of those who have waited longest; how many there were.
    pub(super) fn show_out(&self, count: usize) -> usize {
        let mut taken = self.lock();
        (0..count).map_while(|_| taken.places.pop_first()).count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().places.len()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits for `future` in this place, as long as it is kept and the deadline allows.
    pub(super) async fn hold<T>(
        &mut self,
        deadline: Duration,
        future: impl Future<Output = Result<T, Unmet>>,
    ) -> Result<T, Unmet> {
        tokio::select! {
            _ = &mut self.shown_out => Err(Unmet::Shed),
            held = timeout(deadline, future) => held.unwrap_or(Err(Unmet::Expired)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().places.remove(&self.arrival);
    }
}
