//! Telling a program that its files have changed.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal as Number, kill_process_group, pidfd_open, pidfd_send_signal,
};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The credentials of one epoch are adopted one after the other; a program is told once of all of them.
const QUIET: Duration = Duration::from_millis(50);
/// The pause after a notice that failed doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What is done after each change.
#[derive(Clone, Debug)]
pub struct Notice(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Command { program: OsString, arguments: Vec<OsString>, deadline: Duration },
    Signal { process: Arc<OwnedFd>, signal: Signal },
}

/// A signal that programs take for "read your files again".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(Number);

/// Not the name of a signal that can be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a signal that can be sent after a change: use HUP, INT, QUIT, TERM, USR1, USR2 or WINCH"
)]
pub struct UnknownSignal;

/// Why a program was not told.
#[derive(Debug)]
pub(super) enum Untold {
    Deadline(Duration),
    Failed(ExitStatus),
    Signal(Errno),
    Started(io::Error),
}

impl Notice {
    /// Sends `signal` to the process that has this ID now, and to no other that may have it later.
    pub fn signal(pid: u32, signal: Signal) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self(Kind::Signal { process: Arc::new(process), signal }))
    }

    /// Runs a program, without a shell. Its exit status must be 0 within `deadline`, at which it is killed with all that it
    /// started. `$HIVE_CREDENTIALS` names the directory; what it prints goes to standard error.
    pub fn command<A: Into<OsString>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
        deadline: Duration,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self(Kind::Command { program: program.into(), arguments, deadline })
    }

    async fn give(&self, directory: &Path) -> Result<(), Untold> {
        match &self.0 {
            Kind::Command { program, arguments, deadline } => {
                run(program, arguments, directory, *deadline).await
            }
            Kind::Signal { process, signal } => match pidfd_send_signal(process, signal.0) {
                // A program that has ended uses nothing any more.
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(Untold::Signal(error)),
            },
        }
    }
}

async fn run(
    program: &OsStr,
    arguments: &[OsString],
    directory: &Path,
    deadline: Duration,
) -> Result<(), Untold> {
    let mut command = Command::new(program);
    command.args(arguments).env("HIVE_CREDENTIALS", directory);
    command.stdin(Stdio::null()).stdout(io::stderr()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(Untold::Started)?;
    let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    match timeout(deadline, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Untold::Failed(status)),
        Ok(Err(error)) => Err(Untold::Started(error)),
        Err(_) => {
            // It was not waited for, so the group is still this one.
            let _ = group.map(|group| kill_process_group(group, Number::KILL));
            let _ = child.wait().await;
            Err(Untold::Deadline(deadline))
        }
    }
}

/// The task that tells the program; it ends with whoever changes the files.
pub(super) struct Teller {
    pub(super) directory: Box<Path>,
    pub(super) notice: Arc<Mutex<Option<Notice>>>,
    /// Revisions of the files.
    pub(super) changes: watch::Receiver<u64>,
    /// The revision that the program knows of.
    pub(super) told: watch::Sender<u64>,
}

impl Teller {
    pub(super) async fn run(mut self) {
        while self.changes.changed().await.is_ok() {
            sleep(QUIET).await;
            let revision = *self.changes.borrow_and_update();
            self.tell(revision).await;
        }
    }

    /// Tells until it succeeds, or until there is something newer to tell.
    async fn tell(&mut self, revision: u64) {
        let mut pause = RETRY.0;
        while let Some(notice) = self.notice() {
            let Err(error) = notice.give(&self.directory).await else { break };
            tracing::warn!(%error, "the program was not told that its credential files have changed");
            tokio::select! {
                () = sleep(pause) => pause = (2 * pause).min(RETRY.1),
                changed = self.changes.changed() => {
                    if changed.is_ok() {
                        self.changes.mark_changed();
                    }
                    return;
                }
            }
        }
        self.told.send_replace(revision);
    }

    fn notice(&self) -> Option<Notice> {
        self.notice.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `HUP` or `SIGHUP`, and so on.
    fn from_str(name: &str) -> Result<Self, UnknownSignal> {
        Ok(Self(match name.strip_prefix("SIG").unwrap_or(name) {
            "HUP" => Number::HUP,
            "INT" => Number::INT,
            "QUIT" => Number::QUIT,
            "TERM" => Number::TERM,
            "USR1" => Number::USR1,
            "USR2" => Number::USR2,
            "WINCH" => Number::WINCH,
            _ => return Err(UnknownSignal),
        }))
    }
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline(deadline) => {
                write!(
                    f,
                    "the command did not end within {} ms and was killed",
                    deadline.as_millis()
                )
            }
            Self::Failed(status) => write!(f, "the command failed ({status})"),
            Self::Signal(error) => write!(f, "the signal cannot be sent: {error}"),
            Self::Started(error) => write!(f, "the command cannot be run: {error}"),
        }
    }
}
