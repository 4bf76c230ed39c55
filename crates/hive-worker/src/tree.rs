//! Copies of source trees: what a command may change without anybody else noticing.

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What is not source, at any depth.
const LEFT_OUT: [&str; 2] = [".git", "target"];
/// Bounds of a source tree: beyond them the path is probably not the one that was meant.
const MAX_ENTRIES: usize = 100_000;
const MAX_BYTES: u64 = 2 << 30;

/// Why a tree was not copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{} has more than {MAX_ENTRIES} files or {MAX_BYTES} bytes: is it the directory that was meant?", .0.display())]
    TooLarge(PathBuf),
    #[error("{} is neither a file, a directory nor a link", .0.display())]
    Special(PathBuf),
    #[error("{} cannot be copied: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Copies `source` to `target`, which must not exist yet. Links stay links: what they point to is not copied.
pub(crate) fn copy(source: &Path, target: &Path) -> Result<(), Error> {
    let mut budget = Budget { root: source, entries: MAX_ENTRIES, bytes: MAX_BYTES };
    copy_directory(source, target, &mut budget)
}

struct Budget<'a> {
    root: &'a Path,
    entries: usize,
    bytes: u64,
}

impl Budget<'_> {
    fn spend(&mut self, bytes: u64) -> Result<(), Error> {
        let left = self.entries.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        (self.entries, self.bytes) = left.ok_or_else(|| Error::TooLarge(self.root.to_owned()))?;
        Ok(())
    }
}

fn copy_directory(source: &Path, target: &Path, budget: &mut Budget<'_>) -> Result<(), Error> {
    std::fs::create_dir(target).map_err(at(target))?;
    for entry in std::fs::read_dir(source).map_err(at(source))? {
        let entry = entry.map_err(at(source))?;
        let name = entry.file_name();
        if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
            copy_entry(&entry.path(), &target.join(name), budget)?;
        }
    }
    Ok(())
}

fn copy_entry(source: &Path, target: &Path, budget: &mut Budget<'_>) -> Result<(), Error> {
    let metadata = source.symlink_metadata().map_err(at(source))?;
    budget.spend(if metadata.is_file() { metadata.len() } else { 0 })?;
    if metadata.is_dir() {
        copy_directory(source, target, budget)
    } else if metadata.is_symlink() {
        let to = std::fs::read_link(source).map_err(at(source))?;
        std::os::unix::fs::symlink(to, target).map_err(at(target))
    } else if metadata.is_file() {
        std::fs::copy(source, target).map(drop).map_err(at(source))
    } else {
        Err(Error::Special(source.to_owned()))
    }
}

/// Opens a file that a command left below `root`, without following a link that the command may have laid: this process
/// may read what the command may not.
pub(crate) fn open_beneath(root: &Path, path: &Path) -> io::Result<File> {
    let root = File::open(root)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(openat2(&root, path, flags, Mode::empty(), resolve)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_copy_has_everything_but_builds_and_history() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let source = directory.path().join("source");
        for name in ["src/deep", "target/debug", ".git"] {
            std::fs::create_dir_all(source.join(name)).expect("created");
        }
        std::fs::write(source.join("src/deep/main.rs"), "fn main() {}").expect("written");
        symlink("/etc/hostname", source.join("link")).expect("linked");
        let target = directory.path().join("copy");
        copy(&source, &target).expect("copied");
        assert_eq!(
            std::fs::read_to_string(target.join("src/deep/main.rs")).expect("there"),
            "fn main() {}"
        );
        assert!(target.join("link").is_symlink());
        assert!(!target.join("target").exists() && !target.join(".git").exists());
    }

    #[test]
    fn a_link_that_a_command_laid_is_not_followed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        std::fs::create_dir(&root).expect("created");
        std::fs::write(directory.path().join("secret"), "x").expect("written");
        std::fs::write(root.join("file"), "y").expect("written");
        symlink("../secret", root.join("link")).expect("linked");
        symlink("..", root.join("up")).expect("linked");
        assert!(open_beneath(&root, Path::new("file")).is_ok());
        for path in ["link", "up/secret", "../secret", ".", "missing"] {
            assert!(open_beneath(&root, Path::new(path)).is_err(), "{path}");
        }
    }
}
