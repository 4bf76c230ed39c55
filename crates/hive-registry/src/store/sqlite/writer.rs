//! The task that writes: decides about what came together, commits it once, and answers each.

use super::feed::Commit;
use super::{revision, signed};
use crate::agent::AgentId;
use crate::store::{Change, FeedItem, Record, Revision, StoreError};
use prost::bytes::Bytes;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, QueryBuilder, Row, Sqlite};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Changes in one transaction: its statements stay far below SQLite's limit of 32,766 parameters.
const BATCH_MAX: usize = 512;
/// Changes that wait for a commit: those of two transactions. More of them wait in their callers.
pub(super) const QUEUE_MAX: usize = 2 * BATCH_MAX;

/// The task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) connection: SqliteConnection,
    pub(super) requests: mpsc::Receiver<Request>,
    /// The revision of the last change, for nobody else writes; `None` when a commit failed, which may be made or not.
    pub(super) latest: Option<Revision>,
    pub(super) committed: broadcast::Sender<Commit>,
    /// How many changes are kept for those who come back.
    pub(super) changes_max: u64,
    pub(super) _lock: File,
}

/// A change, and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) change: Change,
    pub(super) answer: oneshot::Sender<Result<Revision, StoreError>>,
}

/// A transaction that failed, said to each who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the change may not be stored; see whether the disk of HIVE_DATA_DIR is full")]
struct NotCommitted(#[source] Arc<sqlx::Error>);

/// What one transaction is to do: the changes that hold, and the records as they leave them.
struct Batch {
    latest: Revision,
    records: BTreeMap<AgentId, Option<Record>>,
    accepted: Vec<FeedItem>,
}

impl Writer {
    /// Writes until the store is dropped, and then closes the file in an orderly way.
    pub(crate) async fn run(mut self) {
        let mut requests = Vec::with_capacity(BATCH_MAX);
        while self.requests.recv_many(&mut requests, BATCH_MAX).await > 0 {
            let (changes, waiting): (Vec<_>, Vec<_>) =
                requests.drain(..).map(|request| (request.change, request.answer)).unzip();
            let answers = self.commit(changes).await.unwrap_or_else(|error| {
                tracing::error!(%error, "changes could not be committed");
                let error = NotCommitted(Arc::new(error));
                let failed = || Err(StoreError::Unavailable(Box::new(error.clone())));
                waiting.iter().map(|_| failed()).collect()
            });
            for (answer, waiting) in answers.into_iter().zip(waiting) {
                // Whoever gave up waiting is gone.
                _ = waiting.send(answer);
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the write-ahead log is folded in at the next start");
        }
    }

    async fn commit(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<Revision, StoreError>>, sqlx::Error> {
        let mut transaction = self.connection.begin().await?;
        let latest = match self.latest.take() {
            Some(latest) => latest,
            None => super::latest(&mut *transaction).await?,
        };
        let mut batch = Batch {
            latest,
            records: records(&mut transaction, &changes).await?,
            accepted: Vec::new(),
        };
        let answers = changes.into_iter().map(|change| batch.take(change)).collect();
        if batch.accepted.is_empty() {
            self.latest = Some(latest);
            return Ok(answers);
        }
        // Each number of changes makes statements of their own, which are not worth being kept.
        for mut statement in batch.statements() {
            statement.build().persistent(false).execute(&mut *transaction).await?;
        }
        advance(&mut transaction, batch.latest, self.changes_max).await?;
        transaction.commit().await?;
        self.latest = Some(batch.latest);
        // Nobody may follow at this moment.
        _ = self.committed.send(batch.accepted.into());
        Ok(answers)
    }
}

impl Batch {
    /// Decides about one change, with those before it in the same transaction made.
    fn take(&mut self, change: Change) -> Result<Revision, StoreError> {
        let revision = Revision(self.latest.0 + 1);
        let record = self.records.entry(change.id()).or_default();
        let item = change.applied_to(record, revision)?;
        self.latest = revision;
        self.accepted.push(item);
        Ok(revision)
    }

    fn statements(&self) -> Vec<QueryBuilder<Sqlite>> {
        [self.puts(), self.deletes(), Some(self.log())].into_iter().flatten().collect()
    }

    fn puts(&self) -> Option<QueryBuilder<Sqlite>> {
        let mut kept: Vec<(&AgentId, &Record)> = Vec::with_capacity(self.records.len());
        kept.extend(self.records.iter().filter_map(|(id, record)| Some((id, record.as_ref()?))));
        if kept.is_empty() {
            return None;
        }
        let mut query = QueryBuilder::new("INSERT OR REPLACE INTO records (id, value, revision) ");
        query.push_values(kept, |mut row, (id, record)| {
            row.push_bind(id.to_bytes().to_vec())
                .push_bind(record.value.to_vec())
                .push_bind(signed(record.revision));
        });
        Some(query)
    }

    fn deletes(&self) -> Option<QueryBuilder<Sqlite>> {
        let mut gone = self.records.iter().filter(|(_, record)| record.is_none()).peekable();
        gone.peek()?;
        let mut query = QueryBuilder::new("DELETE FROM records WHERE id IN (");
        let mut ids = query.separated(", ");
        for (id, _) in gone {
            ids.push_bind(id.to_bytes().to_vec());
        }
        query.push(")");
        Some(query)
    }

    fn log(&self) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::new("INSERT INTO changes (revision, id, deleted, value) ");
        query.push_values(self.accepted.iter().filter_map(row), |mut row, logged| {
            row.push_bind(signed(logged.0))
                .push_bind(logged.1.to_bytes().to_vec())
                .push_bind(logged.2)
                .push_bind(logged.3.to_vec());
        });
        query
    }
}

/// The columns of a change: its revision, whose, whether that is deleted, and its value.
fn row(item: &FeedItem) -> Option<(Revision, AgentId, bool, &Bytes)> {
    match item {
        FeedItem::Delete { id, last, revision } => Some((*revision, *id, true, last)),
        FeedItem::Put { id, value, revision } => Some((*revision, *id, false, value)),
        FeedItem::InSync { .. } | FeedItem::Replicas(_) => None,
    }
}

/// The records that the changes are about, as they are.
async fn records(
    connection: &mut SqliteConnection,
    changes: &[Change],
) -> Result<BTreeMap<AgentId, Option<Record>>, sqlx::Error> {
    let rows = selection(changes).build().persistent(false).fetch_all(connection).await?;
    rows.iter().map(|row| record(row).map(|(id, record)| (id, Some(record)))).collect()
}

fn selection(changes: &[Change]) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT id, value, revision FROM records WHERE id IN (");
    let mut ids = query.separated(", ");
    for change in changes {
        ids.push_bind(change.id().to_bytes().to_vec());
    }
    query.push(")");
    query
}

/// Reads the columns `id`, `value` and `revision`.
pub(super) fn record(row: &SqliteRow) -> Result<(AgentId, Record), sqlx::Error> {
    let value = Bytes::from(row.try_get::<Vec<u8>, _>("value")?);
    let record = Record { value, revision: revision(row.try_get("revision")?) };
    Ok((id(row)?, record))
}

/// Reads the column `id`.
pub(super) fn id(row: &SqliteRow) -> Result<AgentId, sqlx::Error> {
    let bytes: &[u8] = row.try_get("id")?;
    let wrong = |_| sqlx::Error::Decode("an identifier has 16 bytes".into());
    Ok(AgentId::from_bytes(bytes.try_into().map_err(wrong)?))
}

/// The position moves on, and what is too old to be resumed from is forgotten.
async fn advance(
    connection: &mut SqliteConnection,
    latest: Revision,
    changes_max: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE position SET latest = ?; DELETE FROM changes WHERE revision <= ?")
        .bind(signed(latest))
        .bind(signed(Revision(latest.0.saturating_sub(changes_max))))
        .execute(connection)
        .await?;
    Ok(())
}
