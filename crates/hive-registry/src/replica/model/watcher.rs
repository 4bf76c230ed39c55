//! A client that watches, and keeps what it was told.

use super::ledger::Ledger;
use crate::agent::{Agent, AgentId};
use crate::filter::Filter;
use crate::replica::Replica;
use crate::store::{FeedItem, Revision};
use crate::watch::{self, Cursor, Event};
use hive_api::registry::{AgentChangeEvent, EventType};
use prost::Message;
use prost::bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Watcher {
    pub(super) filter: Filter,
    /// The agents that it knows, each as of a revision.
    pub(super) view: BTreeMap<String, u64>,
    /// The replica that it watches.
    pub(super) seat: usize,
    /// Where it stands there; `None` before it has (again) begun.
    cursor: Option<Cursor>,
    /// The latest revision that it was told outside of a snapshot.
    resume: Option<Revision>,
}

impl Watcher {
    pub(super) fn new(filter: Filter, seat: usize) -> Self {
        Self { filter, view: BTreeMap::new(), seat, cursor: None, resume: None }
    }

    /// Its connection is lost; it goes on at this replica.
    pub(super) fn reconnect(&mut self, seat: usize) {
        self.cursor = None;
        self.seat = seat;
    }

    /// Reads at most `max` events of its replica, which begin with a way back or a snapshot.
    pub(super) fn read(&mut self, replica: &Replica, ledger: &Ledger, max: usize) {
        let log = replica.log();
        let log = log.read().expect("no panic");
        let Some(mut cursor) = self.cursor.or_else(|| self.begin(replica, ledger)) else { return };
        let mut told: Vec<Bytes> = Vec::new();
        let read = log.read(&mut cursor, max, |event| told.extend(event.for_watch(&self.filter)));
        match read {
            Ok(_) => {
                told.into_iter().for_each(|event| self.take(event));
                self.resume = Some(cursor.revision);
                self.cursor = Some(cursor);
            }
            Err(watch::Lost::Behind { .. }) => self.cursor = None,
            Err(watch::Lost::Reset) => self.forget(),
        }
    }

    fn begin(&mut self, replica: &Replica, ledger: &Ledger) -> Option<Cursor> {
        let log = replica.log();
        let log = log.read().expect("no panic");
        match self.resume {
            // It lies in this replica's future: wait for it.
            Some(from) if from > log.latest() => None,
            Some(from) if from >= log.since() => Some(log.cursor(from)),
            Some(from) => match ledger.after(from) {
                Some(items) => {
                    let at = items.iter().map(|item| self.take_past(item)).last();
                    let at = at.unwrap_or(from);
                    // What the log has beyond that is told next; the store may be ahead of it.
                    self.resume = Some(at);
                    (at <= log.latest()).then(|| log.cursor(at))
                }
                None => {
                    self.forget();
                    None
                }
            },
            None => {
                for known in replica.directory().agents() {
                    if self.filter.admits(&known.agent) {
                        self.take(watch::snapshot(&known.agent, &known.pulse, known.revision));
                    }
                }
                self.resume = Some(log.latest());
                Some(log.cursor(log.latest()))
            }
        }
    }

    fn take_past(&mut self, item: &FeedItem) -> Revision {
        let read = |bytes: &Bytes| Arc::new(Agent::decode(bytes).expect("it was written by us"));
        let event = match item {
            FeedItem::Put { value, revision, .. } => Event::put(0, *revision, read(value), None),
            FeedItem::Delete { last, revision, .. } => Event::delete(0, *revision, read(last)),
            FeedItem::InSync { .. } | FeedItem::Replicas(_) => panic!("a change was asked for"),
        };
        self.take(event.for_resumed_watch(&self.filter));
        event.revision
    }

    /// Out of range: all that is known may be wrong.
    fn forget(&mut self) {
        self.cursor = None;
        self.resume = None;
        self.view.clear();
    }

    fn take(&mut self, encoded: Bytes) {
        let event = AgentChangeEvent::decode(encoded).expect("it is an event");
        let agent = event.agent.as_ref().expect("each of these has an agent");
        if event.left || event.event_type() == EventType::Deregistered {
            self.view.remove(&agent.agent_id);
        } else {
            self.view.insert(agent.agent_id.clone(), agent.revision);
        }
    }

    /// What it should know.
    pub(super) fn expected(&self, ledger: &Ledger) -> BTreeMap<String, u64> {
        let meant = |(id, (value, revision)): (&AgentId, &(Bytes, Revision))| {
            let agent = Agent::decode(value).expect("it was written by us");
            self.filter.admits(&agent).then(|| (id.to_string(), revision.0))
        };
        ledger.records.iter().filter_map(meant).collect()
    }
}
