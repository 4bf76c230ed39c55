//! A program of somebody else's, as a process that ends with whoever started it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const POLL: Duration = Duration::from_millis(10);
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a server is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the server could not be prepared.
    #[error("cannot prepare {path}: check that its directory is writable")]
    Directory {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program is missing or cannot be executed.
    #[error("{program} cannot be run: install it, or name another one")]
    Program {
        /// Which.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended instead of starting, or never answered.
    #[error("{program} did not start ({why}): see {log}")]
    NotStarted {
        /// Which.
        program: PathBuf,
        /// What was seen.
        why: String,
        /// What it printed.
        log: PathBuf,
    },
}

/// A process with a log. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    program: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts a program with an environment of its own. What it prints is appended to a log for us alone.
    pub(crate) fn start(
        program: &Path,
        arguments: &[&OsStr],
        environment: &[(&str, &OsStr)],
        log: &Path,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Directory { path: log.to_owned(), source };
        let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(log);
        let (out, err): (File, File) = (open().map_err(failed)?, open().map_err(failed)?);
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(environment.iter().copied());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|source| Error::Program { program: program.to_owned(), source })?;
        Ok(Self { child, program: program.to_owned(), log: log.to_owned() })
    }

    /// Waits until `is_ready` says so. An error if the process ends before, or if it takes too long.
    pub(crate) async fn ready<F: Future<Output = bool>>(
        &mut self,
        within: Duration,
        mut is_ready: impl FnMut() -> F,
    ) -> Result<(), Error> {
        let give_up = Instant::now() + within;
        while !is_ready().await {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.not_started(format!("it ended with {status}")));
            }
            if Instant::now() > give_up {
                return Err(self.not_started(format!("not ready within {} s", within.as_secs())));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) fn not_started(&self, why: String) -> Error {
        Error::NotStarted { program: self.program.clone(), why, log: self.log.clone() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it, as a crash would.
    pub(crate) async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// Asks it to end, and kills it if it does not.
    pub(crate) async fn stop(mut self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_DEADLINE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Ports that nobody listens on at this moment. Whoever takes one of them next should be quick.
pub(crate) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    // All at once, or one of them might be given out twice.
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

pub(crate) async fn listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    tokio::net::TcpStream::connect(address).await.is_ok()
}

pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path)
        .map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// A file for us alone.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    let open = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::Directory { path: path.to_owned(), source })
}
