//! The development servers, each a process of its own, as the real ones are.

use super::service;
use crate::exit;
use clap::Subcommand;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// The SPIFFE Workload API, on a Unix socket.
    Authority,
    /// The Vault HTTP API, on loopback.
    Vault,
    /// Becomes another program, which then ends when `--end-with-parent` ends.
    Launch {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

pub(super) fn run(verb: &Verb) -> ExitCode {
    match verb {
        Verb::Authority => {
            service::serve(hive_dev::authority::AuthorityConfig::read, hive_dev::authority::run)
        }
        Verb::Vault => {
            service::serve(|_| Some(()), |(), ready, stop| hive_dev::vault::run(ready, stop))
        }
        Verb::Launch { command } => launch(command),
    }
}

fn launch(command: &[OsString]) -> ExitCode {
    let [program, arguments @ ..] = command else { return ExitCode::from(exit::BAD_INPUT) };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("hive: cannot run {}: {error}", program.display());
    exit::ERROR
}
