//! What followers read: every record in one look at the file, or the changes since, and then each commit.

use super::writer::{id, record};
use super::{revision, signed, unavailable};
use crate::agent::ReplicaId;
use crate::store::{Feed, FeedItem, Revision, StoreError};
use futures_util::TryStreamExt;
use prost::bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use tokio::sync::{mpsc, watch};

/// Items under way to one follower, and changes that are read at once.
const FEED_MAX: usize = 256;

/// Connections that only read, and word of each commit.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    /// The one replica that there is.
    pub(super) replica: ReplicaId,
    pub(super) pool: SqlitePool,
    pub(super) commits: watch::Receiver<Revision>,
}

/// One follower.
struct Follower {
    readers: Readers,
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
        let latest = match from {
            Some(from) => Some((from, self.latest_since(from).await?)),
            None => None,
        };
        let (sender, items) = mpsc::channel(FEED_MAX);
        let follower = Follower { readers: self.clone(), items: sender };
        tokio::spawn(follower.run(latest));
        Ok(Feed::new(items))
    }

    /// The last revision, if every change since `from` is known.
    async fn latest_since(&self, from: Revision) -> Result<Revision, StoreError> {
        let row = sqlx::query(
            "SELECT latest, coalesce((SELECT min(revision) - 1 FROM changes), latest) AS oldest FROM position",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(unavailable)?;
        let oldest = revision(row.try_get("oldest").map_err(unavailable)?);
        if from < oldest {
            return Err(StoreError::Compacted { oldest });
        }
        Ok(revision(row.try_get("latest").map_err(unavailable)?))
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
            let latest = self.next_commit(at).await?;
            at = self.changes(at, latest).await?;
        }
    }

    /// Every record, and the revision of this look at the file.
    async fn snapshot(&self) -> Result<Revision, End> {
        let mut look = self.readers.pool.begin().await?;
        let latest: i64 =
            sqlx::query_scalar("SELECT latest FROM position").fetch_one(&mut *look).await?;
        let mut rows = sqlx::query("SELECT id, value, revision FROM records").fetch(&mut *look);
        while let Some(row) = rows.try_next().await? {
            let (id, record) = record(&row)?;
            self.send(FeedItem::Put { id, value: record.value, revision: record.revision }).await?;
        }
        Ok(revision(latest))
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

    async fn next_commit(&mut self, at: Revision) -> Result<Revision, End> {
        tokio::select! {
            latest = self.readers.commits.wait_for(|latest| *latest > at) => match latest {
                Ok(latest) => Ok(*latest),
                Err(_) => Err(End::Failed(StoreError::Cut)),
            },
            () = self.items.closed() => Err(End::Unread),
        }
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
