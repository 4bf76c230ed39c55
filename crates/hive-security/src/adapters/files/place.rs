//! Directories and files that belong to one user alone.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, StatVfsMountFlags, access, flock, statvfs};

use super::Error;

/// What the names of our own entries begin with; no credential's name may.
pub(super) const OURS: &str = "..";

/// Where files that hold secrets are best kept: `/dev/shm`, else `runtime_dir` (such as `$XDG_RUNTIME_DIR`), which are
/// in memory, else `fallback`, which may be on a disk. The first that this user can write to.
pub fn in_memory(runtime_dir: Option<&Path>, fallback: &Path) -> PathBuf {
    let places = [Some(Path::new("/dev/shm")), runtime_dir, Some(fallback)];
    let place = places.into_iter().flatten().find(|place| is_usable(place)).unwrap_or(fallback);
    // On some systems `/dev/shm` is a link, which is the administrator's and fine.
    place.canonicalize().unwrap_or_else(|_| place.to_owned())
}

/// Makes a directory that only this user can enter. It must not exist.
pub fn make_private(directory: &Path) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(directory).map_err(at(directory))?;
    check_private(directory)
}

/// The same, if it does not exist; one that does must be this user's alone, and no link.
pub fn have_private(directory: &Path) -> Result<(), Error> {
    match make_private(directory) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            check_private(directory)
        }
        made => made,
    }
}

/// Removes the directories of credentials in `place` that processes of this user have left when they were killed; their
/// names begin with `prefix`.
pub fn clear_abandoned(place: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            // Taking it succeeds only where nobody holds it; dropping it removes it.
            drop(Claimed::take(&entry.path()));
        }
    }
}

/// Writes a file that only this user can read. It must not exist, not even as a link.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(at(path))
}

/// Whether a name can be that of a credential's file: letters, digits, `-`, `_` and `.`, which does not begin it.
pub fn is_file_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
}

/// A directory that this process alone writes to, as long as it holds the lock on it. Dropping it removes what is in it,
/// and the directory.
#[derive(Debug)]
pub(super) struct Claimed {
    path: PathBuf,
    _lock: File,
}

impl Claimed {
    /// Makes the directory, or takes over what a process that was killed has left.
    pub(super) fn take(path: &Path) -> Result<Self, Error> {
        check_parent(path)?;
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_private(path)?,
            Err(error) => return Err(at(path)(error)),
            Ok(_) => check_private(path)?,
        }
        let lock = File::open(path).map_err(at(path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::InUse(path.to_owned()))?;
        clear(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path) {
            tracing::error!(%error, "credential files are left behind");
        }
        // It stays where it is a mount, or where somebody has put something of theirs into it.
        if let Err(error) = std::fs::remove_dir(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a directory of credentials stays");
        }
    }
}

/// Removes what we have made in it. Whatever else there is makes the directory somebody else's.
fn clear(directory: &Path) -> Result<(), Error> {
    let entries = std::fs::read_dir(directory).map_err(at(directory))?;
    for entry in entries {
        let path = entry.map_err(at(directory))?.path();
        if !is_ours(&path) {
            return Err(Error::NotOurs(directory.to_owned()));
        }
        let is_directory = path.symlink_metadata().map_err(at(&path))?.is_dir();
        let removed =
            if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(at(&path))?;
    }
    Ok(())
}

fn is_ours(entry: &Path) -> bool {
    let ours = |path: &Path| path.as_os_str().as_encoded_bytes().starts_with(OURS.as_bytes());
    let name = entry.file_name().is_some_and(|name| ours(Path::new(name)));
    name || std::fs::read_link(entry).is_ok_and(|target| ours(&target))
}

/// Nobody but this user and root can put another directory in its place.
fn check_parent(directory: &Path) -> Result<(), Error> {
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    let seen = parent.symlink_metadata().map_err(at(parent))?;
    if seen.file_type().is_symlink() {
        return Err(Error::Link(parent.to_owned()));
    }
    let owner = seen.uid() == 0 || is_mine(&seen);
    // With the sticky bit, as in `/tmp`, others cannot touch what is ours.
    let closed = seen.mode() & 0o022 == 0 || seen.mode() & 0o1000 != 0;
    if owner && closed { Ok(()) } else { Err(Error::OpenToOthers(parent.to_owned())) }
}

fn check_private(directory: &Path) -> Result<(), Error> {
    let seen = directory.symlink_metadata().map_err(at(directory))?;
    if seen.file_type().is_symlink() {
        return Err(Error::Link(directory.to_owned()));
    }
    let alone = seen.is_dir() && is_mine(&seen) && seen.permissions().mode() & 0o077 == 0;
    if alone { Ok(()) } else { Err(Error::NotOurs(directory.to_owned())) }
}

