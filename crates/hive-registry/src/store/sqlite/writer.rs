//! The task that writes: decides about what came together, commits it once, and answers each.

use super::current::Current;
use super::feed::Commit;
use super::{revision, row, signed};
use crate::agent::AgentId;
use crate::store::{Change, FeedItem, Revision, StoreError};
use prost::bytes::Bytes;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, QueryBuilder, Row, Sqlite};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Changes in one transaction: its statements stay far below SQLite's limit of 32,766 parameters.
const BATCH_MAX: usize = 512;
/// Changes that wait for a commit: those of two transactions. More of them wait in their callers.
pub(super) const QUEUE_MAX: usize = 2 * BATCH_MAX;
/// Changes that one transaction forgets: twice as many as it makes, so that none are left behind.
const FORGOTTEN_MAX: usize = 2 * BATCH_MAX;

/// The task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) connection: SqliteConnection,
    pub(super) requests: mpsc::Receiver<Request>,
    /// What the file says, for nobody else writes; `None` when a commit failed, which may be made or not.
    pub(super) current: Option<Current>,
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
struct Batch<'a> {
    current: &'a Current,
    records: HashMap<AgentId, Option<Revision>>,
    /// Of the records that are to be deleted.
    values: HashMap<Revision, Bytes>,
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
        let mut current = match self.current.take() {
            Some(current) => current,
            None => Current::read(&mut self.connection).await?,
        };
        let values = doomed(&mut self.connection, &current, &changes).await?;
        let mut batch =
            Batch { current: &current, records: HashMap::new(), values, accepted: vec![] };
        let answers = changes.into_iter().map(|change| batch.take(change)).collect();
        let accepted = batch.accepted;
        if !accepted.is_empty() {
            let forgotten = self.write(&current, &accepted).await?;
            current.take(&accepted);
            current.forget(&forgotten);
            // Nobody may follow at this moment.
            _ = self.committed.send(accepted.into());
        }
        self.current = Some(current);
        Ok(answers)
    }

    /// Adds these changes to the file, and forgets old ones, which it names.
    async fn write(
        &mut self,
        current: &Current,
        accepted: &[FeedItem],
    ) -> Result<Vec<Revision>, sqlx::Error> {
        let kept_from =
            (current.latest().0 + accepted.len() as u64).saturating_sub(self.changes_max);
        let forgotten = current.superseded(Revision(kept_from), FORGOTTEN_MAX);
        let mut all = transaction(accepted, &forgotten);
        // Each number of changes makes statements of their own; only those of a lone change are worth being kept.
        let is_usual = accepted.len() == 1 && forgotten.len() <= 1;
        let made = all.build().persistent(is_usual).execute(&mut self.connection).await;
        if made.is_err() {
            // Refused if nothing is under way. If something stays so, no transaction begins until this succeeds.
            _ = sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await;
        }
        made.map(|_| forgotten)
    }
}

impl Batch<'_> {
    /// Decides about one change, with those before it in the same transaction made.
    fn take(&mut self, change: Change) -> Result<Revision, StoreError> {
        let id = change.id();
        let record = self.records.get(&id).copied().unwrap_or_else(|| self.current.record(id));
        let revision = Revision(self.current.latest().0 + 1 + self.accepted.len() as u64);
        let item = change.told(revision, record, |of| self.value(of))?;
        let is_put = matches!(item, FeedItem::Put { .. });
        self.records.insert(id, is_put.then_some(revision));
        self.accepted.push(item);
        Ok(revision)
    }

    /// Of a record that is in the file or was put just now.
    fn value(&self, of: Revision) -> Result<Bytes, StoreError> {
        let put_now = || {
            let place = of.0.checked_sub(self.current.latest().0 + 1)?;
            match self.accepted.get(usize::try_from(place).ok()?)? {
                FeedItem::Put { value, .. } => Some(value),
                _ => None,
            }
        };
        let value = self.values.get(&of).or_else(put_now).cloned();
        value.ok_or_else(|| super::unavailable(sqlx::Error::RowNotFound))
    }
}

/// One text, for each statement of its own would be carried to SQLite's thread and back.
fn transaction(accepted: &[FeedItem], forgotten: &[Revision]) -> QueryBuilder<Sqlite> {
    let mut query =
        QueryBuilder::new("BEGIN IMMEDIATE; INSERT INTO changes (revision, id, deleted, value) ");
    query.push_values(accepted.iter().filter_map(row), |mut row, change| {
        row.push_bind(signed(change.0))
            .push_bind(change.1.to_bytes().to_vec())
            .push_bind(change.2)
            .push_bind(change.3.to_vec());
    });
    if !forgotten.is_empty() {
        query.push("; DELETE FROM changes");
        among(&mut query, forgotten);
    }
    query.push("; COMMIT");
    query
}

/// The values of the records that these changes would delete.
async fn doomed(
    connection: &mut SqliteConnection,
    current: &Current,
    changes: &[Change],
) -> Result<HashMap<Revision, Bytes>, sqlx::Error> {
    let deletions = changes.iter().filter(|change| matches!(change, Change::Delete { .. }));
    let records: Vec<_> = deletions.filter_map(|change| current.record(change.id())).collect();
    if records.is_empty() {
        return Ok(HashMap::new());
    }
    let mut query = QueryBuilder::new("SELECT revision, value FROM changes");
    among(&mut query, &records);
    let rows = query.build().persistent(false).fetch_all(connection).await?;
    let read = |row: &SqliteRow| {
        let value = Bytes::from(row.try_get::<Vec<u8>, _>("value")?);
        Ok((revision(row.try_get("revision")?), value))
    };
    rows.iter().map(read).collect()
}

/// Bounds a statement to these revisions.
fn among(query: &mut QueryBuilder<Sqlite>, revisions: &[Revision]) {
    query.push(" WHERE revision IN (");
    let mut numbers = query.separated(", ");
    for revision in revisions {
        numbers.push_bind(signed(*revision));
    }
    query.push(")");
}
