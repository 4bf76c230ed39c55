//! A store that forgets everything with its process.

use super::{Change, Feed, FeedItem, Revision, Store, StoreError};
use crate::agent::{AgentId, ReplicaId};
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Items under way to one follower: it reads them as fast as memory is written, so this is only slack.
const FEED_MAX: usize = 256;

/// Records in memory. Clones are one store.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changes_max: usize,
    latest: watch::Sender<Revision>,
    cuts: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The value of each record, and the revision of its last change.
    records: BTreeMap<AgentId, (Bytes, Revision)>,
    changes: VecDeque<(Revision, FeedItem)>,
    replicas: BTreeSet<ReplicaId>,
    latest: Revision,
    /// Changes up to this one are forgotten.
    oldest: Revision,
}

impl Memory {
    /// An empty store with one replica, which remembers this many changes for those who come back.
    pub(crate) fn new(replica: ReplicaId, changes_max: usize) -> Self {
        let state = State { replicas: [replica].into(), ..State::default() };
        let (latest, cuts) = (watch::Sender::new(Revision(0)), watch::Sender::new(()));
        Self(Arc::new(Shared { state: Mutex::new(state), changes_max, latest, cuts }))
    }

    /// Ends every feed.
    pub(super) fn cut(&self) {
        self.0.cuts.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each method changes the state in one step, after every check.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what there is, and then each change, until nobody reads.
    async fn feed(self, start: Start, items: mpsc::Sender<Result<FeedItem, StoreError>>) {
        let (mut latest, mut cuts) = (self.0.latest.subscribe(), self.0.cuts.subscribe());
        let Start { first, mut at } = start;
        for item in first {
            if items.send(Ok(item)).await.is_err() {
                return;
            }
        }
        loop {
            let read = self.state().after(at);
            let changes = match read {
                Ok(changes) => changes,
                Err(error) => {
                    // Nobody may read any more.
                    _ = items.send(Err(error)).await;
                    return;
                }
            };
            for (revision, item) in changes {
                at = revision;
                if items.send(Ok(item)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                // The sender is ours.
                changed = latest.wait_for(|latest| *latest > at) => if changed.is_err() { return },
                _ = cuts.changed() => return,
                () = items.closed() => return,
            }
        }
    }
}

/// What a feed begins with, and where it goes on.
struct Start {
    first: Vec<FeedItem>,
    at: Revision,
}

impl State {
    fn start(&self, from: Option<Revision>) -> Result<Start, StoreError> {
        let mut first = vec![FeedItem::Replicas(self.replicas.clone())];
        match from {
            Some(from) => first.extend(self.after(from)?.into_iter().map(|(_, item)| item)),
            None => first.extend(self.records.iter().map(|(id, (value, revision))| {
                FeedItem::Put { id: *id, value: value.clone(), revision: *revision }
            })),
        }
        first.push(FeedItem::InSync { revision: self.latest });
        Ok(Start { first, at: self.latest })
    }

    fn after(&self, from: Revision) -> Result<Vec<(Revision, FeedItem)>, StoreError> {
        if from < self.oldest || from > self.latest {
            return Err(StoreError::Compacted { oldest: self.oldest });
        }
        let begin = self.changes.partition_point(|(revision, _)| *revision <= from);
        Ok(self.changes.iter().skip(begin).cloned().collect())
    }

    fn apply(&mut self, change: Change) -> Result<Revision, StoreError> {
        let (id, revision) = (change.id(), Revision(self.latest.0 + 1));
        let (value, at) = self.records.get(&id).cloned().unzip();
        let item = change.told(revision, at, |_| value.ok_or(StoreError::Conflict))?;
        match &item {
            FeedItem::Put { value, .. } => _ = self.records.insert(id, (value.clone(), revision)),
            _ => _ = self.records.remove(&id),
        }
        self.changes.push_back((revision, item));
        self.latest = revision;
        Ok(revision)
    }

    fn forget(&mut self, changes_max: usize) {
        while self.changes.len() > changes_max {
            self.oldest = self.changes.pop_front().map_or(self.oldest, |(revision, _)| revision);
        }
    }
}

#[tonic::async_trait]
impl Store for Memory {
    async fn write(&self, change: Change) -> Result<Revision, StoreError> {
        let revision = {
            let mut state = self.state();
            let revision = state.apply(change)?;
            state.forget(self.0.changes_max);
            revision
        };
        self.0.latest.send_if_modified(|latest| {
            let newer = *latest < revision;
            *latest = revision.max(*latest);
            newer
        });
        Ok(revision)
    }

    async fn follow(&self, from: Option<Revision>) -> Result<Feed, StoreError> {
        let start = self.state().start(from)?;
        let (sender, items) = mpsc::channel(FEED_MAX);
        tokio::spawn(self.clone().feed(start, sender));
        Ok(Feed::new(ReceiverStream::new(items)))
    }
}
