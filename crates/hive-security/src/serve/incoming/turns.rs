//! Who may do the next step of a handshake.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::oneshot;
use tokio::task::yield_now;

/// Turns for the steps of handshakes, so that the calls of connections that exist go first.
///
/// A step (what is done between two waits for the client) costs a hundred times as much as a small call. Were hundreds of them
/// ready to run at once, each call would wait behind all of them. So only as many are ready as there are turns; and whoever
/// is given one lets everything go first that is ready as well, and has the runtime look at its sockets, before he uses it.
///
/// While the client is waited for, no turn is held.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Line>);

#[derive(Debug)]
struct Line {
    free: usize,
    arrivals: u64,
    waiting: BTreeMap<(Rank, u64), oneshot::Sender<Turn>>,
}

/// Who is before whom. Within a rank the last to come is the first: when more come than can be served, those who wait longest
/// are about to give up, and whoever serves them in the order of their coming does nothing but work for those who are gone.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    /// Nothing was done for it so far.
    Fresh,
    /// What was done for it would be lost.
    Begun,
}

/// Lets its holder do a step, and the next in line when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

/// A place in the line.
struct Ticket {
    turns: Arc<Turns>,
    key: (Rank, u64),
    given: oneshot::Receiver<Turn>,
}

impl Turns {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Line { free: count, arrivals: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for a turn; and then until everything else that is ready has run.
    pub(super) async fn take(self: &Arc<Self>, rank: Rank) -> Turn {
        let mut ticket = self.queue(rank);
        self.give();
        let given = (&mut ticket.given).await;
        let turn = given
            .expect("the sender is in the line until it is used, or until the ticket is dropped");
        // Tokio wakes whoever yields once it has run out of ready tasks, or after 61 of them, and looked at the sockets.
        yield_now().await;
        turn
    }

    /// Runs `future`, each of its steps in a turn; the first in this one. The last one is handed back.
    pub(super) async fn pace<F: Future>(
        self: &Arc<Self>,
        mut turn: Turn,
        future: F,
    ) -> (F::Output, Turn) {
        let mut future = pin!(future);
        loop {
            let step = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
            if let Poll::Ready(output) = step.await {
                return (output, turn);
            }
            drop(turn);
            woken().await;
            turn = self.take(Rank::Begun).await;
        }
    }

    fn queue(self: &Arc<Self>, rank: Rank) -> Ticket {
        let (give, given) = oneshot::channel();
        let mut line = self.lock();
        let key = (rank, line.arrivals);
        line.arrivals += 1;
        line.waiting.insert(key, give);
        drop(line);
        Ticket { turns: Arc::clone(self), key, given }
    }

    /// Gives away what is free.
    fn give(self: &Arc<Self>) {
        while let Some(next) = self.lock().next() {
            // One that is not taken any more comes back as it is dropped.
            drop(next.send(Turn(Arc::clone(self))));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// The next in line, for whom a turn is taken.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let free = self.free.checked_sub(1)?;
        let (_, next) = self.waiting.pop_last()?;
        self.free = free;
        Some(next)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.give();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.turns.lock().waiting.remove(&self.key);
    }
}

/// Waits until this task is woken, by whatever the future that was polled before waits for.
async fn woken() {
    let mut is_woken = false;
    poll_fn(
        |_| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending },
    )
    .await;
}