fn is_mine(seen: &Metadata) -> bool {
    seen.uid() == rustix::process::geteuid().as_raw()
}

/// Memory if at all: a directory that is read-only or cannot be written by this user is passed over.
fn is_usable(place: &Path) -> bool {
    let read_only = |vfs: rustix::fs::StatVfs| vfs.f_flag.contains(StatVfsMountFlags::RDONLY);
    let writable = access(place, Access::WRITE_OK).is_ok();
    place.is_dir() && writable && !statvfs(place).is_ok_and(read_only)
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_that_others_could_replace_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let open = place.path().join("open");
        create_dir(&open).unwrap();
        for mode in [0o770, 0o707] {
            set_permissions(&open, Permissions::from_mode(mode)).unwrap();
            let refused = Claimed::take(&open.join("c"));
            assert!(matches!(refused, Err(Error::OpenToOthers(_))), "{mode:o}");
        }
        set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        Claimed::take(&open.join("c")).expect("as in /tmp");
    }

    #[test]
    fn a_link_is_refused_as_the_directory_and_as_its_parent() {
        let place = tempfile::tempdir().unwrap();
        let real = place.path().join("real");
        make_private(&real).unwrap();
        symlink(&real, place.path().join("link")).unwrap();
        for path in ["link", "link/c"] {
            let refused = Claimed::take(&place.path().join(path));
            assert!(matches!(refused, Err(Error::Link(_))), "{path}");
        }
    }

    #[test]
    fn a_directory_with_somebodys_files_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("c");
        make_private(&directory).unwrap();
        std::fs::write(directory.join("theirs"), "x").unwrap();
        assert!(matches!(Claimed::take(&directory), Err(Error::NotOurs(_))));
        assert!(directory.join("theirs").exists());
        std::fs::remove_file(directory.join("theirs")).unwrap();
        set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Claimed::take(&directory), Err(Error::NotOurs(_))), "others can enter");
    }

    #[test]
    fn a_file_is_written_through_no_link_and_over_no_other() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::write(at("theirs"), "x").unwrap();
        symlink(at("theirs"), at("link")).unwrap();
        symlink(at("elsewhere"), at("dangling")).unwrap();
        for name in ["theirs", "link", "dangling"] {
            write_private(&at(name), "hunter2").unwrap_err();
        }
        assert_eq!(std::fs::read_to_string(at("theirs")).unwrap(), "x");
        assert!(!at("elsewhere").exists());
    }

    #[test]
    fn secrets_are_kept_in_memory_where_that_can_be_written() {
        let (memory, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shared = Path::new("/dev/shm");
        let best = if is_usable(shared) { shared } else { memory.path() };
        let chosen = in_memory(Some(memory.path()), disk.path());
        assert_eq!(chosen, best.canonicalize().unwrap());
        assert!(!is_usable(&disk.path().join("absent")));
    }

    #[test]
    fn two_processes_never_write_to_the_same_directory() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("c");
        let first = Claimed::take(&path).unwrap();
        assert!(matches!(Claimed::take(&path), Err(Error::InUse(_))));
        drop(first);
        assert!(!path.exists());
        Claimed::take(&path).expect("it is free again");
    }

    #[test]
    fn what_killed_processes_have_left_is_removed_and_what_is_in_use_is_not() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["c-1", "c-2", "d-1"] {
            have_private(&at(name)).unwrap();
            have_private(&at(name)).expect("it is ours");
            write_private(&at(name).join("..1"), "old").unwrap();
        }
        let used = Claimed::take(&at("c-2")).unwrap();
        clear_abandoned(place.path(), "c-");
        assert_eq!(
            [at("c-1"), at("c-2"), at("d-1")].map(|path| path.exists()),
            [false, true, true]
        );
        drop(used);
        symlink(at("d-1"), at("e")).unwrap();
        assert!(matches!(have_private(&at("e")), Err(Error::Link(_))));
    }

    #[test]
    fn what_a_killed_process_left_is_cleared() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("c");
        make_private(&path).unwrap();
        make_private(&path.join("..7")).unwrap();
        write_private(&path.join("..7/db"), "old").unwrap();
        symlink("..7", path.join("..data")).unwrap();
        symlink("..data/db", path.join("db")).unwrap();
        let claimed = Claimed::take(&path).unwrap();
        assert_eq!(std::fs::read_dir(claimed.path()).unwrap().count(), 0);
    }
}
