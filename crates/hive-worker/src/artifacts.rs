//! The artifact store: `<directory>/sha256/<hex>`, shared by all workers.
//!
//! A name is the digest of the content, so nothing is ever overwritten and a reader can tell whether what it reads is what was meant.

use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tempfile::NamedTempFile;

/// The largest artifact: a bound on what one ticket can do to a shared disk.
const MAX_BYTES: u64 = 2 << 30;
/// Readable and executable by all, writable by nobody.
const MODE: u32 = 0o555;

/// The name of an artifact: `sha256:<64 hex digits>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// The digits after `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || Error::NotADigest(text.chars().take(80).collect());
        let hex = text.strip_prefix("sha256:").ok_or_else(refused)?;
        let lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if hex.len() != 64 || !hex.bytes().all(lower_hex) {
            return Err(refused());
        }
        Ok(Self(hex.to_owned()))
    }
}

/// What the content of a stored artifact says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// Why an artifact could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not the name of an artifact.
    #[error("{0:?} names no artifact: expected sha256: and 64 hexadecimal digits")]
    NotADigest(String),
    /// Nobody stored it here.
    #[error("artifact {0} is not in the store: its BUILD ran with another HIVE_ARTIFACTS_DIR")]
    Missing(Digest),
    /// Its content changed on disk.
    #[error(
        "artifact {0} is damaged: its content has another digest; remove the file and build again"
    )]
    Damaged(Digest),
    /// Too large to store.
    #[error("the artifact is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The disk said no.
    #[error("the artifact store {} cannot be used", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The store. Its calls block: use them off the async threads.
#[derive(Clone, Debug)]
pub struct Artifacts {
    directory: PathBuf,
    /// The file name that each artifact was last stored under: a label, not part of what it is.
    names: PathBuf,
}

impl Artifacts {
    /// Opens the store below `directory`, creating it if need be.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let (directory, names) = (directory.join("sha256"), directory.join("names"));
        for made in [&directory, &names] {
            std::fs::create_dir_all(made).map_err(at(made))?;
        }
        Ok(Self { directory, names })
    }

    /// Stores everything that `source` has, as `name`. The same content twice is stored once.
    pub fn store(&self, name: &str, source: &mut impl Read) -> Result<Stored, Error> {
        let mut copy = incoming(&self.directory)?;
        let stored = copy_hashed(source, copy.as_file_mut())
            .map_err(|error| error.into_error(copy.path()))?;
        keep(copy, &self.path(&stored.digest), &self.directory)?;
        let mut label = incoming(&self.names)?;
        label.write_all(name.as_bytes()).map_err(at(label.path()))?;
        keep(label, &self.names.join(stored.digest.hex()), &self.names)?;
        Ok(stored)
    }

    /// The file name that an artifact was last stored under.
    pub fn name(&self, digest: &Digest) -> Option<String> {
        std::fs::read_to_string(self.names.join(digest.hex())).ok()
    }

    /// Copies an artifact into `target`, which must not be used unless this succeeds: the digest is known at the end.
    pub fn copy(&self, digest: &Digest, target: &mut impl Write) -> Result<Stored, Error> {
        let path = self.path(digest);
        let mut source = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing(digest.clone()));
            }
            opened => opened.map_err(at(&path))?,
        };
        let stored = copy_hashed(&mut source, target).map_err(|error| error.into_error(&path))?;
        if stored.digest == *digest { Ok(stored) } else { Err(Error::Damaged(digest.clone())) }
    }

    /// What is known of an artifact, after reading all of it.
    pub fn verify(&self, digest: &Digest) -> Result<Stored, Error> {
        self.copy(digest, &mut std::io::sink())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }
}

fn incoming(directory: &Path) -> Result<NamedTempFile, Error> {
    tempfile::Builder::new().prefix(".incoming-").tempfile_in(directory).map_err(at(directory))
}

/// Gives a complete file its name: whoever finds the name finds all of the content, also after a crash.
fn keep(file: NamedTempFile, path: &Path, directory: &Path) -> Result<(), Error> {
    file.as_file().set_permissions(Permissions::from_mode(MODE)).map_err(at(file.path()))?;
    file.as_file().sync_all().map_err(at(file.path()))?;
    file.persist(path).map_err(|error| at(path)(error.error))?;
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(at(directory))
}

enum CopyError {
    Io(std::io::Error),
    TooLarge,
}

impl CopyError {
    fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Io(source) => Error::Io { path: path.to_owned(), source },
            Self::TooLarge => Error::TooLarge,
        }
    }
}

impl From<std::io::Error> for CopyError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn copy_hashed(source: &mut impl Read, target: &mut impl Write) -> Result<Stored, CopyError> {
    let (mut hash, mut size_bytes) = (Context::new(&SHA256), 0);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = source.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        size_bytes += count as u64;
        if size_bytes > MAX_BYTES {
            return Err(CopyError::TooLarge);
        }
        hash.update(&chunk[..count]);
        target.write_all(&chunk[..count])?;
    }
    Ok(Stored { digest: Digest(crate::hex::encode(hash.finish().as_ref())), size_bytes })
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Artifacts) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let artifacts = Artifacts::open(directory.path()).expect("a store");
        (directory, artifacts)
    }

    #[test]
    fn what_was_stored_is_read_back_under_its_digest() {
        let (_directory, artifacts) = store();
        let stored = artifacts.store("abc", &mut b"abc".as_slice()).expect("stored");
        assert_eq!(
            stored.digest.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(artifacts.name(&stored.digest).as_deref(), Some("abc"));
        let mut copy = Vec::new();
        assert_eq!(artifacts.copy(&stored.digest, &mut copy).expect("there"), stored);
        assert_eq!((copy.as_slice(), stored.size_bytes), (b"abc".as_slice(), 3));
    }

    #[test]
    fn the_same_content_twice_is_one_file_that_nobody_may_write() {
        let (directory, artifacts) = store();
        for _ in 0..2 {
            artifacts.store("abc", &mut b"abc".as_slice()).expect("stored");
        }
        let files: Vec<_> =
            std::fs::read_dir(directory.path().join("sha256")).expect("listed").flatten().collect();
        assert_eq!(files.len(), 1);
        let mode = files[0].metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn a_damaged_artifact_is_refused() {
        let (directory, artifacts) = store();
        let stored = artifacts.store("abc", &mut b"abc".as_slice()).expect("stored");
        let path = directory.path().join("sha256").join(stored.digest.hex());
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, b"abd").expect("replaced");
        assert!(matches!(artifacts.verify(&stored.digest), Err(Error::Damaged(_))));
    }

    #[test]
    fn an_artifact_that_is_not_there_is_named() {
        let (_directory, artifacts) = store();
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().expect("a digest");
        assert!(
            matches!(artifacts.verify(&digest), Err(Error::Missing(missing)) if missing == digest)
        );
    }

    #[test]
    fn only_a_whole_digest_names_an_artifact() {
        for text in
            ["", "sha256:", "abc", "sha256:../../etc/passwd", &format!("sha256:{}", "A".repeat(64))]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
