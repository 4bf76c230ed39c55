//! What followers read: every record in one look at the file, or the changes since, and then each commit.

use super::current::Current;
use super::writer::id;
use super::{beginning, latest, revision, signed, unavailable};
use crate::agent::ReplicaId;
use crate::store::{Feed, FeedItem, Revision, StoreError};
use futures_util::TryStreamExt;
use prost::bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
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

/// One follower.
struct Follower {
    readers: Readers,
    commits: broadcast::Receiver<Commit>,
    items: mpsc::Sender<Result<FeedItem, StoreError>>,
}

/// Why a feed ends.
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
        let follower = Follower { readers: self.clone(), commits, items: sender };
        tokio::spawn(follower.run(latest));
        Ok(Feed::new(items))
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
    /// Tells what there is, from the start or from a revision up to the last one, and then each change.
    async fn run(mut self, since: Option<(Revision, Revision)>) {
        let Err(end) = self.tell(since).await;
        if let End::Failed(error) = end {
            // Nobody may read any more.
            _ = self.items.send(Err(error)).await;
        }
    }

    async fn tell(
        &mut self,
        since: Option<(Revision, Revision)>,
    ) -> Result<std::convert::Infallible, End> {
        self.send(FeedItem::Replicas([self.readers.replica.clone()].into())).await?;
        let mut at = match since {
            Some((from, latest)) => self.changes(from, latest).await?,
            None => self.snapshot().await?,
        };
        self.send(FeedItem::InSync { revision: at }).await?;
        loop {
            at = match self.next_commit().await? {
                Some(commit) => self.pass_on(at, &commit).await?,
                None => self.changes(at, self.latest().await?).await?,
            };
        }
    }

    /// Every record, and the revision of this look at the file.
    async fn snapshot(&self) -> Result<Revision, End> {
        let mut look = self.readers.pool.begin().await?;
        let current = Current::read(&mut look).await?;
        let mut rows =
            sqlx::query("SELECT revision, id, deleted, value FROM changes").fetch(&mut *look);
        while let Some(row) = rows.try_next().await? {
            let (revision, item) = change(&row)?;
            if current.is_record(id(&row)?, revision) {
                self.send(item).await?;
            }
        }
        Ok(current.latest())
    }

    /// The changes behind `at` up to `until`, and where that is.
    async fn changes(&self, mut at: Revision, until: Revision) -> Result<Revision, End> {
        while at < until {
            let rows = sqlx::query(
                "SELECT revision, id, deleted, value FROM changes WHERE revision > ? AND revision <= ? \
                 ORDER BY revision LIMIT ?",
            )
            .bind(signed(at))
            .bind(signed(until))
            .bind(i64::try_from(FEED_MAX).unwrap_or(i64::MAX))
            .fetch_all(&self.readers.pool)
            .await?;
            for row in &rows {
                let (revision, item) = change(row)?;
                // Revisions have no gaps, so one that is missing was forgotten before this follower came to it.
                if revision.0 != at.0 + 1 {
                    return Err(End::Failed(StoreError::Compacted {
                        oldest: Revision(revision.0 - 1),
                    }));
                }
                at = revision;
                self.send(item).await?;
            }
            if rows.is_empty() {
                return Err(End::Failed(StoreError::Compacted { oldest: until }));
            }
        }
        Ok(at.max(until))
    }

    /// The next commit; `None` if some were missed.
    async fn next_commit(&mut self) -> Result<Option<Commit>, End> {
        tokio::select! {
            commit = self.commits.recv() => match commit {
                Ok(commit) => Ok(Some(commit)),
                Err(RecvError::Lagged(_)) => Ok(None),
                Err(RecvError::Closed) => Err(End::Failed(StoreError::Cut)),
            },
            () = self.items.closed() => Err(End::Unread),
        }
    }

    /// Tells the changes of a commit that lie behind `at`, and what lies between from the file.
    async fn pass_on(&self, mut at: Revision, commit: &[FeedItem]) -> Result<Revision, End> {
        for item in commit {
            let Some(revision) = item.revision().filter(|revision| *revision > at) else {
                continue;
            };
            self.changes(at, Revision(revision.0 - 1)).await?;
            self.send(item.clone()).await?;
            at = revision;
        }
        Ok(at)
    }

    async fn latest(&self) -> Result<Revision, End> {
        Ok(latest(&self.readers.pool).await?)
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
