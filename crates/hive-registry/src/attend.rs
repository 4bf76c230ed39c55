//! Reaching agents: each holds a stream open, and what is sent on it counts once the agent has acknowledged it.

use crate::agent::AgentId;
use hive_api::registry::{AttendRequest, Notification};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Notifications that wait for one agent: signals are rare, and who cannot take this many is not listening.
pub(crate) const LETTERS_MAX: usize = 16;
/// Notifications that were sent to one agent and not acknowledged yet.
const UNACKNOWLEDGED_MAX: usize = 64;
/// How long an agent may take to acknowledge.
const TAKEN_DEADLINE: Duration = Duration::from_secs(5);

/// The open streams of all agents.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    attending: Mutex<HashMap<AgentId, Attending>>,
    next: std::sync::atomic::AtomicU64,
}

#[derive(Clone, Debug)]
struct Attending {
    letters: mpsc::Sender<Letter>,
    /// Tells this stream from the one that replaces it.
    stream: u64,
}

/// A notification under way.
#[derive(Debug)]
struct Letter {
    notification: Notification,
    taken: oneshot::Sender<()>,
}

/// What an agent's stream reads from: ends when another stream takes its place.
#[derive(Debug)]
pub(crate) struct Letters {
    letters: mpsc::Receiver<Letter>,
    stream: u64,
}

impl Desk {
    /// Notifications for this agent go here from now on. An earlier stream of the same agent ends.
    pub(crate) fn attend(&self, id: AgentId) -> Letters {
        let stream = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, letters) = mpsc::channel(LETTERS_MAX);
        self.attending().insert(id, Attending { letters: sender, stream });
        Letters { letters, stream }
    }

    /// This stream is over.
    pub(crate) fn leave(&self, id: AgentId, letters: &Letters) {
        let mut attending = self.attending();
        if attending.get(&id).is_some_and(|now| now.stream == letters.stream) {
            attending.remove(&id);
        }
    }

    /// Sends a notification, and waits until the agent has acknowledged it. Else says why it was not reached; `None` if
    /// it has no open stream here.
    pub(crate) async fn notify(
        &self,
        id: AgentId,
        notification: Notification,
    ) -> Option<Result<(), String>> {
        let Attending { letters, .. } = self.attending().get(&id).cloned()?;
        Some(send(&letters, notification).await)
    }

    fn attending(&self) -> MutexGuard<'_, HashMap<AgentId, Attending>> {
        self.attending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(letters: &mpsc::Sender<Letter>, notification: Notification) -> Result<(), String> {
    let (taken, is_taken) = oneshot::channel();
    letters.try_send(Letter { notification, taken }).map_err(|refused| match refused {
        mpsc::error::TrySendError::Full(_) => {
            format!("{LETTERS_MAX} notifications wait for the agent already")
        }
        mpsc::error::TrySendError::Closed(_) => "the agent's stream has just ended".to_owned(),
    })?;
    match tokio::time::timeout(TAKEN_DEADLINE, is_taken).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the agent's stream ended before it acknowledged".to_owned()),
        Err(_) => {
            Err(format!("the agent did not acknowledge within {} s", TAKEN_DEADLINE.as_secs()))
        }
    }
}

/// Carries letters to one agent and its acknowledgements back, until either side ends.
pub(crate) async fn carry(
    letters: &mut Letters,
    mut acknowledgements: impl Stream<Item = Result<AttendRequest, Status>> + Unpin,
    out: mpsc::Sender<Result<Notification, Status>>,
) {
    let mut unacknowledged: BTreeMap<u64, oneshot::Sender<()>> = BTreeMap::new();
    let mut sequence = 0;
    loop {
        tokio::select! {
            letter = letters.letters.recv() => {
                let Some(Letter { mut notification, taken }) = letter else {
                    let replaced = Status::aborted("the agent has opened another stream");
                    _ = out.try_send(Err(replaced));
                    return;
                };
                // Those who waited for these have given up.
                unacknowledged.retain(|_, taken| !taken.is_closed());
                sequence += 1;
                notification.sequence = sequence;
                // One that finds no room is dropped, which its sender sees.
                if unacknowledged.len() < UNACKNOWLEDGED_MAX && out.try_send(Ok(notification)).is_ok() {
                    unacknowledged.insert(sequence, taken);
                }
            }
            message = acknowledgements.next() => {
                let Some(Ok(message)) = message else { return };
                if let Some(taken) = unacknowledged.remove(&message.acknowledged) {
                    // Its sender may have given up.
                    _ = taken.send(());
                }
            }
            () = out.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests;
