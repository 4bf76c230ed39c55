//! `hive registry`: serve it, or fill it from the registry before it.

mod import;
mod owners;
mod record;
mod source;
mod tally;

use super::{service, stack};
use clap::{Args, Subcommand};
use std::process::ExitCode;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Takes over the agents that a registry kept in Redis, into the one at HIVE_REGISTRY_ADDR. What is known there
    /// stays as it is, so it can be run again. Exit status: 0 all of them, 1 some were refused, 64 it was asked for
    /// wrongly, 69 a server does not answer.
    Import(import::Options),
}

pub(super) fn run(options: Options) -> ExitCode {
    match options.verb {
        None => service::registry(),
        Some(Verb::Import(options)) => stack::block_on(import::run(options)),
    }
}
