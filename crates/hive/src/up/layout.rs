//! Where one stack keeps its files, and the lock that says whose they are.

use super::Failure;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Others may pass through, for PostgreSQL may have to run as another user, but not look around.
const ROOT_MODE: u32 = 0o711;
const PRIVATE_MODE: u32 = 0o700;
const LOGS: &str = "logs";

/// The data directory of one running stack.
pub(super) struct Layout {
    root: PathBuf,
    /// Removed with everything in it when dropped, unless the user named the directory.
    temporary: Option<TempDir>,
    lock: File,
}

impl Layout {
    /// Opens `data_dir`, or a temporary directory, for this process alone.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<Self, Failure> {
        let (root, temporary) = match data_dir {
            Some(named) => (named_directory(named)?, None),
            None => {
                let temporary = temporary_directory()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let lock = take_lock(&root)?;
        let layout = Self { root, temporary, lock };
        layout.directory(LOGS)?;
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Where each process of the stack has a log of its own.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join(LOGS)
    }

    /// A directory below the root that only this user can enter.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.root.join(name);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_MODE)
            .create(&path)
            .map_err(|error| unwritable(&path, &error))?;
        Ok(path)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.root.join("workload.sock")
    }

    /// Removes what is temporary. A directory that the user named stays.
    pub(super) fn close(self) -> Result<(), Failure> {
        drop(self.lock);
        match self.temporary {
            None => Ok(()),
            Some(temporary) => temporary.close().map_err(|error| {
                Failure::error(format!("cannot remove {}: {error}", self.root.display()))
            }),
        }
    }
}

fn temporary_directory() -> Result<TempDir, Failure> {
    let within = std::env::temp_dir();
    let made = tempfile::Builder::new()
        .prefix("hive-")
        .permissions(std::fs::Permissions::from_mode(ROOT_MODE))
        .tempdir_in(&within);
    made.map_err(|error| unwritable(&within, &error))
}

fn named_directory(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(ROOT_MODE)
        .create(path)
        .and_then(|()| path.canonicalize())
        .map_err(|error| unwritable(path, &error))
}

/// Two stacks in one directory would run the same plans twice.
fn take_lock(root: &Path) -> Result<File, Failure> {
    let path = root.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| unwritable(&path, &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(root, &mut lock)),
        Err(TryLockError::Error(error)) => return Err(unwritable(&path, &error)),
    }
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| write!(lock, "{}", std::process::id()))
        .map_err(|error| unwritable(&path, &error))?;
    Ok(lock)
}

fn in_use(root: &Path, lock: &mut File) -> Failure {
    let mut holder = String::new();
    // Only for the message: without it the sentence is still true.
    let _ = lock.read_to_string(&mut holder);
    Failure::error(format!(
        "the data directory {} is in use by another `hive up` (process {}); stop that one, or \
         choose another directory with --data-dir",
        root.display(),
        holder.trim()
    ))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(format!(
        "cannot write to {}: {error}; name a directory that this user can write to with --data-dir",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_is_removed_and_a_named_one_stays() {
        let temporary = Layout::open(None).expect("a layout");
        let root = temporary.root().to_owned();
        assert!(root.join("logs").is_dir());
        temporary.close().expect("it can be removed");
        assert!(!root.exists());

        let place = tempfile::tempdir().expect("a place");
        let named = Layout::open(Some(&place.path().join("data"))).expect("a layout");
        let root = named.root().to_owned();
        named.close().expect("nothing is removed");
        assert!(root.exists());
    }

    #[test]
    fn a_directory_in_use_names_its_holder_and_the_remedy() {
        let place = tempfile::tempdir().expect("a place");
        let _first = Layout::open(Some(place.path())).expect("a layout");
        let refused = Layout::open(Some(place.path())).err().expect("it is taken").message;
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert!(refused.contains("--data-dir"), "{refused}");
    }
}
