//! A release directory on this machine.
//!
//! ```text
//! <into>/releases/<release>/<file>            the program
//! <into>/releases/<release>/release.json      what it is, and who released it; release.json.seal beside it
//! <into>/current                              a link to the release that counts, swapped in one step
//! <into>/deployments/<ticket>.json            what each deploy found and did: how a repeated one stays the same
//! ```
//!
//! A deploy has two steps with room for a ledger between them: `prepare` makes the release, `commit` makes it
//! current. Each can be repeated, also after a crash in the middle; `abandon` takes a failed one back, `undo` a finished one.
//! Every call holds the directory's lock, so two workers never interleave.

use crate::artifacts::{Artifacts, Digest};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for another deploy into the same directory: each holds the lock for a copy of one file.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Why a release directory could not be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0:?} is not a name for a release: expected letters, digits, '-', '_' and '.'")]
    Name(String),
    #[error(
        "release {release} exists with {existing}: a release never changes, so choose another name"
    )]
    Taken { release: String, existing: Digest },
    #[error("the previous release {0} is gone: nothing can take the place of the current one")]
    PreviousGone(String),
    #[error("another claim of the same ticket is deploying, or has taken this one back")]
    Stale,
    #[error("another deploy holds {}", .0.display())]
    Busy(PathBuf),
    #[error(transparent)]
    Artifact(#[from] crate::artifacts::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Artifact(_) | Self::Busy(_) | Self::Io { .. } | Self::Stale)
    }
}

/// What is to be released.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) ticket_id: String,
    pub(super) claim: u64,
    pub(super) plan_id: String,
    pub(super) release: String,
    pub(super) file: String,
    pub(super) digest: Digest,
    /// The credential that seals it, if one does.
    pub(super) sealed_by: Option<String>,
}

/// `release.json`.
#[derive(Debug, Deserialize, Serialize)]
struct Manifest {
    ticket_id: String,
    plan_id: String,
    release: String,
    file: String,
    digest: String,
    previous: String,
    sealed_by: Option<String>,
}

/// `deployments/<ticket>.json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Deployment {
    ticket_id: String,
    /// The claim that did it last: an older one may change nothing any more.
    claim: u64,
    pub(super) release: String,
    /// What was current before: a release's name, or empty.
    pub(super) previous: String,
    /// Whether this deploy made the release, and so may remove it.
    created: bool,
}

/// What an undo did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// This release is current again; empty when there was none.
    Restored(String),
    /// Another deploy has made something else current since, or relies on the same release: it stays.
    Overtaken,
    /// There is nothing of it.
    Nothing,
}

/// One release directory.
#[derive(Clone, Debug)]
pub(super) struct Releases {
    into: PathBuf,
}

impl Releases {
    pub(super) fn at(into: PathBuf) -> Self {
        Self { into }
    }

    /// Where the files of a release are.
    pub(super) fn directory(&self, release: &str) -> PathBuf {
        self.into.join("releases").join(release)
    }

