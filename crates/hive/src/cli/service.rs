//! The services: each reads its environment, attaches to its identity, serves, and drains on SIGTERM.

use crate::exit;
use hive_runtime::config::{self, ProcessEnvironment, Reader};
use hive_runtime::errors::chain;
use hive_runtime::ready::Ready;
use hive_runtime::{harden, stop, telemetry};
use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// Enough for TLS and SQLite to run side by side; a service mostly waits.
const WORKER_THREADS: usize = 2;

pub(super) fn registry() -> ExitCode {
    serve(hive_registry::Config::read, hive_registry::run)
}

pub(super) fn orchestrator() -> ExitCode {
    serve(hive_orchestrator::Config::read, hive_orchestrator::run)
}

pub(super) fn worker() -> ExitCode {
    serve(hive_worker::Config::read, hive_worker::run)
}

pub(super) fn sandbox(arguments: Vec<OsString>) -> ExitCode {
    hive_worker::sandbox::exec_shim(arguments)
}

/// Runs one service until it is asked to stop.
pub(super) fn serve<C, E, F>(
    read: impl FnOnce(&mut Reader<'_>) -> Option<C>,
    run: impl FnOnce(C, Ready, CancellationToken) -> F,
) -> ExitCode
where
    E: std::error::Error,
    F: Future<Output = Result<(), E>>,
{
    let filter = std::env::var("HIVE_LOG").unwrap_or_else(|_| telemetry::DEFAULT_FILTER.to_owned());
    if let Err(error) = telemetry::init(&filter) {
        return bad_setting(&format!("HIVE_LOG is {filter:?}: {error}"));
    }
    let config = match config::read(&ProcessEnvironment, read) {
        Ok(config) => config,
        Err(mistakes) => return bad_setting(&mistakes),
    };
    match start(|stop| run(config, Ready::on_standard_output(), stop)) {
        Ok(()) => exit::DONE,
        Err(error) => {
            eprintln!("hive: {}", chain(&*error));
            exit::ERROR
        }
    }
}

fn start<E: std::error::Error, F: Future<Output = Result<(), E>>>(
    run: impl FnOnce(CancellationToken) -> F,
) -> Result<(), Box<dyn std::error::Error>> {
    harden::forbid_inspection()?;
    harden::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = stop::on_signal()?;
        run(stop).await.map_err(|error| chain(&error).into())
    })
}

fn bad_setting(mistakes: &dyn Display) -> ExitCode {
    eprintln!("{mistakes}");
    ExitCode::from(exit::BAD_INPUT)
}
