//! The store in one SQLite file. Only the conductor writes, so there is one connection and nothing to wait for.

use super::{Change, Claim, Logged, Received, Step, StoreError, Submission, Summary, Work};
use hive_plan::{Direction, Event, Outcome, PlanId, PlanStatus, TicketId, TicketName, UnixMillis};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Locked for as long as the store is open: one active conductor. The kernel lets go of it when the process dies.
const LOCK_FILE: &str = "orchestrator.lock";
const LOG_FILE: &str = "orchestrator.sqlite";
/// Tables are made where there are none; there is one version of them so far.
const SCHEMA: &str = include_str!("schema.sql");

/// The open store.
#[derive(Debug)]
pub(crate) struct Store {
    connection: SqliteConnection,
    _lock: File,
}

impl Store {
    /// Opens the store in `directory`, or makes one. Refused while another process, or another store, has it open.
    pub(crate) async fn open(directory: &Path) -> Result<Self, StoreError> {
        let lock = lock(directory)?;
        let options = SqliteConnectOptions::new()
            .filename(directory.join(LOG_FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit that was acknowledged survives the power, not only the process.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let mut connection = options.connect().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
        Ok(Self { connection, _lock: lock })
    }

    /// Closes the file in an orderly way: the write-ahead log is folded in.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }

    /// Stores everything that one event changes, in one transaction.
    pub(crate) async fn commit(&mut self, step: Step<'_>) -> Result<(), StoreError> {
        let mut transaction = self.connection.begin().await?;
        if let Some((submission, name)) = step.submission {
            insert_plan(&mut transaction, submission, name, step.summary).await?;
        }
        if let Some(event) = step.event {
            append(&mut transaction, &step, event).await?;
        }
        summarise(&mut transaction, step.plan_id, step.summary).await?;
        for change in step.changes {
            apply(&mut transaction, change).await?;
        }
        if let Some(received) = step.received {
            keep(&mut transaction, received, step.at).await?;
        }
        if let Some(claim) = step.last_claim {
            let update = sqlx::query("UPDATE fencing SET last_claim = ?1 WHERE last_claim < ?1");
            update.bind(signed(claim)).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The plans that are not over, oldest first, each with its log.
    pub(crate) async fn running(&mut self) -> Result<Vec<Logged>, StoreError> {
        let rows = sqlx::query("SELECT * FROM plans WHERE ended_at_ms IS NULL ORDER BY number")
            .fetch_all(&mut self.connection)
            .await?;
        let mut running = Vec::with_capacity(rows.len());
        for row in &rows {
            let submission = submission(row)?;
            let events = self.events(&submission.plan_id).await?;
            running.push(Logged { submission, events });
        }
        Ok(running)
    }

    /// The outstanding work of the plans that are not over, in the order in which it may begin.
    pub(crate) async fn work(&mut self) -> Result<Vec<Work>, StoreError> {
        let rows = sqlx::query("SELECT * FROM work ORDER BY not_before_ms, plan_id, ticket")
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter().map(work).collect()
    }

    /// The greatest fencing token that was ever given out.
    pub(crate) async fn last_claim(&mut self) -> Result<u64, StoreError> {
        let last: i64 = sqlx::query_scalar("SELECT last_claim FROM fencing")
            .fetch_one(&mut self.connection)
            .await?;
        unsigned(last)
    }

    /// The plan that was stored under this submission ID, and the source it was stored with.
    pub(crate) async fn submitted(
        &mut self,
        submission_id: &str,
    ) -> Result<Option<Submission>, StoreError> {
        let row = sqlx::query("SELECT * FROM plans WHERE submission_id = ?")
            .bind(submission_id)
            .fetch_optional(&mut self.connection)
            .await?;
        row.as_ref().map(submission).transpose()
    }

    /// Up to two plans whose ID begins with `prefix`; the one with exactly this ID comes first.
    pub(crate) async fn matching(&mut self, prefix: &PlanId) -> Result<Vec<PlanId>, StoreError> {
        // '~' sorts behind every character of an ID, so this is the range of the prefix in the index.
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT plan_id FROM plans WHERE plan_id >= ?1 AND plan_id < ?1 || '~' ORDER BY plan_id LIMIT 2",
        )
        .bind(prefix.as_str())
        .fetch_all(&mut self.connection)
        .await?;
        ids.iter().map(|id| plan_id(id)).collect()
    }

    /// The last view of a plan that is over, encoded.
    pub(crate) async fn view(&mut self, plan_id: &PlanId) -> Result<Option<Vec<u8>>, StoreError> {
        let view: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT view FROM plans WHERE plan_id = ?")
                .bind(plan_id.as_str())
                .fetch_optional(&mut self.connection)
                .await?;
        Ok(view.flatten())
    }

    /// The latest plans, newest first.
    pub(crate) async fn latest(&mut self, limit: u32) -> Result<Vec<PlanId>, StoreError> {
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT plan_id FROM plans ORDER BY number DESC LIMIT ?")
                .bind(limit)
                .fetch_all(&mut self.connection)
                .await?;
        ids.iter().map(|id| plan_id(id)).collect()
    }

    /// The outcome that was received for a claim, if one was.
    pub(crate) async fn received(&mut self, claim: u64) -> Result<Option<Received>, StoreError> {
        let row = sqlx::query("SELECT * FROM outcomes WHERE claim = ?")
            .bind(signed(claim))
            .fetch_optional(&mut self.connection)
            .await?;
        row.as_ref().map(received).transpose()
    }

    async fn events(&mut self, plan_id: &PlanId) -> Result<Vec<(UnixMillis, Event)>, StoreError> {
        let rows = sqlx::query("SELECT at_ms, event FROM events WHERE plan_id = ? ORDER BY seq")
            .bind(plan_id.as_str())
            .fetch_all(&mut self.connection)
            .await?;
        let event = |row: &SqliteRow| {
            Ok((UnixMillis(row.try_get("at_ms")?), from_json("an event", row.try_get("event")?)?))
        };
        rows.iter().map(event).collect()
    }
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK_FILE);
    let unusable = |source| StoreError::Directory { path: path.clone(), source };
    // For its owner only: the log says who did what with which parameters.
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
    let options = File::options().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

async fn insert_plan(
    connection: &mut SqliteConnection,
    submission: &Submission,
    name: &str,
    summary: &Summary,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO plans (plan_id, submission_id, source, workspace, submitted_by, submitted_at_ms, name, \
         status, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(submission.plan_id.as_str())
    .bind(&submission.submission_id)
    .bind(&submission.source)
    .bind(&submission.workspace)
    .bind(&submission.submitted_by)
    .bind(submission.submitted_at.0)
    .bind(name)
    .bind(status_word(summary.status)?)
    .bind(signed(summary.revision))
    .execute(connection)
    .await?;
    Ok(())
}

async fn append(
    connection: &mut SqliteConnection,
    step: &Step<'_>,
    event: &Event,
) -> Result<(), StoreError> {
    // The revision counts the events, so it is also this event's place; a place taken twice would be refused.
    sqlx::query("INSERT INTO events (plan_id, seq, at_ms, event) VALUES (?, ?, ?, ?)")
        .bind(step.plan_id.as_str())
        .bind(signed(step.summary.revision))
        .bind(step.at.0)
        .bind(json(event)?)
        .execute(connection)
        .await?;
    Ok(())
}

async fn summarise(
    connection: &mut SqliteConnection,
    plan_id: &PlanId,
    summary: &Summary,
) -> Result<(), StoreError> {
    let (ended, view) = summary.over.as_ref().map(|(at, view)| (at.0, view.as_slice())).unzip();
    sqlx::query(
        "UPDATE plans SET status = ?, revision = ?, ended_at_ms = ?, view = ? WHERE plan_id = ?",
    )
    .bind(status_word(summary.status)?)
    .bind(signed(summary.revision))
    .bind(ended)
    .bind(view)
    .bind(plan_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply(connection: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Put(work) => put(connection, work).await,
        Change::Remove(ticket) => remove(connection, ticket).await,
    }
}

async fn put(connection: &mut SqliteConnection, work: &Work) -> Result<(), StoreError> {
    let claim = work.claim.as_ref();
    sqlx::query(
        "INSERT OR REPLACE INTO work (plan_id, ticket, direction, kind, attempt, not_before_ms, claim, claimed_by, \
         deadline_ms, stop_reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(work.ticket.plan.as_str())
    .bind(work.ticket.ticket.as_str())
    .bind(direction_word(work.ticket.direction))
    .bind(work.kind.as_str())
    .bind(work.attempt)
    .bind(work.not_before.0)
    .bind(claim.map(|claim| signed(claim.number)))
    .bind(claim.map(|claim| claim.worker.as_str()))
    .bind(claim.map(|claim| claim.deadline.0))
    .bind(claim.and_then(|claim| claim.stop.as_deref()))
    .execute(connection)
    .await?;
    Ok(())
}

async fn remove(connection: &mut SqliteConnection, ticket: &TicketId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM work WHERE plan_id = ? AND ticket = ? AND direction = ?")
        .bind(ticket.plan.as_str())
        .bind(ticket.ticket.as_str())
        .bind(direction_word(ticket.direction))
        .execute(connection)
        .await?;
    Ok(())
}

async fn keep(
    connection: &mut SqliteConnection,
    received: &Received,
    at: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO outcomes (claim, ticket_id, worker, outcome, envelope, received_at_ms) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(signed(received.claim))
    .bind(received.ticket.to_string())
    .bind(&received.worker)
    .bind(json(&received.outcome)?)
    .bind(&received.envelope)
    .bind(at.0)
    .execute(connection)
    .await?;
    Ok(())
}

fn submission(row: &SqliteRow) -> Result<Submission, StoreError> {
    Ok(Submission {
        plan_id: plan_id(row.try_get("plan_id")?)?,
        submission_id: row.try_get("submission_id")?,
        source: row.try_get("source")?,
        workspace: row.try_get("workspace")?,
        submitted_by: row.try_get("submitted_by")?,
        submitted_at: UnixMillis(row.try_get("submitted_at_ms")?),
    })
}

fn work(row: &SqliteRow) -> Result<Work, StoreError> {
    let plan = plan_id(row.try_get("plan_id")?)?;
    let (name, kind): (&str, &str) = (row.try_get("ticket")?, row.try_get("kind")?);
    let ticket = TicketName::parse(name).map_err(|_| unreadable("a ticket", name))?;
    let direction = match row.try_get("direction")? {
        "undo" => Direction::Undo,
        _ => Direction::Forward, // the table allows nothing else
    };
    Ok(Work {
        ticket: TicketId::new(plan, ticket, direction),
        kind: kind.parse().map_err(|_| unreadable("a kind", kind))?,
        attempt: row.try_get("attempt")?,
        not_before: UnixMillis(row.try_get("not_before_ms")?),
        claim: claim(row)?,
    })
}

fn claim(row: &SqliteRow) -> Result<Option<Claim>, StoreError> {
    let Some(number) = row.try_get::<Option<i64>, _>("claim")? else { return Ok(None) };
    Ok(Some(Claim {
        number: unsigned(number)?,
        worker: row.try_get("claimed_by")?,
        deadline: UnixMillis(row.try_get("deadline_ms")?),
        stop: row.try_get("stop_reason")?,
    }))
}

fn received(row: &SqliteRow) -> Result<Received, StoreError> {
    let ticket: &str = row.try_get("ticket_id")?;
    Ok(Received {
        claim: unsigned(row.try_get("claim")?)?,
        ticket: TicketId::parse(ticket).map_err(|_| unreadable("a ticket", ticket))?,
        worker: row.try_get("worker")?,
        outcome: from_json::<Outcome>("an outcome", row.try_get("outcome")?)?,
        envelope: row.try_get("envelope")?,
    })
}

fn plan_id(text: &str) -> Result<PlanId, StoreError> {
    PlanId::parse(text).map_err(|_| unreadable("a plan ID", text))
}

fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "forward",
        Direction::Undo => "undo",
    }
}

/// The word in the log's JSON, without the quotes: people read this table.
fn status_word(status: PlanStatus) -> Result<String, StoreError> {
    Ok(json(&status)?.trim_matches('"').to_owned())
}

fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unreadable("a value", &error.to_string()))
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| unreadable(what, &error.to_string()))
}

fn unreadable(what: &'static str, value: &str) -> StoreError {
    StoreError::Unreadable { what, value: value.to_owned() }
}

/// SQLite's integers are signed. A counter that starts at 0 never reaches the end of them.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| unreadable("a number", &number.to_string()))
}
