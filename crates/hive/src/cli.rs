//! The command line: what can be said, and which file does it.

mod agents;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod exec;
mod identity;
mod lease;
mod plan;
mod registry;
mod render;
pub(crate) mod service;
pub(crate) mod stack;
pub(crate) mod vault;

use crate::exit;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs work for services and agents that hold no secrets.
#[derive(Parser)]
#[command(name = "hive", version, max_term_width = 100)]
struct Cli {
    /// Ends this process when its parent, which has this process ID, ends.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    end_with_parent: Option<u32>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts the whole stack on this machine; Ctrl-C stops it and leaves nothing behind.
    #[cfg(feature = "dev")]
    Up(crate::up::Options),
    /// Submits, watches, lists, shows and cancels plans.
    #[command(subcommand)]
    Plan(plan::Verb),
    /// Lists, watches and explains the agents that the registry knows.
    #[command(subcommand)]
    Agents(agents::Verb),
    /// Says who this process is to others, and until when; fetches and verifies documents.
    Identity(identity::Options),
    /// Lists, extends and ends what is borrowed from Vault; prints a password for programs that call out.
    #[command(subcommand)]
    Lease(lease::Verb),
    /// Runs any program with credentials from Vault, in files that change under it; in the end all is given back.
    Exec(exec::Options),
    /// Finds out why this process has no identity, or a bad one, and what to do about it.
    Doctor(doctor::Options),
    /// Serves the registry of workers, configured by its environment; or fills it from another one.
    Registry(registry::Options),
    /// Serves the orchestrator. Configured by its environment.
    Orchestrator,
    /// Executes tickets. Configured by its environment.
    Worker,
    /// Runs a program inside a worker's sandbox; workers call it.
    #[command(hide = true)]
    SandboxExec(SandboxArguments),
    /// Serves one development server; `hive up` calls it.
    #[cfg(feature = "dev")]
    #[command(hide = true, subcommand)]
    Dev(dev::Verb),
}

#[derive(Args)]
struct SandboxArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Does what the arguments say.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if let Err(error) = prepare(cli.end_with_parent) {
        eprintln!("hive: cannot prepare this process: {error}");
        return exit::ERROR;
    }
    match cli.verb {
        #[cfg(feature = "dev")]
        Verb::Up(options) => crate::up::run(options),
        Verb::Plan(verb) => plan::run(verb),
        Verb::Agents(verb) => agents::run(verb),
        Verb::Identity(options) => identity::run(options),
        Verb::Lease(verb) => lease::run(verb),
        Verb::Exec(options) => exec::run(&options),
        Verb::Doctor(options) => doctor::run(&options),
        Verb::Registry(options) => registry::run(options),
        Verb::Orchestrator => service::orchestrator(),
        Verb::Worker => service::worker(),
        Verb::SandboxExec(SandboxArguments { arguments }) => service::sandbox(arguments),
        #[cfg(feature = "dev")]
        Verb::Dev(verb) => dev::run(&verb),
    }
}

/// Whatever the verb, this process will hold secrets.
fn prepare(parent: Option<u32>) -> std::io::Result<()> {
    hive_runtime::harden::forbid_core_dumps()?;
    parent.map_or(Ok(()), hive_runtime::harden::end_with_parent)
}

/// clap exits with 2, which means "failed and undone" here; wrong arguments are bad input.
fn refuse(error: &clap::Error) -> ExitCode {
    // A closed terminal is no reason to change the exit status.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(exit::BAD_INPUT) } else { exit::DONE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
