//! The store in one SQLite file, for a registry with one replica.
//!
//! One task writes. What waits while it commits becomes the next transaction, so that many share one wait for the disk.
//! Followers read what is committed, over connections of their own.

mod current;
mod feed;
mod writer;

pub(crate) use writer::Writer;

use super::{Change, Feed, FeedItem, Revision, Store, StoreError};
use crate::agent::{AgentId, ReplicaId};
use current::Current;
use feed::{COMMITS_MAX, Readers};
use prost::bytes::Bytes;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row, SqliteExecutor};
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::{broadcast, mpsc, oneshot};
use writer::{QUEUE_MAX, Request};

/// Locked for as long as the file is open. The kernel lets go of it when the process dies.
const LOCK_FILE: &str = "registry.lock";
const DATA_FILE: &str = "registry.sqlite";
/// Tables are made where there are none.
const SCHEMA: &str = include_str!("sqlite/schema.sql");
const FROM_RECORDS: &str = include_str!("sqlite/from_records.sql");
/// Of a file that is made; one that is there keeps its own.
const PAGE_BYTES: u32 = 1024;
/// Changes that are kept for those who come back: some 30 MB of agents of usual size.
const CHANGES_MAX: u64 = 65_536;
/// Followers that read at the same moment; each connection is a thread.
const READERS_MAX: u32 = 4;
/// How long a follower waits for one of them.
const READER_DEADLINE: Duration = Duration::from_secs(5);

/// Why the registry's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The directory cannot be used.
    #[error("the data directory {path} cannot be used; see that it exists and is writable")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another registry uses the directory.
    #[error("another registry uses {0}; stop it, or give this one a HIVE_DATA_DIR of its own")]
    InUse(PathBuf),
    /// SQLite refused.
    #[error("the records in HIVE_DATA_DIR cannot be read or written; see whether the disk is full")]
    Sqlite(#[from] sqlx::Error),
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Sqlite {
    requests: mpsc::Sender<Request>,
    readers: Readers,
}

impl Sqlite {
    /// Opens the file in `directory`, or makes one. Refused while another process, or another store, has it open. The
    /// writer is to be run; it ends once the store is dropped.
    pub(crate) async fn open(
        directory: &Path,
        replica: ReplicaId,
    ) -> Result<(Self, Writer), FileError> {
        Self::open_keeping(directory, replica, CHANGES_MAX).await
    }

    /// As [`open`](Self::open), with this many changes for those who come back.
    pub(super) async fn open_keeping(
        directory: &Path,
        replica: ReplicaId,
        changes_max: u64,
    ) -> Result<(Self, Writer), FileError> {
        let lock = lock(directory)?;
        let options = SqliteConnectOptions::new()
            .filename(directory.join(DATA_FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit that was acknowledged survives the power, not only the process.
            .synchronous(SqliteSynchronous::Full)
            // A change is a few hundred bytes, and each commit writes whole pages.
            .page_size(PAGE_BYTES)
            // Sixteen megabytes: pages that many commits change are folded in once.
            .pragma("wal_autocheckpoint", (16 * 1024 * 1024 / PAGE_BYTES).to_string());
        let mut connection = options.connect().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
        begin_history(&mut connection).await?;
        let current = Current::read(&mut connection).await?;
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(READER_DEADLINE)
            .connect_lazy_with(options.create_if_missing(false).read_only(true));
        let (committed, _) = broadcast::channel(COMMITS_MAX);
        let (sender, requests) = mpsc::channel(QUEUE_MAX);
        let readers = Readers { replica, pool, commits: committed.downgrade(), changes_max };
        let writer = Writer {
            connection,
            requests,
            current: Some(current),
            committed,
            changes_max,
            _lock: lock,
        };
        Ok((Self { requests: sender, readers }, writer))
    }
}

#[tonic::async_trait]
impl Store for Sqlite {
    async fn write(&self, change: Change) -> Result<Revision, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unavailable("the task that writes is gone".into());
        self.requests.send(Request { change, answer }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn follow(&self, from: Option<Revision>) -> Result<Feed, StoreError> {
        self.readers.follow(from).await
    }
}

fn lock(directory: &Path) -> Result<File, FileError> {
    let path = directory.join(LOCK_FILE);
    let unusable = |source| FileError::Directory { path: path.clone(), source };
    // For its owner only: the records say who runs where, and what he can do.
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
    let options = File::options().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// A new file begins with the microseconds of the clock: above all that one before it gave, unless that one made a
/// million changes a second for all its life.
async fn begin_history(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let begin = i64::try_from(since_epoch.as_micros()).unwrap_or_default();
    sqlx::query("INSERT OR IGNORE INTO beginning (one, revision) VALUES (1, ?)")
        .bind(begin)
        .execute(&mut *connection)
        .await?;
    let of_records = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = 'records'");
    if of_records.fetch_optional(&mut *connection).await?.is_some() {
        sqlx::raw_sql(FROM_RECORDS).execute(connection).await?;
    }
    Ok(())
}

/// The revision before the first change of this file.
async fn beginning(look: impl SqliteExecutor<'_>) -> Result<Revision, sqlx::Error> {
    let begin = sqlx::query_scalar("SELECT revision FROM beginning").fetch_one(look).await?;
    Ok(revision(begin))
}

/// The revision of the last change that is committed.
async fn latest(look: impl SqliteExecutor<'_>) -> Result<Revision, sqlx::Error> {
    let latest = sqlx::query_scalar(
        "SELECT max(revision) FROM (SELECT max(revision) AS revision FROM changes UNION SELECT revision FROM beginning)",
    );
    Ok(revision(latest.fetch_one(look).await?))
}

/// SQLite's integers are signed; a revision never reaches the end of them.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

/// The columns of a change: its revision, whose, whether that is deleted, and its value.
fn row(item: &FeedItem) -> Option<(Revision, AgentId, bool, &Bytes)> {
    match item {
        FeedItem::Delete { id, last, revision } => Some((*revision, *id, true, last)),
        FeedItem::Put { id, value, revision } => Some((*revision, *id, false, value)),
        FeedItem::InSync { .. } | FeedItem::Replicas(_) => None,
    }
}

/// Reads the column `id`.
fn id(row: &SqliteRow) -> Result<AgentId, sqlx::Error> {
    let bytes: &[u8] = row.try_get("id")?;
    let wrong = |_| sqlx::Error::Decode("an identifier has 16 bytes".into());
    Ok(AgentId::from_bytes(bytes.try_into().map_err(wrong)?))
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests;
