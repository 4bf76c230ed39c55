//! A store without I/O: the simplest that keeps the promises of `store::Store`.

use crate::agent::{AgentId, ReplicaId};
use crate::store::{Change, Expected, FeedItem, Revision};
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) records: BTreeMap<AgentId, (Bytes, Revision)>,
    changes: Vec<(Revision, FeedItem)>,
    pub(super) replicas: BTreeSet<ReplicaId>,
    pub(super) latest: Revision,
    oldest: Revision,
}

impl Ledger {
    /// Whether the change was made.
    pub(super) fn apply(&mut self, change: &Change) -> bool {
        let (id, expected) = match change {
            Change::Delete { id, expected } | Change::Put { id, expected, .. } => (*id, *expected),
        };
        let at = self.records.get(&id).map(|(_, revision)| *revision);
        let revision = Revision(self.latest.0 + 1);
        let as_expected = match expected {
            Expected::Absent => at.is_none(),
            Expected::Any => true,
            Expected::At(expected) => at == Some(expected),
        };
        let item = match (as_expected, change) {
            (false, _) => return false,
            (true, Change::Put { value, .. }) => {
                self.records.insert(id, (value.clone(), revision));
                FeedItem::Put { id, value: value.clone(), revision }
            }
            (true, Change::Delete { .. }) => match self.records.remove(&id) {
                Some((last, _)) => FeedItem::Delete { id, last, revision },
                None => return false,
            },
        };
        self.latest = revision;
        self.changes.push((revision, item));
        true
    }

    /// What changed after `from`; `None` if that is forgotten.
    pub(super) fn after(&self, from: Revision) -> Option<Vec<FeedItem>> {
        let known = from >= self.oldest;
        let begin = self.changes.partition_point(|(revision, _)| *revision <= from);
        known.then(|| self.changes[begin..].iter().map(|(_, item)| item.clone()).collect())
    }

    /// A feed from the beginning, as far as it can be told now.
    pub(super) fn snapshot(&self) -> VecDeque<FeedItem> {
        let put = |(id, (value, revision)): (&AgentId, &(Bytes, Revision))| FeedItem::Put {
            id: *id,
            value: value.clone(),
            revision: *revision,
        };
        let replicas = FeedItem::Replicas(self.replicas.clone());
        let mut items: VecDeque<FeedItem> = [replicas].into();
        items.extend(self.records.iter().map(put));
        items.push_back(FeedItem::InSync { revision: self.latest });
        items
    }

    /// Forgets all but the latest changes.
    pub(super) fn compact(&mut self, keep: usize) {
        let forgotten = self.changes.len().saturating_sub(keep);
        if let Some((revision, _)) = self.changes.drain(..forgotten).next_back() {
            self.oldest = revision;
        }
    }
}
