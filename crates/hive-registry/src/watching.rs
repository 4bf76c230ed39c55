//! One watch: a snapshot or a way back, then "in sync", then each change.
//!
//! A watch reads at its own pace from what all share, so a slow one holds up nobody. One that falls behind what is
//! kept is told so and ends.

use crate::agent::Agent;
use crate::agent::AgentId;
use crate::directory::Known;
use crate::filter::Filter;
use crate::node::{Node, now};
use crate::replica::Now;
use crate::store::{Feed, FeedItem, Revision, StoreError};
use crate::watch::{self, Cursor, Event, Lost};
use prost::bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Agents of a snapshot that are told at once, and events that are taken at once from the log.
const AGENTS_AT_ONCE: usize = 256;
const EVENTS_AT_ONCE: usize = 64;
/// How long this replica may take to reach a revision that another one has told already.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(2);

/// A watch under way. Dropping it ends it.
pub(crate) struct Watching {
    node: Arc<Node>,
    stop: CancellationToken,
    filter: Filter,
    phase: Phase,
    ready: VecDeque<Bytes>,
    cursor: Cursor,
    folded: Receiver<Option<Revision>>,
}

enum Phase {
    /// Every agent behind this one is still to be told.
    Snapshot {
        after: Option<AgentId>,
    },
    /// The store tells what is older than the log.
    Past {
        feed: Feed,
    },
    /// What the log had when the watch began, and then "in sync".
    Recent {
        until: Revision,
    },
    Live,
}

impl Watching {
    /// Begins with a snapshot, or resumes behind `from`.
    pub(crate) async fn begin(
        node: Arc<Node>,
        stop: CancellationToken,
        filter: Filter,
        from: Option<Revision>,
    ) -> Result<Self, Status> {
        if let Some(from) = from {
            caught_up(&node, from).await?;
        }
        let (latest, since) = {
            let log = node.log();
            (log.latest(), log.since())
        };
        let phase = match from {
            None => Phase::Snapshot { after: None },
            Some(from) if from >= since => Phase::Recent { until: latest },
            Some(from) => Phase::Past { feed: past(&node, from).await? },
        };
        let cursor = node.log().cursor(from.unwrap_or(latest));
        let folded = node.folded();
        node.metrics.watches.up();
        Ok(Self { node, stop, filter, phase, ready: VecDeque::new(), cursor, folded })
    }

