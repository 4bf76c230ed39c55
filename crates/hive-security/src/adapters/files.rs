//! Files, for programs that are not ours.
//!
//! ```no_run
//! # async fn example(credential: hive_security::credentials::Credential) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::files::{CredentialFiles, Layout, Notice, in_memory};
//!
//! let users = "\"{{ db.username }}\" \"{{ db.password }}\"\n"; // a file of PgBouncer
//! let layout = Layout::new().json("db")?.template("userlist.txt", users)?;
//! let directory = in_memory(None, "/run/shop".as_ref()).join("pgbouncer-credentials");
//! let files = CredentialFiles::open(&directory, layout)?;
//! files.on_change(Notice::command("systemctl", ["reload", "pgbouncer"], std::time::Duration::from_secs(10)));
//! # use hive_security::credentials::Holder;
//! # files.adopt(&credential).await?;
//! // Hand `files` to whoever rotates the credential `db`; the program reads `directory/userlist.txt`.
//! # Ok(())
//! # }
//! ```
//!
//! The directory looks like this, as in a volume of Kubernetes:
//!
//! ```text
//! db            ─▶ ..data/db             these links never change
//! userlist.txt  ─▶ ..data/userlist.txt
//! ..data        ─▶ ..7                   this one is replaced, in one step
//! ..7/db, ..7/userlist.txt               written once, never changed
//! ```
//!
//! So a file is never seen half written, and all files change at the same moment. A program that reads several and must
//! not mix two generations opens the directory `..data` once, and the files in it; the generation before stays
//! readable while it is drained.
//!
//! The directory has mode 0700, the files 0600; where it is matters, hence [`in_memory`]. Its parent must be one that
//! nobody else can write to, and a link is followed nowhere. One process writes to it. It is removed when the last
//! clone of [`CredentialFiles`] is dropped; what a process that was killed has left is cleared by the next one.

mod notice;
mod place;
mod render;
mod template;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

pub use self::notice::{Notice, Signal, UnknownSignal};
pub use self::place::{
    clear_abandoned, have_private, in_memory, is_file_name, make_private, write_private,
};
pub use self::render::Layout;
pub use self::template::{Template, TemplateError};

use self::notice::Teller;
use self::place::{Claimed, OURS, at};
use self::render::Rendered;
use crate::credentials::{Credential, Holder, HolderError};

const HOLDER: &str = "the credential files";
/// What a program does after it was told: read a file or two, and open connections anew.
const SETTLE: Duration = Duration::from_secs(5);

/// Why credential files cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process writes to the directory.
    #[error("{} is in use by another process: choose another directory", .0.display())]
    InUse(PathBuf),
    /// The file system said no.
    #[error("credential files cannot be written at {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link, which could be turned elsewhere.
    #[error("{} is a symbolic link: name the directory itself", .0.display())]
    Link(PathBuf),
    /// A name that is no file name, or that two files would have.
    #[error("{0:?} cannot be the name of a credential file, or is that of another")]
    Name(String),
    /// The directory is not ours alone, or something else is in it.
    #[error("{} exists and is not this program's alone: remove it", .0.display())]
    NotOurs(PathBuf),
    /// Others could put another directory in its place.
    #[error("{} is not safe for credential files, for others can write to it: choose another, or `chmod go-w` it", .0.display())]
    OpenToOthers(PathBuf),
    /// A template has mistakes.
    #[error("the template of {file} has mistakes")]
    Template {
        /// The file that it is for.
        file: String,
        /// All of them.
        #[source]
        mistakes: TemplateError,
    },
}

/// The files of one program; holds any number of credentials. Clones share the directory.
#[derive(Clone, Debug)]
pub struct CredentialFiles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: Claimed,
    layout: Layout,
    settle: Duration,
    state: Mutex<State>,
    notice: Arc<Mutex<Option<Notice>>>,
    /// The revision that can be read.
    changes: watch::Sender<u64>,
    /// The revision that the program was told of.
    told: watch::Receiver<u64>,
    /// No revision before this one is there any more.
    kept: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<String, Credential>,
    /// Directories that the program may still read, by their revision.
    older: Vec<u64>,
}

impl CredentialFiles {
    /// Makes `directory`, which is empty until credentials are adopted. Must be called within a tokio runtime.
    pub fn open(directory: &Path, layout: Layout) -> Result<Self, Error> {
        let directory = Claimed::take(directory)?;
        for name in layout.entries() {
            let link = directory.path().join(name);
            let target = Path::new("..data").join(name);
            std::os::unix::fs::symlink(target, &link).map_err(at(&link))?;
        }
        let ((changes, seen), (told, told_seen)) = (watch::channel(0), watch::channel(0));
        let notice = Arc::default();
        let teller = Teller {
            directory: directory.path().into(),
            notice: Arc::clone(&notice),
            changes: seen,
            told,
        };
        tokio::spawn(teller.run());
        Ok(Self(Arc::new(Shared {
            directory,
            settle: layout.settle.unwrap_or(SETTLE),
            layout,
            state: Mutex::default(),
            notice,
            changes,
            told: told_seen,
            kept: watch::channel(0).0,
        })))
    }

