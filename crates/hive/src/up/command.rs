//! The command after `--`: it runs inside the stack, and its exit status is ours.

use super::Failure;
use super::authority::Registrar;
use super::launch;
use crate::exit;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Runs `command` with `environment`, until it ends or `stop` says so.
pub(super) async fn run(
    command: &[OsString],
    environment: &[(&'static str, String)],
    executable: &Path,
    registrar: Option<&Registrar>,
    stop: &CancellationToken,
) -> Result<ExitCode, Failure> {
    let mut child = spawn(command, environment, executable)?;
    if let (Some(registrar), Some(pid)) = (registrar, child.id()) {
        registrar.operator_root(pid).await?;
    }
    tokio::select! {
        status = child.wait() => status.map(code).map_err(|error| Failure::error(error.to_string())),
        () = stop.cancelled() => {
            launch::terminate(&mut child).await;
            Ok(ExitCode::from(130)) // as a shell reports what SIGINT ended
        }
    }
}

/// The directory of this executable comes first on the PATH, so that `hive` means this very program.
fn spawn(
    command: &[OsString],
    environment: &[(&'static str, String)],
    executable: &Path,
) -> Result<Child, Failure> {
    let (program, arguments) = command.split_first().expect("clap gives a command or none");
    let directory = executable.parent().unwrap_or_else(|| Path::new("/"));
    let mut path = directory.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    Command::new(resolve(program, executable))
        .args(arguments)
        .env("PATH", path)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure {
            message: format!("cannot run {}: {error}", program.display()),
            status: if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 },
        })
}

/// The program is looked up on *this* process's PATH, which need not have the directory of `hive`.
fn resolve(program: &OsStr, executable: &Path) -> OsString {
    if Some(program) == executable.file_name() || program == "hive" {
        executable.as_os_str().to_owned()
    } else {
        program.to_owned()
    }
}

fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).map_or(exit::ERROR, ExitCode::from)
}
