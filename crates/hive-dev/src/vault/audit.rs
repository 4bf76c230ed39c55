//! The audit log: one JSON object per line; who asked what, and what came of it, and never a secret.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::{Error, clock};

/// What a line of the log tells.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Entry {
    /// `request`, `lease_expired`, `lease_revoked`, `lease_revocation_failed`, `token_expired` or `token_revoked`.
    pub(super) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accessor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease_id: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// The open log.
pub(super) struct Audit(Option<Log>);

struct Log {
    path: PathBuf,
    file: Mutex<File>,
}

impl Audit {
    /// Appends to a file; without one, nothing is written.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self(None)) };
        let failed = |source| Error::Audit { path: path.to_owned(), source };
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
        Ok(Self(Some(Log { path: path.to_owned(), file: Mutex::new(file) })))
    }

    /// Writes one line. As in Vault, what cannot be audited must not be answered.
    pub(super) fn write(&self, entry: &Entry) -> Result<(), Error> {
        let Some(log) = &self.0 else { return Ok(()) };
        let failed = |source| Error::Audit { path: log.path.clone(), source };
        let line = Line { time: clock::rfc3339(SystemTime::now()), entry };
        let mut text = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        log.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text).map_err(failed)
    }

    /// Notes what happened by itself. The lease has ended whether or not the disk is full.
    pub(super) fn note(&self, entry: &Entry) {
        if let Err(error) = self.write(entry) {
            tracing::warn!(%error, event = entry.event, "an event is missing in the audit log");
        }
    }
}
