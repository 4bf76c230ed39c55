//! What runs beside the service: the store's feed is folded, silence is judged, changes are written.
//!
//! ```text
//!  store ──feed──▶ follow ──▶ Replica ◀──requests── service
//!    ▲                          │ acts
//!    └──────── write ◀── judge ─┘
//! ```

use crate::agent::{Agent, AgentId};
use crate::liveness::Vital;
use crate::metrics::Metrics;
use crate::replica::{Act, Now, Replica, Written};
use crate::store::{Change, Feed, FeedItem, Revision, Store, StoreError};
use crate::watch::WatchLog;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Changes that are written at once: a store makes one transaction of what comes together, and a fleet that falls
/// silent comes together.
const WRITES_MAX: usize = 256;
/// How long a store may take for a change. It may have made one that took longer.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a change may take to come back through the feed. It is made by then; only this view of it is late.
const FOLD_DEADLINE: Duration = Duration::from_secs(2);
/// How soon, and at most how late, a feed that ended is followed again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// A replica, its store, and whoever waits for either.
pub(crate) struct Node {
    replica: Mutex<Replica>,
    log: Arc<RwLock<WatchLog>>,
    store: Arc<dyn Store>,
    /// What was folded last; `None` until the first snapshot is complete.
    folded: watch::Sender<Option<Revision>>,
    waiting: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
    restless: Notify,
    /// Whether a mass expiry keeps the silent from dying.
    frozen: watch::Sender<bool>,
    pub(crate) metrics: Metrics,
}

