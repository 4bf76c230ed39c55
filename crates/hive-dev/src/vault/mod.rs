//! A Vault for development: the HTTP API of Vault and OpenBao on loopback, over TLS as well if that is wanted, in memory,
//! with leases that truly end.
//!
//! It serves what a workload and its operator call (logins, tokens, policies, secrets engines, leases, wrapping,
//! namespaces, quotas, the seal), with the bodies and error texts of the real server. Its database logins are real
//! roles in a real PostgreSQL. A [`Setup`] says what it begins with; the API changes it; nothing is stored.
//!
//! Its [`weather`](Vault::weather) makes it refuse, stall and lose answers; its [`Clock`] may be one that a test turns.

mod approle;
mod audit;
mod begin;
mod cert;
mod cidr;
mod clock;
mod connections;
mod core;
mod database;
mod engine;
mod fields;
mod jwt;
mod jwt_claims;
mod jwt_keys;
mod kubernetes;
mod kv;
mod kv_one;
mod kv_store;
mod leases;
mod leases_api;
mod mounts;
mod namespaces;
mod pki;
mod policies_api;
mod policy;
mod policy_limits;
mod policy_text;
mod quotas;
mod reply;
mod roles;
mod routes;
mod seal;
mod server;
mod setup;
mod storm;
mod sys;
mod terms;
mod terms_old;
mod tls;
mod token;
mod tokens;
mod transit;
pub mod weather;
mod wrapping;

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hive_runtime::ready::Ready;
use hive_security::clock::Clock;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub(crate) use reply::random_text;
pub use setup::{
    Capability, Database, DatabaseRole, JwtRole, PathRule, Sensitive, Setup, Tls, TlsIdentity,
};

use self::connections::Ends;
use self::core::Core;
use self::weather::Weather;
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
    /// The certificate for TLS cannot be used.
    #[error(
        "the vault cannot serve over TLS ({why}): check the certificate and the key of its setup, both PEM"
    )]
    Certificate {
        /// What is wrong with it. Nothing of the key is repeated.
        why: &'static str,
    },
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
    /// Where it serves over TLS, if its setup says so.
    pub tls: Option<TlsEndpoint>,
    doors: Vec<Door>,
    core: Arc<Core>,
    stop: CancellationToken,
    ends: Ends,
    server: JoinHandle<()>,
}

/// Where a vault serves over TLS.
#[derive(Clone, Debug)]
pub struct TlsEndpoint {
    /// `https://127.0.0.1:<port>`
    pub address: String,
    /// The authority of its certificate, PEM, which clients have to trust. None where the certificate was given.
    pub ca_pem: Option<String>,
}