    /// The next event, encoded. After an error, the watch is over.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.stop.is_cancelled() {
                return Err(self.ended("this replica stops"));
            }
            self.progress().await?;
        }
    }

    /// Makes more events ready, or waits until there are some, or the replica is to stop.
    async fn progress(&mut self) -> Result<(), Status> {
        match &mut self.phase {
            Phase::Snapshot { after } => {
                let after = *after;
                self.read_agents(after);
                // Many watches may begin at once, and others have to be served between their pages.
                tokio::task::yield_now().await;
                Ok(())
            }
            Phase::Past { feed } => {
                let item = tokio::select! {
                    item = feed.next() => item.map_err(|error| lost_past(&error))?,
                    () = self.stop.cancelled() => return Ok(()),
                };
                self.take_past(item)
            }
            Phase::Recent { until } => {
                let until = *until;
                self.read_recent(until)
            }
            Phase::Live => self.read_live().await,
        }
    }

    fn read_agents(&mut self, after: Option<AgentId>) {
        let page = self.node.replica().directory().page(&self.filter, after, AGENTS_AT_ONCE);
        // Encoded once the lock is given back.
        let told = |known: &Known| watch::snapshot(&known.agent, &known.pulse, known.revision);
        self.ready.extend(page.agents.iter().map(told));
        self.phase = match page.next {
            Some(last) => Phase::Snapshot { after: Some(last) },
            None => self.synced(),
        };
    }

    fn take_past(&mut self, item: FeedItem) -> Result<(), Status> {
        let Now { wall_s, .. } = now();
        match item {
            FeedItem::Put { value, revision, .. } => {
                // One that cannot be read here was passed over when it was folded, too.
                let Ok(agent) = Agent::decode(&value) else { return Ok(()) };
                let event = Event::put(wall_s, revision, Arc::new(agent), None);
                self.ready.push_back(event.for_resumed_watch(&self.filter));
                self.cursor.revision = revision;
            }
            FeedItem::Delete { last, revision, .. } => {
                let Ok(agent) = Agent::decode(&last) else { return Ok(()) };
                let event = Event::delete(wall_s, revision, Arc::new(agent));
                self.ready.push_back(event.for_resumed_watch(&self.filter));
                self.cursor.revision = revision;
            }
            FeedItem::InSync { revision } => {
                self.cursor.revision = self.cursor.revision.max(revision);
                let until = self.node.log().latest();
                self.phase = Phase::Recent { until };
            }
            FeedItem::Replicas(_) => {}
        }
        Ok(())
    }

    fn read_recent(&mut self, until: Revision) -> Result<(), Status> {
        if self.read()? == 0 || self.cursor.revision >= until {
            self.phase = self.synced();
        }
        Ok(())
    }

    async fn read_live(&mut self) -> Result<(), Status> {
        // Marked first, so that nothing can come in between unseen.
        self.folded.mark_unchanged();
        if self.read()? > 0 {
            return Ok(());
        }
        // Whoever stops the replica wakes every watch: thousands that wait for that as well would be in each other's way.
        self.folded.changed().await.map_err(|_| self.ended("this replica stops"))
    }

    /// Takes the events that concern this watch, of those that come next, and says how many there were.
    fn read(&mut self) -> Result<usize, Status> {
        let Self { node, filter, ready, cursor, .. } = self;
        let take = |event: &Event| ready.extend(event.for_watch(filter));
        let read = node.log().read(cursor, EVENTS_AT_ONCE, take);
        read.map_err(|lost| match lost {
            Lost::Reset => Status::out_of_range(
                "resume_revision: what happened since is not known here; watch again without it",
            ),
            Lost::Behind { .. } => {
                self.node.metrics.slow_watch();
                self.ended("it fell behind what is kept for watches that are slow")
            }
        })
    }

    /// Says that the watch is in sync, and where.
    fn synced(&mut self) -> Phase {
        self.ready.push_back(watch::in_sync(now().wall_s, self.cursor.revision));
        Phase::Live
    }

    fn ended(&self, why: &str) -> Status {
        let resume = match self.phase {
            Phase::Snapshot { .. } => "watch again".to_owned(),
            _ => format!("resume with resume_revision {}", self.cursor.revision),
        };
        let text = format!("the watch was ended, because {why}; {resume}");
        if self.stop.is_cancelled() {
            Status::unavailable(text)
        } else {
            Status::resource_exhausted(text)
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.node.metrics.watches.down();
    }
}

/// Waits a moment for a revision that another replica may have told. If it does not come, the store says whether there is
/// such a revision: this replica may be behind.
async fn caught_up(node: &Node, revision: Revision) -> Result<(), Status> {
    let mut folded = node.folded();
    let reached = folded.wait_for(|folded| folded.is_some_and(|folded| folded >= revision));
    if let Ok(Ok(_)) = tokio::time::timeout(CATCH_UP_DEADLINE, reached).await {
        return Ok(());
    }
    let latest = node.log().latest();
    let known = tokio::time::timeout(CATCH_UP_DEADLINE, node.store().follow(Some(revision))).await;
    Err(match known {
        Ok(Err(StoreError::Compacted { .. })) => Status::out_of_range(format!(
            "resume_revision: {revision} lies in the future, the latest revision is {latest}; watch again \
             without it"
        )),
        Ok(_) | Err(_) => Status::unavailable(format!(
            "this replica has not come to revision {revision}, it is at {latest}; watch again"
        )),
    })
}

async fn past(node: &Node, from: Revision) -> Result<Feed, Status> {
    node.store().follow(Some(from)).await.map_err(|error| lost_past(&error))
}

fn lost_past(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { oldest } => Status::out_of_range(format!(
            "resume_revision: changes up to {oldest} are not kept any more; watch again without it"
        )),
        other => Status::unavailable(format!("{other}; watch again")),
    }
}

#[cfg(test)]
mod tests;
