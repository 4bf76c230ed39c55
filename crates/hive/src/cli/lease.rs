//! `hive lease`: what is borrowed from Vault, by whom, and for how long.

pub(super) mod holdings;
mod list;

use super::stack::{self, Failure};
use super::vault::{self, Session};
use crate::exit;
use clap::{Args, Subcommand};
use hive_runtime::errors::chain;
use secrecy::ExposeSecret;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::timeout;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Lists leases: how much time is left, and who on this machine uses them.
    List {
        #[command(flatten)]
        vault: vault::Borrower,
        /// Also lists what Vault has below this prefix, such as `database/creds/`. The role needs `list` with `sudo` on
        /// `sys/leases/lookup/…`, and `update` on `sys/leases/lookup`.
        #[arg(long)]
        prefix: Option<String>,
        /// Prints one JSON document for programs.
        #[arg(long)]
        json: bool,
    },
    /// Extends a lease. It still ends with the token that made it.
    Renew {
        #[command(flatten)]
        vault: vault::Borrower,
        /// The lease.
        id: String,
        /// For how many seconds, from now; as long as the first time if it is not given.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        increment: u64,
    },
    /// Gives leases back before their time. Whoever uses one learns of it at the next renewal at the latest.
    Revoke {
        #[command(flatten)]
        vault: vault::Borrower,
        #[command(flatten)]
        what: Revoked,
    },
    /// Prints the password of a static role and nothing else, for programs that call out, such as Temporal's `passwordCommand`.
    Password {
        #[command(flatten)]
        vault: vault::Borrower,
        /// The static role.
        #[arg(long)]
        role: String,
        /// Where the database engine is mounted.
        #[arg(long, default_value = "database")]
        mount: String,
        /// How long it may take.
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
        deadline: u64,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Revoked {
    /// One lease.
    id: Option<String>,
    /// Every lease below this prefix, such as `database/creds/orders`, whoever uses it. The role needs `sudo`.
    #[arg(long)]
    prefix: Option<String>,
}

pub(super) fn run(verb: Verb) -> ExitCode {
    stack::block_on(async {
        match verb {
            Verb::List { vault, prefix, json } => list::list(&vault, prefix, json).await?,
            Verb::Renew { vault, id, increment } => {
                renew(vault.session().await?, &id, increment).await?;
            }
            Verb::Revoke { vault, what } => revoke(vault.session().await?, what).await?,
            Verb::Password { vault, role, mount, deadline } => {
                let deadline = Duration::from_secs(deadline);
                let late = || {
                    Failure::unavailable(format!(
                        "there is no password within {} s",
                        deadline.as_secs()
                    ))
                };
                timeout(deadline, password(&vault, &mount, &role)).await.map_err(|_| late())??;
            }
        }
        Ok(exit::DONE)
    })
}

async fn renew(session: Session, id: &str, increment: u64) -> Result<(), Failure> {
    let increment = Duration::from_secs(increment);
    let renewed = session.vault.renew_lease(&session.login.token, id, increment).await;
    let renewal = session.end(renewed.map_err(|error| vault::failed(&error))).await?;
    println!("{} left", list::shown(renewal.ttl));
    for warning in renewal.warnings {
        eprintln!("hive: Vault warns: {warning}");
    }
    Ok(())
}

async fn revoke(session: Session, what: Revoked) -> Result<(), Failure> {
    let (vault, token) = (&session.vault, &session.login.token);
    let revoked = match what {
        Revoked { prefix: Some(prefix), .. } => vault.revoke_leases(token, &prefix).await,
        Revoked { id, .. } => vault.revoke_lease(token, id.as_deref().unwrap_or_default()).await,
    };
    session.end(revoked.map_err(|error| vault::failed(&error))).await
}

async fn password(options: &vault::Borrower, mount: &str, role: &str) -> Result<(), Failure> {
    let session = options.session().await?;
    let database = session.vault.database(mount);
    let login = database.static_credentials(&session.login.token, role).await;
    let login = session.end(login.map_err(|error| vault::failed(&error))).await?;
    // Without a line break: some programs would take it for a part of the password.
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{}", login.password.expose_secret()).and_then(|()| out.flush());
    written.map_err(|error| Failure::error(format!("standard output: {}", chain(&error))))
}
