//! What followers read: every record in one look at the file, or the changes since, and then each commit.

use super::current::Current;
use super::{beginning, id, latest, revision, signed, unavailable};
use crate::agent::ReplicaId;
use crate::store::{Feed, FeedItem, Revision, StoreError};
use futures_util::{TryStreamExt, stream};
use prost::bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

/// Items under way to one follower, and changes that are read at once.
const FEED_MAX: usize = 256;

/// Connections that only read, and word of each commit.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    /// The one replica that there is.
    pub(super) replica: ReplicaId,
    pub(super) pool: SqlitePool,
    /// Weak, so that feeds end with the one who writes.
    pub(super) commits: broadcast::WeakSender<Commit>,
    /// How many changes are kept for those who come back.
    pub(super) changes_max: u64,
}

/// The changes of one transaction, in the order of their revisions.
pub(super) type Commit = Arc<[FeedItem]>;

/// Commits that a follower may be behind before it reads from the file what it missed.
pub(super) const COMMITS_MAX: usize = 16;

/// One follower: what there was is told beside it, and then it takes the commits.
struct Follower {
    past: Option<mpsc::Receiver<Result<FeedItem, StoreError>>>,
    readers: Readers,
    commits: broadcast::Receiver<Commit>,
    /// What comes next, and the revision of the last of it.
    ready: VecDeque<FeedItem>,
    at: Revision,
    /// What the file is to be asked for before the next commit.
    missed: Revision,
    commit: Option<Commit>,
}

/// What tells what there was.
struct Past {
    readers: Readers,
    items: mpsc::Sender<Result<FeedItem, StoreError>>,
}

/// Why the past ends early.
enum End {
    Failed(StoreError),
    /// Nobody reads any more.
    Unread,
}

impl Readers {
    pub(super) async fn follow(&self, from: Option<Revision>) -> Result<Feed, StoreError> {
        // Before the file is looked at, so that nothing can come in between unseen.
        let commits = self.commits.upgrade().ok_or(StoreError::Cut)?.subscribe();
        let latest = match from {
            Some(from) => Some((from, self.latest_since(from).await?)),
            None => None,
        };
        let (sender, items) = mpsc::channel(FEED_MAX);
        let past = Past { readers: self.clone(), items: sender };
        tokio::spawn(past.run(latest));
        let follower = Follower {
            past: Some(items),
            readers: self.clone(),
            commits,
            ready: VecDeque::new(),
            at: Revision::default(),
            missed: Revision::default(),
            commit: None,
        };
        Ok(Feed::new(stream::unfold(follower, async |mut follower| {
            Some((follower.next().await, follower))
        })))
    }

    /// The first changes behind `at` up to `until`, at least one.
    async fn changes(
        &self,
        at: Revision,
        until: Revision,
    ) -> Result<Vec<(Revision, FeedItem)>, StoreError> {
        let rows = sqlx::query(
            "SELECT revision, id, deleted, value FROM changes WHERE revision > ? AND revision <= ? \
             ORDER BY revision LIMIT ?",
        )
        .bind(signed(at))
        .bind(signed(until))
        .bind(i64::try_from(FEED_MAX).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(unavailable)?;
        let changes: Vec<_> =
            rows.iter().map(change).collect::<Result<_, _>>().map_err(unavailable)?;
        // Revisions have no gaps, so one that is missing was forgotten before this follower came to it.
        let mut expected = at.0;
        for (revision, _) in &changes {
            expected += 1;
            if revision.0 != expected {
                return Err(StoreError::Compacted { oldest: Revision(revision.0 - 1) });
            }
        }
        if changes.is_empty() { Err(StoreError::Compacted { oldest: until }) } else { Ok(changes) }
    }

    /// The last revision, if every change since `from` is known.
    async fn latest_since(&self, from: Revision) -> Result<Revision, StoreError> {
        let mut look = self.pool.begin().await.map_err(unavailable)?;
        let begin = beginning(&mut *look).await.map_err(unavailable)?;
        let latest = latest(&mut *look).await.map_err(unavailable)?;
        let oldest = begin.max(Revision(latest.0.saturating_sub(self.changes_max)));
        // A file that was put back is behind what it told before.
        if from < oldest || from > latest {
            return Err(StoreError::Compacted { oldest });
        }
        Ok(latest)
    }
}

impl Follower {
    async fn next(&mut self) -> Result<FeedItem, StoreError> {
        if let Some(past) = &mut self.past {
            let told = past.recv().await.unwrap_or(Err(StoreError::Cut));
            if let Ok(FeedItem::InSync { revision }) = told {
                (self.at, self.past) = (revision, None);
            }
            return told;
        }
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            if self.at < self.missed {
                let changes = self.readers.changes(self.at, self.missed).await?;
                self.at = changes.last().map_or(self.missed, |(revision, _)| *revision);
                self.ready.extend(changes.into_iter().map(|(_, item)| item));
            } else if let Some(commit) = self.commit.take() {
                self.take(&commit);
            } else {
                self.wait().await?;
            }
        }
    }

