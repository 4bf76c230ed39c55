//! What has changed, for those who follow: the latest events, in the order of their revisions.

use crate::agent::{Agent, Pulse};
use crate::encoding;
use crate::filter::Filter;
use crate::store::Revision;
use hive_api::registry::{AgentChangeEvent, EventType};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;

/// `left = true` as it is written behind an encoded event: field 5, a varint, 1.
const LEFT: [u8; 2] = [0x28, 0x01];

/// A change of one agent, encoded once for all who watch.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: Revision,
    agent: Arc<Agent>,
    /// What it was before; `None` if it is new or if nobody knows any more.
    before: Option<Arc<Agent>>,
    deregistered: bool,
    encoded: Bytes,
}

impl Event {
    /// The store has this record now.
    pub(crate) fn put(
        at: i64,
        revision: Revision,
        agent: Arc<Agent>,
        before: Option<Arc<Agent>>,
    ) -> Self {
        Self::new(at, revision, agent, before, false)
    }

    /// The store has this record no more.
    pub(crate) fn delete(at: i64, revision: Revision, last: Arc<Agent>) -> Self {
        Self::new(at, revision, Arc::clone(&last), Some(last), true)
    }

    fn new(
        at: i64,
        revision: Revision,
        agent: Arc<Agent>,
        before: Option<Arc<Agent>>,
        deregistered: bool,
    ) -> Self {
        let event_type = if deregistered { EventType::Deregistered } else { agent.cause };
        let told = AgentChangeEvent {
            event_type: event_type.into(),
            timestamp: at,
            revision: revision.0,
            ..AgentChangeEvent::default()
        };
        let encoded = encoding::event(&told, &agent, &agent.pulse, revision.0);
        Self { revision, agent, before, deregistered, encoded }
    }

    /// The encoded event for a watch with this filter; `None` if it does not concern it.
    pub(crate) fn for_watch(&self, filter: &Filter) -> Option<Bytes> {
        let admitted = filter.admits(&self.agent);
        if admitted && !self.deregistered {
            return Some(self.encoded.clone());
        }
        let was = self.before.as_ref().is_some_and(|before| filter.admits(before));
        if self.deregistered { was.then(|| self.encoded.clone()) } else { was.then(|| self.left()) }
    }

    /// The encoded event for a watch that may have seen the agent, or not.
    pub(crate) fn for_resumed_watch(&self, filter: &Filter) -> Bytes {
        if self.deregistered || filter.admits(&self.agent) {
            self.encoded.clone()
        } else {
            self.left()
        }
    }

    fn left(&self) -> Bytes {
        let mut encoded = BytesMut::with_capacity(self.encoded.len() + LEFT.len());
        encoded.put(&*self.encoded);
        encoded.put(&LEFT[..]);
        encoded.freeze()
    }
}

/// An agent that was there when a watch began.
pub(crate) fn snapshot(agent: &Agent, pulse: &Pulse, revision: Revision) -> Bytes {
    let told = AgentChangeEvent {
        event_type: EventType::Registered.into(),
        timestamp: agent.registered_at,
        // A watch that is cut within its snapshot has nothing to resume from.
        revision: 0,
        snapshot: true,
        ..AgentChangeEvent::default()
    };
    encoding::event(&told, agent, pulse, revision.0)
}

/// The event that says that what was true when the watch began has been sent.
pub(crate) fn in_sync(at: i64, revision: Revision) -> Bytes {
    let told = AgentChangeEvent {
        event_type: EventType::InSync.into(),
        timestamp: at,
        revision: revision.0,
        ..AgentChangeEvent::default()
    };
    told.encode_to_vec().into()
}

/// The latest events.
#[derive(Debug)]
pub(crate) struct WatchLog {
    events: VecDeque<Event>,
    capacity: usize,
    /// Every event after this one is here.
    since: Revision,
    /// The latest change that was looked at, whether or not it made an event.
    latest: Revision,
    /// Grows with each reset: whoever began before one has missed something.
    history: u64,
}

/// Where a watch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) revision: Revision,
    history: u64,
}

/// Why a watch cannot go on from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Changes after `since` are known, and the watch stands before it.
    Behind { since: Revision },
    /// What happened in between is not known to anybody: it has to begin anew.
    Reset,
}

impl WatchLog {
    pub(crate) fn new(capacity: usize) -> Self {
        let none = Revision(0);
        Self { events: VecDeque::new(), capacity, since: none, latest: none, history: 0 }
    }

    /// The latest change.
    pub(crate) fn latest(&self) -> Revision {
        self.latest
    }

    /// Every event after this one is here.
    pub(crate) fn since(&self) -> Revision {
        self.since
    }

    pub(crate) fn append(&mut self, event: Event) {
        self.latest = self.latest.max(event.revision);
        self.events.push_back(event);
        while self.events.len() > self.capacity {
            if let Some(forgotten) = self.events.pop_front() {
                self.since = forgotten.revision;
            }
        }
    }

    /// There is no event up to this revision that is not here.
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.latest = self.latest.max(revision);
    }

    /// Forgets all: what led to the state at `revision` is not known. Every watch has to begin anew.
    pub(crate) fn reset(&mut self, revision: Revision) {
        self.events.clear();
        self.since = revision;
        self.latest = revision;
        self.history += 1;
    }

    /// A place in this log, for a watch that has seen everything up to `revision`.
    pub(crate) fn cursor(&self, revision: Revision) -> Cursor {
        Cursor { revision, history: self.history }
    }

    /// Shows at most `max` events behind the cursor, which moves there, and says how many there were.
    pub(crate) fn read(
        &self,
        cursor: &mut Cursor,
        max: usize,
        mut show: impl FnMut(&Event),
    ) -> Result<usize, Lost> {
        if cursor.history != self.history {
            return Err(Lost::Reset);
        }
        if cursor.revision < self.since {
            return Err(Lost::Behind { since: self.since });
        }
        // Most who look have everything.
        if cursor.revision >= self.latest {
            return Ok(0);
        }
        let from = self.events.partition_point(|event| event.revision <= cursor.revision);
        let mut shown = 0;
        for event in self.events.range(from..).take(max) {
            show(event);
            cursor.revision = event.revision;
            shown += 1;
        }
        Ok(shown)
    }
}
