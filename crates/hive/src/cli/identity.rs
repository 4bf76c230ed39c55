//! `hive identity`: who this process is to others, and until when.

mod fetch;
pub(super) mod show;
mod verify;

use super::stack;
use crate::exit;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows every identity, and the trust domains that it can verify; the default.
    Show,
    /// Prints a line at every change, until it is interrupted.
    Watch,
    /// Hands the documents to programs that cannot speak to the Workload API.
    #[command(subcommand)]
    Fetch(Fetch),
    /// Verifies a JWT-SVID, and says why if it is not valid.
    Verify {
        /// `-`: the token is read from standard input, for everyone can read a command line.
        #[arg(value_name = "-")]
        token: String,
        /// Whom the token must be meant for.
        #[arg(long)]
        audience: String,
    },
}

#[derive(Subcommand)]
enum Fetch {
    /// Fetches a JWT-SVID.
    Jwt {
        /// Whom it is meant for.
        #[arg(long)]
        audience: String,
        /// Where it goes: `-` for standard output, or a file that only this user can read.
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Writes the X.509-SVIDs, their keys and the bundles as PEM files.
    X509 {
        /// Where they go: a directory that only this user can write.
        #[arg(long, value_name = "DIR")]
        write: PathBuf,
    },
}

pub(super) fn run(options: Options) -> ExitCode {
    stack::block_on(async {
        match options.verb.unwrap_or(Verb::Show) {
            Verb::Show => show::show().await?,
            Verb::Watch => show::watch().await?,
            Verb::Fetch(Fetch::Jwt { audience, output }) => fetch::jwt(&audience, &output).await?,
            Verb::Fetch(Fetch::X509 { write }) => fetch::x509(&write).await?,
            Verb::Verify { token, audience } => verify::verify(&token, &audience).await?,
        }
        Ok(exit::DONE)
    })
}
