//! Commands, run so that they can hurt nothing but their ticket.
//!
//! ```text
//!  worker ──spawn──▶ warden ──spawn──▶ command ──▶ its children
//!    └── a pipe held open ──▶ when it closes, for whatever reason, everything below the warden is killed
//! ```
//!
//! No shell, a cleared environment, a directory of its own, resource limits, no new privileges, and Landlock: it may
//! read the system, the toolchain and what it is given, and write in its ticket's directory only. The warden
//! adopts whatever the command leaves behind, so nothing outlives it: not at the deadline, not when the
//! worker itself is killed. The network is not restricted, and neither are Unix sockets that the file
//! permissions allow; whoever listens there has to ask who calls.

mod output;
mod shim;

use output::Tail;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub use output::Captured;
pub(crate) use output::{last_line, printable};
pub(crate) use shim::NOT_STARTED;
pub use shim::exec_shim;

/// How long the warden may take to kill what it guards before the whole group is killed.
const WARDEN_GRACE: Duration = Duration::from_secs(5);
/// How long pipes are read after the last process that could hold them has ended.
const PIPE_GRACE: Duration = Duration::from_secs(2);

/// What holds a command in.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// Landlock and resource limits. A kernel without Landlock fails the ticket.
    Landlock,
    /// Resource limits only: whoever sets this accepts that commands read what the worker may read.
    RlimitsOnly,
}

impl Confinement {
    /// Parses the value of `HIVE_SANDBOX`.
    pub fn parse(value: &str) -> Result<Self, String> {
        match value {
            "landlock" => Ok(Self::Landlock),
            "rlimits-only" => Ok(Self::RlimitsOnly),
            _ => Err("expected landlock or rlimits-only".to_owned()),
        }
    }
}

/// What starts a command inside the sandbox: a program that calls [`exec_shim`], and its first arguments.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Launcher {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Launcher {
    /// A launcher such as `hive sandbox-exec`.
    pub fn new<'a>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        Self { program: program.into(), arguments }
    }
}

/// Where the tools are that commands need: read and executed, never written.
#[derive(Clone, Debug, Default)]
pub struct Toolchain {
    bin: Option<PathBuf>,
    rustup_home: Option<PathBuf>,
    pinned: Option<String>,
}

impl Toolchain {
    /// Looks for `cargo` on `path`, then in `home`. A `rustup_home` that does not exist is left out.
    pub fn find(
        path: &str,
        home: Option<&Path>,
        rustup_home: Option<PathBuf>,
        pinned: Option<String>,
    ) -> Self {
        let in_home = home.map(|home| home.join(".cargo/bin"));
        let mut directories = std::env::split_paths(path).chain(in_home);
        let bin = directories.find(|bin| bin.is_absolute() && bin.join("cargo").is_file());
        Self { bin, rustup_home: rustup_home.filter(|home| home.is_dir()), pinned }
    }

    fn search_path(&self) -> OsString {
        let system =
            ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        let all = self.bin.iter().cloned().chain(system.map(PathBuf::from));
        // Directories with a colon in their name cannot be on a search path at all.
        std::env::join_paths(all).unwrap_or_else(|_| system.join(":").into())
    }
}

/// Runs commands in the sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    launcher: Launcher,
    confinement: Confinement,
    toolchain: Toolchain,
}

/// One command to run.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The program and its arguments. A program without `/` is looked up on the sandbox's own `PATH`.
    pub command: &'a [String],
    /// Where it starts.
    pub directory: &'a Path,
    /// The ticket's directory: its home, and the only place where it may write.
    pub home: &'a Path,
    /// What else it may read and execute.
    pub readable: &'a [PathBuf],
    /// The directory of its credential files, if it has any.
    pub credentials: Option<&'a Path>,
    /// When it is killed.
    pub deadline: Instant,
    /// When cancelled, it is killed.
    pub stop: &'a CancellationToken,
}

/// How a command ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Exited {
        /// Its status.
        status: ExitStatus,
        /// What it printed: the last 64 KiB of each stream.
        output: Captured,
    },
    /// It was killed at its deadline.
    DeadlinePassed(Captured),
    /// It was killed because its ticket was stopped.
    Stopped,
}

