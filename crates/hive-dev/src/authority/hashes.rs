//! The SHA-256 of executables: each file is read once, as long as it stays the same.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use super::attest::Sha256;

/// A machine runs a few dozen different programs that ask for identities.
const KEPT_MAX: usize = 64;
const BLOCK_BYTES: usize = 64 * 1024;

/// A file as it is now. A change of its content changes this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileKey {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileKey {
    /// Follows links, also those in `/proc` to files that have been deleted.
    pub(super) fn at(path: impl AsRef<Path>) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Hashes that are known, the newest last.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    known: Mutex<VecDeque<(FileKey, Sha256)>>,
}

impl Hashes {
    /// Blocks while it reads the file, and others who ask meanwhile: two of them may be asking for the same file.
    pub(super) fn of(&self, path: impl AsRef<Path>) -> Option<(FileKey, Sha256)> {
        let file = File::open(path).ok()?;
        let key = FileKey::of(&file.metadata().ok()?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().find(|(file, _)| *file == key) {
            return Some(found.clone());
        }
        let hash = hash(&file).ok()?;
        if known.len() == KEPT_MAX {
            known.pop_front();
        }
        known.push_back((key.clone(), hash));
        Some((key, hash))
    }
}

fn hash(mut file: &File) -> io::Result<Sha256> {
    let mut context = Context::new(&SHA256);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => break,
            length => context.update(&block[..length]),
        }
    }
    let mut hash = Sha256::default();
    hash.copy_from_slice(context.finish().as_ref());
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(hashes: &Hashes) -> usize {
        hashes.known.lock().expect("not poisoned").len()
    }

    #[test]
    fn a_file_is_hashed_again_only_when_it_has_changed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("program");
        std::fs::write(&path, "abc").expect("written");
        let hashes = Hashes::default();
        let (_, first) = hashes.of(&path).expect("it can be read");
        // The standard's own example.
        assert_eq!(first[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(hashes.of(&path).map(|(_, hash)| hash), Some(first));
        assert_eq!(known(&hashes), 1);
        std::fs::write(&path, "abcd").expect("written");
        assert_ne!(hashes.of(&path).map(|(_, hash)| hash), Some(first));
        assert!(hashes.of(place.path().join("absent")).is_none());
    }

    #[test]
    fn no_more_than_a_bounded_number_is_kept() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let hashes = Hashes::default();
        for index in 0..2 * KEPT_MAX {
            let path = place.path().join(index.to_string());
            std::fs::write(&path, index.to_string()).expect("written");
            hashes.of(&path).expect("it can be read");
        }
        assert_eq!(known(&hashes), KEPT_MAX);
    }
}