    /// Where the files are: the value of `$HIVE_CREDENTIALS`.
    pub fn directory(&self) -> &Path {
        self.0.directory.path()
    }

    /// What is done after each change from now on; it takes the place of what was said before. A notice that fails is given
    /// again until it succeeds, and until then the old generation is in use.
    pub fn on_change(&self, notice: Notice) {
        *self.0.notice.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice);
    }

    fn check(&self, fresh: &Credential) -> Result<(), HolderError> {
        self.with(fresh, &self.0.state().held).map(drop)
    }

    fn with(
        &self,
        fresh: &Credential,
        held: &BTreeMap<String, Credential>,
    ) -> Result<Rendered, HolderError> {
        let mut held = held.clone();
        held.insert(fresh.name().to_owned(), fresh.clone());
        self.0.layout.render(&held).map_err(|what| HolderError::Unusable {
            holder: HOLDER,
            credential: fresh.name().to_owned(),
            what,
        })
    }

    fn replace(&self, fresh: &Credential) -> Result<(), HolderError> {
        let mut state = self.0.state();
        let rendered = self.with(fresh, &state.held)?;
        self.0.publish(&mut state, &rendered).map_err(|error| HolderError::Unreachable {
            server: "the file system",
            credential: fresh.name().to_owned(),
            cause: Some(Arc::new(error)),
        })?;
        state.held.insert(fresh.name().to_owned(), fresh.clone());
        Ok(())
    }

    async fn await_drained(&self) {
        let revision = *self.0.changes.borrow();
        let (mut told, mut kept) = (self.0.told.clone(), self.0.kept.subscribe());
        let settled = async {
            let _ = told.wait_for(|told| *told >= revision).await;
            sleep(self.0.settle).await;
        };
        tokio::select! {
            () = settled => self.0.keep_from(revision),
            // The overlap is over.
            _ = kept.wait_for(|kept| *kept >= revision) => {}
        }
    }

    fn close(&self) {
        let mut state = self.0.state();
        state.held.clear();
        let empty = Rendered::default();
        if let Err(error) = self.0.publish(&mut state, &empty) {
            tracing::error!(%error, "withdrawn credentials are left in their files");
        }
        drop(state);
        self.0.keep_from(*self.0.changes.borrow());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a new revision beside the one that can be read, then turns the one link.
    fn publish(&self, state: &mut State, rendered: &Rendered) -> Result<(), Error> {
        let before = *self.changes.borrow();
        let revision = before + 1;
        let directory = self.of(revision);
        // What an attempt that failed has left.
        let _ = std::fs::remove_dir_all(&directory);
        let turned = rendered.write(&directory).and_then(|()| self.turn_to(revision));
        if let Err(error) = turned {
            let _ = std::fs::remove_dir_all(&directory);
            return Err(error);
        }
        state.older.push(before);
        self.changes.send_replace(revision);
        Ok(())
    }

    fn turn_to(&self, revision: u64) -> Result<(), Error> {
        let (link, fresh) = (self.directory.path().join("..data"), self.of_name("..data.new"));
        let _ = std::fs::remove_file(&fresh);
        std::os::unix::fs::symlink(format!("{OURS}{revision}"), &fresh).map_err(at(&fresh))?;
        std::fs::rename(&fresh, &link).map_err(at(&link))
    }

    /// Removes the revisions before this one.
    fn keep_from(&self, revision: u64) {
        let mut state = self.state();
        let (gone, older) = state.older.iter().partition(|older| **older < revision);
        state.older = older;
        let gone: Vec<u64> = gone;
        for revision in gone.into_iter().filter(|revision| *revision > 0) {
            if let Err(error) = std::fs::remove_dir_all(self.of(revision)) {
                tracing::error!(%error, "old credential files are left behind");
            }
        }
        drop(state);
        self.kept.send_if_modified(|kept| {
            let grows = *kept < revision;
            *kept = revision.max(*kept);
            grows
        });
    }

    fn of(&self, revision: u64) -> PathBuf {
        self.of_name(&format!("{OURS}{revision}"))
    }

    fn of_name(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Nothing here awaits while it writes: files in memory are written in microseconds.
impl Holder for CredentialFiles {
    /// Nobody can be asked, so this only makes sure that every file can be written.
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async { self.check(fresh) }.boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async { self.replace(fresh) }.boxed()
    }

    /// Nobody can be asked: the program is taken to have moved over some time after it was told
    /// ([`Layout::settle`]).
    fn drained(&self, _generation: u64) -> BoxFuture<'_, ()> {
        self.await_drained().boxed()
    }

    fn cut(&self, _generation: u64) -> BoxFuture<'_, ()> {
        async { self.0.keep_from(*self.0.changes.borrow()) }.boxed()
    }

    /// The files are gone, and the program is told.
    fn withdraw(&self) -> BoxFuture<'_, ()> {
        async { self.close() }.boxed()
    }
}

#[cfg(test)]
mod tests;