/// Why a command could not be run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The list of the command is empty.
    #[error("the command is empty: it needs at least a program")]
    NoCommand,
    /// The launcher did not start.
    #[error("the sandbox's launcher {} did not start", launcher.display())]
    Launcher {
        /// Its path.
        launcher: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The launcher's status could not be learned.
    #[error("the command's end could not be observed")]
    Wait(#[source] std::io::Error),
}

impl Sandbox {
    /// A sandbox that starts its commands with `launcher`.
    pub fn new(launcher: Launcher, confinement: Confinement, toolchain: Toolchain) -> Self {
        Self { launcher, confinement, toolchain }
    }

    /// Runs one command to its end, whichever comes first. Dropping the future kills it.
    pub async fn run(&self, job: Job<'_>) -> Result<End, Error> {
        let mut warden = self.spawn(&job)?;
        // The pipe that keeps the command alive. Closed explicitly below, or by any unwinding or cancellation.
        let lifeline = warden.stdin.take();
        let tail = Tail::of(&mut warden);
        let ended = tokio::select! {
            status = warden.wait() => Some(status.map_err(Error::Wait)?),
            () = tokio::time::sleep_until(job.deadline) => None,
            () = job.stop.cancelled() => None,
        };
        drop(lifeline);
        if ended.is_none() {
            put_down(&mut warden).await;
        }
        let output = tail.finish(PIPE_GRACE).await;
        Ok(match ended {
            Some(status) => End::Exited { status, output },
            None if job.stop.is_cancelled() => End::Stopped,
            None => End::DeadlinePassed(output),
        })
    }

    fn spawn(&self, job: &Job<'_>) -> Result<Child, Error> {
        if job.command.is_empty() {
            return Err(Error::NoCommand);
        }
        let mut command = Command::new(&self.launcher.program);
        command
            .args(&self.launcher.arguments)
            .arg(self.spec(job).to_json())
            .arg("--")
            .args(job.command)
            .current_dir(job.directory)
            .env_clear()
            .envs(self.environment(job))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Not the worker's group: a Ctrl-C at the terminal is the worker's to handle.
            .process_group(0);
        command
            .spawn()
            .map_err(|source| Error::Launcher { launcher: self.launcher.program.clone(), source })
    }

    fn spec(&self, job: &Job<'_>) -> shim::Spec {
        let tools = [&self.toolchain.bin, &self.toolchain.rustup_home];
        let mut readable: Vec<PathBuf> = tools.into_iter().flatten().cloned().collect();
        readable.extend(job.readable.iter().cloned());
        readable.extend(job.credentials.map(Path::to_owned));
        shim::Spec {
            launcher: self.launcher.clone(),
            confinement: self.confinement,
            readable,
            writable: vec![job.home.to_owned()],
            warden: None,
        }
    }

    fn environment(&self, job: &Job<'_>) -> Vec<(&'static str, OsString)> {
        let below_home = |name: &str| job.home.join(name).into_os_string();
        let mut environment = vec![
            ("PATH", self.toolchain.search_path()),
            ("HOME", job.home.into()),
            ("TMPDIR", below_home("tmp")),
            ("LANG", "C.UTF-8".into()),
            ("CARGO_HOME", below_home(".cargo")),
        ];
        let rustup_home = self.toolchain.rustup_home.as_ref().map(OsString::from);
        environment.extend(rustup_home.map(|home| ("RUSTUP_HOME", home)));
        let pinned = self.toolchain.pinned.as_ref().map(OsString::from);
        environment.extend(pinned.map(|name| ("RUSTUP_TOOLCHAIN", name)));
        environment.extend(job.credentials.map(|path| ("HIVE_CREDENTIALS", path.into())));
        environment
    }
}

/// Waits for the warden, which kills everything below it once its lifeline is closed; then insists.
async fn put_down(warden: &mut Child) {
    if timeout(WARDEN_GRACE, warden.wait()).await.is_ok() {
        return;
    }
    tracing::error!("a sandbox did not end by itself and is killed as a group");
    let group = warden.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // Fails only when the group is gone already, which is what is wanted.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = warden.wait().await;
}