/// An address, and what shakes hands there before anything is said.
struct Door {
    listens: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Vault {
    /// Starts one in this process; it serves when this returns. Issued secrets are also told to `witness`.
    pub async fn start(setup: Setup, witness: Witness) -> Result<Self, Error> {
        Self::start_with_clock(setup, witness, Clock::system()).await
    }

    /// Starts one that lives by the given clock: every life and end of a token, a lease and a version.
    pub async fn start_with_clock(
        setup: Setup,
        witness: Witness,
        clock: Clock,
    ) -> Result<Self, Error> {
        let plain = listen(setup.listen).await?;
        let mut doors = vec![Door { listens: where_is(&plain, setup.listen)?, tls: None }];
        let (mut listeners, mut endpoint) = (vec![plain], None);
        if let Some(tls) = &setup.tls {
            let (ca_pem, acceptor) = tls::acceptor(tls)?;
            let listener = listen(tls.listen).await?;
            let listens = where_is(&listener, tls.listen)?;
            endpoint = Some(TlsEndpoint { address: format!("https://{listens}"), ca_pem });
            doors.push(Door { listens, tls: Some(acceptor) });
            listeners.push(listener);
        }
        let core = Arc::new(begin::core_of(setup, witness, clock).await?);
        let (stop, ends) = (CancellationToken::new(), Ends::default());
        tokio::spawn(Arc::clone(&core).reap(stop.clone()));
        let address = format!("http://{}", doors[0].listens);
        let server = serve(&doors, listeners, &core, &ends);
        Ok(Self { address, tls: endpoint, doors, core, stop, ends, server })
    }

    /// Bad weather on demand.
    pub fn weather(&self) -> &Weather {
        &self.core.weather
    }

    /// Seals it, or opens it again, as an operator would.
    pub fn set_sealed(&self, sealed: bool) {
        self.core.set_sealed(sealed);
    }

    /// What `sys/unseal` wants.
    pub fn unseal_key(&self) -> &str {
        &self.core.seal.key
    }

    /// The ids of the leases that are open, those that are ending included.
    pub fn leases(&self) -> Vec<String> {
        self.core.state().leases.keys().cloned().collect()
    }

    /// How many tokens live.
    pub fn tokens(&self) -> usize {
        self.core.state().tokens.len()
    }

    /// Lets a lease expire now: its end is the same as if its time had come. False where there is none.
    pub fn expire_lease(&self, id: &str) -> bool {
        let mut state = self.core.state();
        let lease = state.leases.get_mut(id);
        let found = lease.map(|lease| lease.span.end(&self.core.clock)).is_some();
        drop(state);
        self.core.wake.notify_one();
        found
    }

    /// Revokes a lease as an operator would, and waits. The error is what the engine said.
    pub async fn revoke_lease(&self, id: &str) -> Result<(), String> {
        self.core.end_lease_now(id).await
    }

    /// Revokes the token with this accessor, and all that was issued under it. False where there is none.
    pub async fn revoke_token(&self, accessor: &str) -> bool {
        let Some((key, _)) = self.core.by_accessor(accessor) else { return false };
        self.core.revoke_token(key, "token_revoked").await.is_ok()
    }

    /// Breaks every connection and closes its ports, as a machine that loses its power; what is in memory stays.
    pub async fn go_down(&mut self) {
        self.ends.cut.cancel();
        // It ends by itself, or has ended.
        let _ = (&mut self.server).await;
    }

    /// Listens again at the same addresses, after [`go_down`](Self::go_down).
    pub async fn come_up(&mut self) -> Result<(), Error> {
        let mut listeners = Vec::new();
        for door in &self.doors {
            listeners.push(listen(door.listens).await?);
        }
        self.ends = Ends::default();
        self.server = serve(&self.doors, listeners, &self.core, &self.ends);
        Ok(())
    }

    /// Stops serving and revokes everything. The error says what could not be revoked in time.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.ends.drain.cancel();
        if !self.server.is_finished()
            && tokio::time::timeout(DRAIN_DEADLINE, &mut self.server).await.is_err()
        {
            self.ends.cut.cancel();
        }
        self.stop.cancel();
        let left = self.core.revoke_all(REVOKE_DEADLINE).await;
        let mounts: Vec<_> = self.core.state().mounts.values().cloned().collect();
        for mount in mounts {
            let _ = tokio::time::timeout(DRAIN_DEADLINE, mount.engine.close()).await;
        }
        if left > 0 { Err(Error::Leases { count: left }) } else { Ok(()) }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

fn where_is(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::Listen { address, source })
}

fn serve(
    doors: &[Door],
    listeners: Vec<TcpListener>,
    core: &Arc<Core>,
    ends: &Ends,
) -> JoinHandle<()> {
    let router = server::router(Arc::clone(core));
    let each = doors.iter().zip(listeners).map(|(door, listener)| {
        connections::serve(listener, door.tls.clone(), router.clone(), ends.clone())
    });
    let all = join_all(each.collect::<Vec<_>>());
    tokio::spawn(async move { drop(all.await) })
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stop.cancel();
        self.ends.drain.cancel();
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
    ready.announce_facts(facts(&vault));
    tokio::select! {
        () = stop.cancelled() => {}
        () = end_of(input) => {}
    }
    vault.stop().await
}

/// Under `tls_ca` is a certificate of an authority, which is no secret.
fn facts(vault: &Vault) -> Vec<(&'static str, String)> {
    let mut facts = vec![("address", vault.address.clone())];
    if let Some(tls) = &vault.tls {
        facts.push(("tls_address", tls.address.clone()));
        facts.extend(tls.ca_pem.clone().map(|pem| ("tls_ca", pem)));
    }
    facts
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