    /// Makes the changes of a commit ready that were not told.
    fn take(&mut self, commit: &[FeedItem]) {
        for item in commit {
            if let Some(revision) = item.revision().filter(|revision| *revision > self.at) {
                self.ready.push_back(item.clone());
                self.at = revision;
            }
        }
    }

    /// Waits for a commit, or learns that some were missed.
    async fn wait(&mut self) -> Result<(), StoreError> {
        match self.commits.recv().await {
            Ok(commit) => {
                let first = commit.iter().find_map(FeedItem::revision).unwrap_or_default();
                self.missed = Revision(first.0.saturating_sub(1));
                self.commit = Some(commit);
            }
            Err(RecvError::Lagged(_)) => {
                self.missed = latest(&self.readers.pool).await.map_err(unavailable)?;
            }
            Err(RecvError::Closed) => return Err(StoreError::Cut),
        }
        Ok(())
    }
}

impl Past {
    /// Tells what there is, from the start or from a revision up to the last one.
    async fn run(self, since: Option<(Revision, Revision)>) {
        if let Err(End::Failed(error)) = self.tell(since).await {
            // Nobody may read any more.
            _ = self.items.send(Err(error)).await;
        }
    }

    async fn tell(&self, since: Option<(Revision, Revision)>) -> Result<(), End> {
        self.send(FeedItem::Replicas([self.readers.replica.clone()].into())).await?;
        let revision = match since {
            Some((from, latest)) => self.changes(from, latest).await?,
            None => self.snapshot().await?,
        };
        self.send(FeedItem::InSync { revision }).await
    }

    /// Every record, and the revision of this look at the file.
    async fn snapshot(&self) -> Result<Revision, End> {
        let mut look = self.readers.pool.begin().await?;
        let current = Current::read(&mut look).await?;
        let mut rows =
            sqlx::query("SELECT revision, id, deleted, value FROM changes").fetch(&mut *look);
        while let Some(row) = rows.try_next().await? {
            let (revision, item) = change(&row)?;
            if current.is_record(revision) {
                self.send(item).await?;
            }
        }
        Ok(current.latest())
    }

    async fn changes(&self, mut at: Revision, until: Revision) -> Result<Revision, End> {
        while at < until {
            for (revision, item) in self.readers.changes(at, until).await.map_err(End::Failed)? {
                at = revision;
                self.send(item).await?;
            }
        }
        Ok(until)
    }

    async fn send(&self, item: FeedItem) -> Result<(), End> {
        self.items.send(Ok(item)).await.map_err(|_| End::Unread)
    }
}

impl From<sqlx::Error> for End {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(unavailable(error))
    }
}

fn change(row: &SqliteRow) -> Result<(Revision, FeedItem), sqlx::Error> {
    let revision = revision(row.try_get("revision")?);
    let (id, bytes) = (id(row)?, Bytes::from(row.try_get::<Vec<u8>, _>("value")?));
    let item = if row.try_get("deleted")? {
        FeedItem::Delete { id, last: bytes, revision }
    } else {
        FeedItem::Put { id, value: bytes, revision }
    };
    Ok((revision, item))
}