    /// Makes the release, or finds that it is there. `seal` makes the seal of a manifest's bytes.
    pub(super) fn prepare(
        &self,
        wanted: &Wanted,
        artifacts: &Artifacts,
        seal: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<Deployment, Error> {
        for name in [&wanted.release, &wanted.file] {
            check_name(name)?;
        }
        for directory in ["releases", "deployments"] {
            let path = self.into.join(directory);
            std::fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let _lock = self.lock()?;
        let existing = self.manifest(&wanted.release)?;
        check_free(wanted, existing.as_ref())?;
        let deployment = self.intend(wanted, existing.is_some())?;
        if existing.is_none() {
            self.make(wanted, &deployment, artifacts, seal)?;
        }
        Ok(deployment)
    }

    /// Makes the release current.
    pub(super) fn commit(&self, deployment: &Deployment) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.deployment(&deployment.ticket_id)?.as_ref() != Some(deployment) {
            return Err(Error::Stale);
        }
        self.point_at(&deployment.release)
    }

    /// Takes back what a claim of a ticket did that then failed. A later claim of the same ticket is left alone.
    pub(super) fn abandon(&self, ticket_id: &str, claim: u64) -> Result<(), Error> {
        let _lock = self.lock()?;
        match self.deployment(ticket_id)? {
            Some(deployment) if deployment.claim == claim => self.take_back(&deployment).map(drop),
            _ => Ok(()),
        }
    }

    /// Takes a deploy back: what was current before it is current again.
    pub(super) fn undo(&self, ticket_id: &str) -> Result<Undone, Error> {
        if !self.into.is_dir() {
            return Ok(Undone::Nothing);
        }
        let _lock = self.lock()?;
        match self.deployment(ticket_id)? {
            Some(deployment) => self.take_back(&deployment),
            None => Ok(Undone::Nothing),
        }
    }

    fn take_back(&self, deployment: &Deployment) -> Result<Undone, Error> {
        let current = self.current().unwrap_or_default();
        let overtaken = current != deployment.release || self.is_shared(deployment)?;
        // Before `commit`, and after a crash in the middle of an undo, the previous release is current: that is not overtaken.
        if overtaken && current != deployment.previous {
            self.forget(deployment)?;
            return Ok(Undone::Overtaken);
        }
        if current != deployment.previous {
            self.restore(&deployment.previous)?;
        }
        self.forget(deployment)?;
        Ok(Undone::Restored(deployment.previous.clone()))
    }

    fn restore(&self, previous: &str) -> Result<(), Error> {
        let link = self.into.join("current");
        if previous.is_empty() {
            std::fs::remove_file(&link).map_err(at(&link))?;
            return sync(&self.into);
        }
        if !self.directory(previous).is_dir() {
            return Err(Error::PreviousGone(previous.to_owned()));
        }
        self.point_at(previous)
    }

    /// Notes what is about to happen, before it happens. A repeated deploy finds the note of the first.
    fn intend(&self, wanted: &Wanted, exists: bool) -> Result<Deployment, Error> {
        let noted = self.deployment(&wanted.ticket_id)?;
        if noted.as_ref().is_some_and(|noted| noted.claim > wanted.claim) {
            return Err(Error::Stale);
        }
        let fresh = || Deployment {
            ticket_id: wanted.ticket_id.clone(),
            claim: 0,
            release: wanted.release.clone(),
            previous: self.current().unwrap_or_default(),
            created: !exists,
        };
        let deployment = Deployment { claim: wanted.claim, ..noted.unwrap_or_else(fresh) };
        write_json(&self.note(&wanted.ticket_id), &deployment)?;
        Ok(deployment)
    }

    fn make(
        &self,
        wanted: &Wanted,
        deployment: &Deployment,
        artifacts: &Artifacts,
        seal: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<(), Error> {
        let releases = self.into.join("releases");
        // Made beside its place and renamed into it: a release is whole or absent.
        let made = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempdir_in(&releases)
            .map_err(at(&releases))?;
        let mut program =
            File::create_new(made.path().join(&wanted.file)).map_err(at(made.path()))?;
        artifacts.copy(&wanted.digest, &mut program)?;
        program.set_permissions(PermissionsExt::from_mode(0o555)).map_err(at(made.path()))?;
        program.sync_all().map_err(at(made.path()))?;
        let manifest = manifest_bytes(wanted, deployment);
        write(&made.path().join("release.json"), &manifest)?;
        if let Some(seal) = seal(&manifest) {
            write(&made.path().join("release.json.seal"), seal.as_bytes())?;
        }
        std::fs::set_permissions(made.path(), PermissionsExt::from_mode(0o755))
            .map_err(at(made.path()))?;
        sync(made.path())?;
        let place = self.directory(&wanted.release);
        std::fs::rename(made.path(), &place).map_err(at(&place))?;
        // Renamed away: there is nothing left for the temporary directory to remove.
        let _ = made.keep();
        sync(&releases)
    }

    fn point_at(&self, release: &str) -> Result<(), Error> {
        let (link, fresh) = (self.into.join("current"), self.into.join(".current.incoming"));
        // The lock is held, so what is here is what a crash left.
        remove_if_there(&fresh)?;
        std::os::unix::fs::symlink(Path::new("releases").join(release), &fresh)
            .map_err(at(&fresh))?;
        std::fs::rename(&fresh, &link).map_err(at(&link))?;
        sync(&self.into)
    }

    /// The name of the current release.
    fn current(&self) -> Option<String> {
        let target = std::fs::read_link(self.into.join("current")).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Whether another deploy counts on the release that this one made or found.
    fn is_shared(&self, deployment: &Deployment) -> Result<bool, Error> {
        let notes = self.into.join("deployments");
        for entry in std::fs::read_dir(&notes).map_err(at(&notes))? {
            let path = entry.map_err(at(&notes))?.path();
            let other: Option<Deployment> = read_json(&path)?;
            let shares = |other: &Deployment| {
                other.ticket_id != deployment.ticket_id
                    && (other.release == deployment.release || other.previous == deployment.release)
            };
            // Those that found it current count on it too, but only if this deploy made it.
            if deployment.created && other.as_ref().is_some_and(shares) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what this deploy made, unless it is current or another deploy counts on it; its note goes last.
    fn forget(&self, deployment: &Deployment) -> Result<(), Error> {
        let is_current = self.current().as_deref() == Some(&deployment.release);
        if deployment.created && !is_current && !self.is_shared(deployment)? {
            let directory = self.directory(&deployment.release);
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&directory)(error));
                }
                _ => sync(&self.into.join("releases"))?,
            }
        }
        remove_if_there(&self.note(&deployment.ticket_id))?;
        sync(&self.into.join("deployments"))
    }

    fn manifest(&self, release: &str) -> Result<Option<Manifest>, Error> {
        read_json(&self.directory(release).join("release.json"))
    }

    fn deployment(&self, ticket_id: &str) -> Result<Option<Deployment>, Error> {
        read_json(&self.note(ticket_id))
    }

    /// A ticket's ID is `<plan>/<name>`; neither has a dot.
    fn note(&self, ticket_id: &str) -> PathBuf {
        self.into.join("deployments").join(format!("{}.json", ticket_id.replace('/', ".")))
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.into.join(".lock");
        let file = File::options().create(true).append(true).open(&path).map_err(at(&path))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > patience {
                return Err(Error::Busy(self.into.clone()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(file)
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let fits = !name.is_empty() && name.len() <= 128 && !name.starts_with('.');
    // The manifest's own names are not free for a program.
    let is_ours = name.starts_with("release.json");
    if fits && !is_ours && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::Name(name.to_owned()))
    }
}

fn check_free(wanted: &Wanted, existing: Option<&Manifest>) -> Result<(), Error> {
    let Some(existing) = existing else { return Ok(()) };
    if existing.digest == wanted.digest.to_string() && existing.file == wanted.file {
        return Ok(());
    }
    Err(Error::Taken { release: wanted.release.clone(), existing: existing.digest.parse()? })
}

fn manifest_bytes(wanted: &Wanted, deployment: &Deployment) -> Vec<u8> {
    let manifest = Manifest {
        ticket_id: wanted.ticket_id.clone(),
        plan_id: wanted.plan_id.clone(),
        release: wanted.release.clone(),
        file: wanted.file.clone(),
        digest: wanted.digest.to_string(),
        previous: deployment.previous.clone(),
        sealed_by: wanted.sealed_by.clone(),
    };
    let mut bytes = serde_json::to_vec_pretty(&manifest).expect("a manifest has only text");
    bytes.push(b'\n');
    bytes
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = File::create_new(path).map_err(at(path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(at(path))
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let directory = path.parent().expect("it was joined to a directory");
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(at(directory))?;
    let bytes = serde_json::to_vec_pretty(content).expect("only text keys");
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(at(path))?;
    file.persist(path).map_err(|error| at(path)(error.error))?;
    sync(directory)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| at(path)(error.into()))
        }
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
