//! `hive up`: the whole stack on this machine, as children of this process.
//!
//! Services know nothing of it: they get `SPIFFE_ENDPOINT_SOCKET` and `VAULT_ADDR` as they would from SPIRE and
//! OpenBao. What is particular to development is in this module and in `hive-dev`.
//!
//! ```text
//!  hive up ──▶ authority ◀── who is process 4711? ── every service
//!     ├──────▶ postgres (if there is one on this machine)
//!     ├──────▶ vault, registry, orchestrator, workers      started together, stopped in reverse
//!     └──────▶ the command after `--`
//! ```

mod authority;
mod command;
mod launch;
mod layout;
mod orphans;
mod ports;
mod screen;
mod secrets;
mod service;
mod stack;

use crate::cli::stack::Failure;
use crate::exit;
use clap::Args;
use hive_runtime::{stop, telemetry};
use screen::Screen;
use stack::Stack;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct Options {
    /// Keeps everything in this directory [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many workers to start.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Uses this Vault or OpenBao instead of starting a development vault.
    #[arg(long, value_name = "URL")]
    vault_addr: Option<String>,
    /// Uses this Workload API (such as SPIRE's) instead of starting a development authority.
    #[arg(long, value_name = "ENDPOINT", requires = "vault_addr")]
    spiffe_socket: Option<String>,
    /// `auto` starts PostgreSQL if it is on this machine, `off` does not; host:port/database tells the workers of
    /// one in which the Vault at --vault-addr issues roles.
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    postgres: Postgres,
    /// Takes consecutive ports from this one on [default: free ones].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port_base: Option<u16>,
    /// Says everything as JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Runs this command inside the stack, then stops, and exits with its status.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Which PostgreSQL the stack uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Postgres {
    Auto,
    At(String),
    Off,
}

impl Postgres {
    /// Where a database is that was named.
    fn address(&self) -> Option<String> {
        match self {
            Self::At(address) => Some(address.clone()),
            Self::Auto | Self::Off => None,
        }
    }
}

impl FromStr for Postgres {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ if text.contains('@') => {
                Err("a login does not belong here: roles are issued by the \
                vault; give host:port/database"
                    .to_owned())
            }
            _ if is_address(text) => Ok(Self::At(text.to_owned())),
            _ => Err("expected auto, off or host:port/database".to_owned()),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.split_once('/').is_some_and(|(host, database)| {
        let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        !database.is_empty() && matches!(port, Some(Ok(_)))
    })
}

/// Runs the stack until Ctrl-C, until the command ends, or until it cannot go on.
pub(crate) fn run(options: Options) -> ExitCode {
    let began = Instant::now();
    // One thread: children ask the kernel for a signal when the *thread* that spawned them ends.
    crate::cli::stack::block_on(async move {
        let filter = std::env::var("HIVE_LOG").unwrap_or_else(|_| "warn,spiffe=off".to_owned());
        telemetry::init(&filter)
            .map_err(|error| Failure::bad_input(format!("HIVE_LOG is {filter:?}: {error}")))?;
        let stop = stop::on_signal().map_err(|error| Failure::error(error.to_string()))?;
        orphans::adopt().map_err(|error| Failure::error(error.to_string()))?;
        let screen = Screen::new(options.json, !options.command.is_empty());
        let mut stack = Stack::new(&options)?;
        let outcome = tokio::select! {
            biased;
            outcome = live(&mut stack, &options, &screen, &stop, began) => outcome,
            () = stop.cancelled() => Ok(exit::DONE),
        };
        let ended = stack.end().await;
        let code = outcome?;
        ended.map(|()| code)
    })
}

/// Starts everything, then waits for whatever ends it.
///
/// Dropped by Ctrl-C at any await; whatever had been started by then is known to the stack, which ends it.
async fn live(
    stack: &mut Stack,
    options: &Options,
    screen: &Screen,
    stop: &CancellationToken,
    began: Instant,
) -> Result<ExitCode, Failure> {
    let overview = stack.start(options, began).await?;
    screen.ready(&overview);
    if options.command.is_empty() {
        return Err(stack.watch(screen).await);
    }
    let environment = overview.environment.clone();
    let (executable, registrar) = (stack.executable(), stack.registrar());
    tokio::select! {
        biased;
        code = command::run(&options.command, &environment, &executable, registrar.as_ref(), stop) => code,
        failure = stack.watch(screen) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_a_login() {
        assert_eq!("auto".parse(), Ok(Postgres::Auto));
        assert_eq!("db:5432/hive".parse(), Ok(Postgres::At("db:5432/hive".to_owned())));
        for wrong in ["postgres://me:secret@db:5432/hive", "db", "db:5432", "db:port/hive", "on"] {
            assert!(Postgres::from_str(wrong).is_err(), "{wrong}");
        }
    }
}
