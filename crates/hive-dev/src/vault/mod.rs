//! A Vault for development: the HTTP API of Vault and OpenBao on loopback, in memory, with leases that truly end.
//!
//! It serves what a workload calls (login with a JWT-SVID, tokens, KV version 2, database logins, leases), with the
//! bodies and error texts of the real servers. Its database logins are real roles in a real PostgreSQL. What it does
//! not have: seals, storage, configuration over the API; everything it knows comes in its [`Setup`].

mod audit;
mod auth;
mod clock;
mod core;
mod database;
mod jwt;
mod kv;
mod leases;
mod policy;
mod reply;
mod routes;
mod server;
mod setup;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hive_runtime::ready::Ready;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub(crate) use reply::random_text;
pub use setup::{Capability, Database, DatabaseRole, JwtRole, PathRule, Sensitive, Setup};

use self::core::{Core, Parts};
use crate::witness::Witness;

/// How long the calls under way may take at the end, and how long the revocation of everything may.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
const REVOKE_DEADLINE: Duration = Duration::from_secs(5);
/// A setup holds policies and a few secrets.
const SETUP_MAX_BYTES: u64 = 4 << 20;

/// Why a development vault could not start or stop cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The audit log could not be opened or written.
    #[error("cannot write the audit log {path}: check that its directory exists and is writable")]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP client for the authority's keys could not be made.
    #[error("the HTTP client for the authority's keys cannot be set up in this process")]
    Client,
    /// The database of the setup could not be used.
    #[error(
        "cannot prepare the database at {host}:{port} ({why}): check its address, login and setup statements"
    )]
    Database {
        /// Host of the server.
        host: String,
        /// Its port.
        port: u16,
        /// What went wrong, without any statement.
        why: String,
    },
    /// Standard input is not a pipe.
    #[error(
        "the setup is read from a pipe, and standard input is none: start this program through `hive up`"
    )]
    Input {
        /// What the system said.
        source: std::io::Error,
    },
    /// Some leases are left, with the roles they stand for.
    #[error(
        "{count} leases could not be revoked at the end: look for roles named v-jwt-… in the database"
    )]
    Leases {
        /// How many.
        count: usize,
    },
    /// The address could not be listened on.
    #[error("cannot listen on {address}: choose another address, or port 0 for a free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything but loopback would be an invitation.
    #[error(
        "the development vault listens on loopback only, and {0} is not: use 127.0.0.1 or ::1, or a real Vault"
    )]
    NotLoopback(SocketAddr),
    /// The first line of standard input was not a setup. What it was is not repeated, for it may hold secrets.
    #[error("the first line of standard input is not a setup (JSON, line {line}, column {column})")]
    Setup {
        /// Where the parser stopped.
        line: usize,
        /// Where the parser stopped.
        column: usize,
    },
    /// Whoever wants to know every issued secret cannot be told.
    #[error("the witness of issued secrets cannot be used: {mistakes}")]
    Witness {
        /// What is wrong.
        mistakes: String,
    },
}

/// A running development vault. Stop it with [`stop`](Self::stop): dropping it stops serving, but revokes nothing.
pub struct Vault {
    /// Where it serves: `http://127.0.0.1:<port>`.
    pub address: String,
    core: Arc<Core>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Vault {
    /// Starts one in this process; it serves when this returns. Issued secrets are also told to `witness`.
    pub async fn start(setup: Setup, witness: Witness) -> Result<Self, Error> {
        let listen = setup.listen;
        if !listen.ip().is_loopback() {
            return Err(Error::NotLoopback(listen));
        }
        let failed = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = format!("http://{}", listener.local_addr().map_err(failed)?);
        let core = Arc::new(core_of(setup, witness).await?);
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&core).reap(stop.clone()));
        let server = tokio::spawn(serve(listener, Arc::clone(&core), stop.clone()));
        Ok(Self { address, core, stop, server })
    }

    /// Stops serving and revokes everything. The error says what could not be revoked in time.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN_DEADLINE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        let left = self.core.revoke_all(REVOKE_DEADLINE).await;
        if let Some(database) = &self.core.database {
            let _ = tokio::time::timeout(DRAIN_DEADLINE, database.close()).await;
        }
        if left > 0 { Err(Error::Leases { count: left }) } else { Ok(()) }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The development vault as a child process.
///
/// Its [`Setup`] is the first line of standard input; it announces its address once it serves; and it ends, everything
/// revoked, at the end of the input or when `stop` is cancelled.
pub async fn run(ready: Ready, stop: CancellationToken) -> Result<(), Error> {
    let input = standard_input().map_err(|source| Error::Input { source })?;
    let mut input = BufReader::new(input);
    let mut line = Zeroizing::new(String::new());
    let read = (&mut input).take(SETUP_MAX_BYTES).read_line(&mut line).await;
    let setup = read.map_err(|_| Error::Setup { line: 1, column: 0 }).and_then(|_| parse(&line))?;
    drop(line);
    let witness = Witness::from_env()
        .map_err(|mistakes| Error::Witness { mistakes: mistakes.to_string() })?;
    let vault = Vault::start(setup, witness).await?;
    ready.announce(&vault.address);
    tokio::select! {
        () = stop.cancelled() => {}
        () = end_of(input) => {}
    }
    vault.stop().await
}

fn parse(line: &str) -> Result<Setup, Error> {
    serde_json::from_str(line)
        .map_err(|error| Error::Setup { line: error.line(), column: error.column() })
}

/// A pipe of the runtime's own, because its `stdin` reads on a thread that nothing can interrupt.
fn standard_input() -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)
}

async fn end_of(mut input: BufReader<pipe::Receiver>) {
    let mut rest = [0; 256];
    while input.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}

async fn core_of(setup: Setup, witness: Witness) -> Result<Core, Error> {
    let audit = audit::Audit::open(&setup.audit_path)?;
    let verifier = jwt::Verifier::new(&setup.jwks_url)?;
    let database = match setup.database {
        Some(database) => Some(database::Engine::connect(database).await?),
        None => None,
    };
    let policies = policy::Policies::new(setup.policies);
    let kv = setup.kv.into_iter().map(|(mount, secrets)| (mount, filled(secrets))).collect();
    Ok(Core::new(Parts {
        policies,
        roles: setup.jwt_roles,
        verifier,
        database,
        audit,
        witness,
        kv,
    }))
}

fn filled(
    secrets: BTreeMap<String, Sensitive<serde_json::Map<String, serde_json::Value>>>,
) -> kv::Kv {
    let mut kv = kv::Kv::default();
    for (path, fields) in secrets {
        // Without check-and-set nothing can be in the way.
        let _ = kv.write(&path, fields.expose().clone(), None, SystemTime::now());
    }
    kv
}

async fn serve(listener: TcpListener, core: Arc<Core>, stop: CancellationToken) {
    let served = axum::serve(listener, server::router(core))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the development vault stopped serving");
    }
}
