//! Which changes are records.

use super::{beginning, id, revision, row};
use crate::agent::AgentId;
use crate::store::{FeedItem, Revision};
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use std::collections::{BTreeSet, HashMap};

/// The change that is each agent's record, and those that are none.
#[derive(Debug)]
pub(super) struct Current {
    latest: Revision,
    records: HashMap<AgentId, Revision>,
    /// Deletions, and what was changed again.
    superseded: BTreeSet<Revision>,
}

impl Current {
    /// Reads every change once.
    pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let latest = beginning(&mut *connection).await?;
        let mut current = Self { latest, records: HashMap::new(), superseded: BTreeSet::new() };
        let mut rows = sqlx::query("SELECT revision, id, deleted FROM changes ORDER BY revision")
            .fetch(connection);
        while let Some(row) = rows.try_next().await? {
            current.note(id(&row)?, revision(row.try_get("revision")?), row.try_get("deleted")?);
        }
        Ok(current)
    }

    /// The revision of the last change, or where the file began.
    pub(super) fn latest(&self) -> Revision {
        self.latest
    }

    /// The change that is the agent's record.
    pub(super) fn record(&self, id: AgentId) -> Option<Revision> {
        self.records.get(&id).copied()
    }

    /// Whether this change, which is in the file, is a record.
    pub(super) fn is_record(&self, revision: Revision) -> bool {
        !self.superseded.contains(&revision)
    }

    /// What was committed.
    pub(super) fn take(&mut self, committed: &[FeedItem]) {
        for (revision, id, is_deleted, _) in committed.iter().filter_map(row) {
            self.note(id, revision, is_deleted);
        }
    }

    /// The first changes up to `until` that are no records, this many at most.
    pub(super) fn superseded(&self, until: Revision, max: usize) -> Vec<Revision> {
        self.superseded.range(..=until).take(max).copied().collect()
    }

    /// These are not in the file any more.
    pub(super) fn forget(&mut self, forgotten: &[Revision]) {
        for revision in forgotten {
            self.superseded.remove(revision);
        }
    }

    fn note(&mut self, id: AgentId, revision: Revision, is_deleted: bool) {
        self.latest = self.latest.max(revision);
        let before = if is_deleted {
            self.superseded.insert(revision);
            self.records.remove(&id)
        } else {
            self.records.insert(id, revision)
        };
        self.superseded.extend(before);
    }
}
