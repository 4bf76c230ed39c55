//! A ticket's own directory.

use super::Assignment;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Removed when it is dropped, and off the async threads when it is removed explicitly.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    name: String,
}

impl Home {
    /// Makes it, with what commands expect of a home: a directory for temporary files.
    pub(super) fn make(tickets_dir: &Path, assignment: &Assignment) -> Result<Self, String> {
        // The claim makes the name unique: the same ticket may be tried again while the last try is still being cleared away.
        let ticket = &assignment.ticket;
        let name = format!("{}.{}", ticket.ticket_id.replace('/', "."), ticket.claim);
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'~' | b'_');
        if name.starts_with('.') || name.len() > 255 || !name.bytes().all(allowed) {
            return Err(format!("the ticket's ID {:?} cannot name a directory", ticket.ticket_id));
        }
        let path = tickets_dir.join(&name);
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        make(&path).and_then(|()| make(&path.join("tmp"))).map_err(|error| {
            format!("the ticket's directory {} cannot be made: {error}", path.display())
        })?;
        Ok(Self { path, name })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn remove(self) {
        // It fails only when the runtime is going down, and then the drop below has done it.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %self.path.display(), %error, "a ticket's directory is left behind");
            }
            _ => {}
        }
    }
}