impl Node {
    pub(crate) fn new(replica: Replica, store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            log: replica.log(),
            replica: Mutex::new(replica),
            store,
            folded: watch::Sender::new(None),
            waiting: Mutex::default(),
            restless: Notify::new(),
            frozen: watch::Sender::new(false),
            metrics: Metrics::default(),
        })
    }

    /// The replica. The lock is held for microseconds and never across an await.
    pub(crate) fn replica(&self) -> MutexGuard<'_, Replica> {
        // A panic leaves it usable: each of its methods changes it in one step, after every check.
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self) -> RwLockReadGuard<'_, WatchLog> {
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// What was folded last, and each later value; `None` before the first snapshot.
    pub(crate) fn folded(&self) -> watch::Receiver<Option<Revision>> {
        self.folded.subscribe()
    }

    /// Whether the fleet is known, perhaps as it was a moment ago.
    pub(crate) fn is_synced(&self) -> bool {
        self.folded.borrow().is_some()
    }

    /// Whether a mass expiry keeps the silent from dying, and each change of that.
    pub(crate) fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Changes the replica, and sees to what follows from that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Replica) -> T) -> T {
        let mut replica = self.replica();
        let answer = change(&mut replica);
        if replica.is_restless() {
            self.restless.notify_one();
        }
        answer
    }

    /// Makes a change, and waits until this replica has it.
    pub(crate) async fn write(&self, change: Change) -> Result<Revision, StoreError> {
        let revision = self.try_write(change).await?;
        if let Some(folded) = self.awaited(revision) {
            // Late or not: the change is made.
            _ = tokio::time::timeout(FOLD_DEADLINE, folded).await;
        }
        Ok(revision)
    }

    async fn try_write(&self, change: Change) -> Result<Revision, StoreError> {
        let written = tokio::time::timeout(WRITE_DEADLINE, self.store.write(change));
        let late = |late| Err(StoreError::Unavailable(Box::new(late)));
        self.metrics.timed_store(async { written.await.unwrap_or_else(late) }).await
    }

    /// Resolves once `revision` is folded; `None` if it is.
    fn awaited(&self, revision: Revision) -> Option<oneshot::Receiver<()>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.folded.borrow().is_some_and(|folded| folded >= revision) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.entry(revision).or_default().push(sender);
        Some(receiver)
    }

    /// Follows the store for ever, from wherever its feed ended.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut delay = RETRY_MIN;
        loop {
            let from = *self.folded.borrow();
            let error = match self.open(from).await {
                Ok(feed) => self.drain(feed, &mut delay).await,
                Err(error) => error,
            };
            if let StoreError::Compacted { .. } = error {
                tracing::warn!(%error, "every agent is read again, and every watch begins anew");
                self.forget_position();
                continue;
            }
            self.metrics.feed_cut();
            tracing::warn!(%error, "the store's feed ended; what is known is served meanwhile");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    async fn open(&self, from: Option<Revision>) -> Result<Feed, StoreError> {
        let feed = self.store.follow(from).await?;
        if from.is_none() {
            self.replica().begin_snapshot();
        }
        Ok(feed)
    }

    async fn drain(&self, mut feed: Feed, delay: &mut Duration) -> StoreError {
        loop {
            match feed.next().await {
                Ok(item) => self.take(item, delay),
                Err(error) => return error,
            }
        }
    }

    fn take(&self, item: FeedItem, delay: &mut Duration) {
        if let FeedItem::InSync { .. } = item {
            *delay = RETRY_MIN;
        }
        // Before the end of a snapshot, only its end is a position to resume from.
        let position = match &item {
            FeedItem::InSync { revision } => Some(*revision),
            item => item.revision().filter(|_| self.is_synced()),
        };
        if let Err(wrong) = self.change(|replica| replica.fold(now(), item)) {
            tracing::error!(wrong, "a record of the store cannot be read and is passed over");
        }
        if let Some(revision) = position {
            self.folded_up_to(revision);
        }
    }

    fn folded_up_to(&self, revision: Revision) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.folded.send_replace(Some(revision));
        let later = waiting.split_off(&Revision(revision.0 + 1));
        let ready = std::mem::replace(&mut *waiting, later);
        for waiter in ready.into_values().flatten() {
            // Whoever gave up waiting is gone.
            _ = waiter.send(());
        }
    }

    fn forget_position(&self) {
        self.folded.send_replace(None);
    }

    /// Wakes every watch once the replica is to stop, so that each ends.
    pub(crate) async fn end_watches(self: Arc<Self>, stop: CancellationToken) {
        stop.cancelled().await;
        self.folded.send_modify(|_| ());
    }

    /// Judges silence and writes what follows, for ever.
    pub(crate) async fn judge(self: Arc<Self>) {
        loop {
            let wake = self.replica().poll_timeout();
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {
                    self.metrics.looked();
                    self.replica().handle_timeout(now());
                }
                () = self.restless.notified() => {}
            }
            stream::iter(self.acts())
                .for_each_concurrent(WRITES_MAX, |(id, change, vital)| {
                    self.perform(id, change, vital)
                })
                .await;
        }
    }

    /// Everything that is to be written now. What is only to be said is said here.
    fn acts(&self) -> Vec<(AgentId, Change, Vital)> {
        let mut writes = Vec::new();
        let mut replica = self.replica();
        while let Some(act) = replica.poll_act() {
            match act {
                Act::Freeze { suspects, of } => {
                    self.metrics.frozen();
                    self.frozen.send_replace(true);
                    tracing::error!(
                        suspects,
                        of,
                        "many agents fell silent together: none is given up until they return or the limit passes; \
                         see whether the network between them and the registry works"
                    );
                }
                Act::Thaw { recovered } => {
                    self.frozen.send_replace(false);
                    tracing::warn!(recovered, "silent agents are given up again");
                }
                Act::Write { id, change, vital } => writes.push((id, change, vital)),
            }
        }
        writes
    }

    async fn perform(&self, id: AgentId, change: Change, vital: Vital) {
        // Read before, for the feed may have removed it by then.
        let known = self.replica().directory().agent(id).map(|known| Arc::clone(&known.agent));
        let written = self.try_write(change).await;
        match &written {
            Ok(_) => self.note(id, vital, known.as_deref()),
            // The feed tells what it is instead, and what follows.
            Err(StoreError::Conflict) => {}
            Err(error) => {
                tracing::warn!(agent = %id, %error, "a change of standing is not stored; it is tried again");
            }
        }
        let what = match written {
            Ok(_) => Written::Made,
            Err(StoreError::Conflict) => Written::Conflict,
            Err(_) => Written::Unknown,
        };
        self.change(|replica| replica.written(id, what));
    }

    fn note(&self, id: AgentId, vital: Vital, known: Option<&Agent>) {
        let agent_type = known.map(|known| known.registration.agent_type).unwrap_or_default();
        let owner = known.map_or("", |known| &*known.owner);
        match vital {
            Vital::Alive => tracing::debug!(agent = %id, owner, "its standing changed"),
            Vital::Suspect => tracing::info!(agent = %id, owner, "suspect: no heartbeat"),
            Vital::Dead => {
                self.metrics.died(agent_type);
                tracing::warn!(agent = %id, owner, "dead: no heartbeat");
            }
            Vital::Gone => {
                self.metrics.removed(agent_type);
                tracing::warn!(agent = %id, owner, "removed: no heartbeat");
            }
        }
    }
}

/// This moment.
pub(crate) fn now() -> Now {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall_s = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    Now { monotonic: Instant::now(), wall_s }
}
