//! The development authority: a trust domain of its own, the SPIFFE Workload API on a Unix socket, and the JWT keys
//! over HTTP on loopback.
//!
//! ```text
//!  workload ──Unix socket──▶ workload_api ──who is it?──▶ attest ◀── entries ◀── add_entry, or control (stdin)
//!                                 │                          ▲
//!                                 │ documents                └── process (/proc, pidfds)
//!                                 ▼
//!  verifier ──HTTP──▶ keys ──▶ issuer ──▶ ca, jwt, rotation
//! ```
//!
//! A workload is recognised by the process at the other end of its connection, never by anything it says. An entry for
//! a process holds on to that very process: when it ends the entry goes, and a later process with the same number is a
//! stranger. With [`AuthorityConfig::supervisor`] set, the children of that process are expected to be
//! registered one by one, and a child that calls before it is registered is waited for up to two seconds.
//!
//! It deliberately keeps nothing: keys are made at start and gone at the end.

mod attest;
mod ca;
mod config;
mod control;
mod entries;
mod error;
mod issuer;
mod jwt;
mod keys;
mod live;
mod process;
mod rotation;
mod socket;
mod wire;
mod workload_api;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hive_security::{SpiffeId, TrustDomain};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::AuthorityConfig;
pub use control::run;
pub use entries::{Entry, EntryId, Selector};
pub use error::Error;

use entries::Entries;
use issuer::Issuer;
use socket::SocketFile;

/// How long open streams and requests get to end by themselves.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// An authority that runs in this process. Dropping it stops it and removes its socket.
#[must_use = "an authority that is dropped stops"]
pub struct Authority {
    issuer: Arc<Issuer>,
    entries: Arc<Entries>,
    trust_domain: String,
    socket: SocketFile,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Authority {
    /// Starts one on the current runtime; it serves when this returns.
    pub async fn start(config: AuthorityConfig) -> Result<Self, Error> {
        let domain = trust_domain(config.trust_domain.as_deref())?;
        let entries = Arc::new(Entries::new(config.supervisor)?);
        let (keys, address) = listen_for_keys(config.keys_listen).await?;
        let trust_domain = domain.as_str().to_owned();
        let issuer = Arc::new(Issuer::new(&config, domain, format!("http://{address}"))?);
        let (listener, socket) = socket::bind(&config)?;
        let stop = CancellationToken::new();
        let mut authority =
            Self { issuer, entries, trust_domain, socket, stop, tasks: JoinSet::new() };
        authority.serve(listener, keys);
        tracing::info!(socket = %authority.socket().display(), trust_domain = authority.trust_domain(), "the development authority serves");
        Ok(authority)
    }

    /// The socket of the Workload API.
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// The same as a value for `SPIFFE_ENDPOINT_SOCKET`: `unix:///…`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Where the JWT keys are served: `http://127.0.0.1:<port>/keys`.
    pub fn keys_url(&self) -> String {
        format!("{}/keys", self.issuer.keys_base())
    }

    /// The full SPIFFE ID of the workload at `path`.
    pub fn spiffe_id(&self, path: &str) -> Result<String, Error> {
        self.member(path).map(|id| id.to_string())
    }

    /// Adds an entry; open streams of the processes it matches are told at once.
    pub fn add_entry(&self, entry: Entry) -> Result<EntryId, Error> {
        self.entries.add(self.member(&entry.spiffe_path)?, entry.selectors, false)
    }

    /// Adds an entry for the person who works with the supervisor: services and their descendants cannot use it.
    pub fn add_operator_entry(&self, entry: Entry) -> Result<EntryId, Error> {
        self.entries.add(self.member(&entry.spiffe_path)?, entry.selectors, true)
    }

    /// Declares a child of the supervisor, and everything below it, to be the operator's.
    pub fn add_operator_root(&self, pid: u32) -> Result<(), Error> {
        self.entries.add_operator_root(pid)
    }

    /// Removes an entry; its identity is withdrawn from open streams at once. False if there is none.
    pub fn remove_entry(&self, id: EntryId) -> bool {
        self.entries.remove(id)
    }

    /// Replaces the X.509 authority: publishes the new one, lets it sign after [`AuthorityConfig::publish_ahead`], and
    /// keeps the old one published until its last SVID has expired. Returns when the new one signs.
    pub async fn rotate_x509(&self) -> Result<(), Error> {
        self.issuer.rotate_x509().await
    }

    /// Replaces the JWT key in the same way.
    pub async fn rotate_jwt(&self) -> Result<(), Error> {
        self.issuer.rotate_jwt().await
    }

    /// Ends streams and requests, then the servers.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut self.tasks);
        let drained = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_DEADLINE, drained).await.is_err() {
            tracing::warn!("the development authority ended with requests still open");
        }
    }

    /// Resolves if a server ends by itself.
    async fn ended(&self) {
        self.stop.cancelled().await;
    }

    fn member(&self, path: &str) -> Result<SpiffeId, Error> {
        let refused = |reason: String| Error::Name { name: path.to_owned(), reason };
        if !path.starts_with('/') {
            return Err(refused("the path of a workload's SPIFFE ID begins with '/'".to_owned()));
        }
        SpiffeId::in_trust_domain(&self.issuer.trust_domain, path)
            .map_err(|error| refused(error.to_string()))
    }

    fn serve(&mut self, listener: UnixListener, keys: TcpListener) {
        let stop = &self.stop;
        let service = workload_api::service(
            Arc::clone(&self.issuer),
            Arc::clone(&self.entries),
            stop.clone(),
        );
        let workloads = tonic::transport::Server::builder().add_service(service);
        let connections = socket::connections(listener);
        let stopped = stop.clone().cancelled_owned();
        let workloads = workloads.serve_with_incoming_shutdown(connections, stopped);
        self.tasks.spawn(supervised("Workload API", stop.clone(), workloads));

        let keys = axum::serve(keys, keys::router(Arc::clone(&self.issuer)))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        self.tasks.spawn(supervised("key server", stop.clone(), keys.into_future()));

        let (issuer, stop) = (Arc::clone(&self.issuer), stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(issuer.upkeep()).await;
        });
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop.cancel();
        // Each ends by itself now, and says good-bye to its clients first.
        self.tasks.detach_all();
    }
}

/// Runs one server. If it fails, everything stops: half an authority would only puzzle its clients.
async fn supervised<E: std::error::Error>(
    name: &'static str,
    stop: CancellationToken,
    server: impl Future<Output = Result<(), E>>,
) {
    if let Err(error) = server.await {
        tracing::error!(error = %error, "the {name} failed");
    }
    stop.cancel();
}

fn trust_domain(given: Option<&str>) -> Result<TrustDomain, Error> {
    let minted = || format!("dev-{:08x}.hive.internal", rand::random::<u32>());
    let name = given.map_or_else(minted, str::to_owned);
    TrustDomain::parse(&name).map_err(|error| Error::Name { name, reason: error.to_string() })
}

async fn listen_for_keys(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback(address));
    }
    let failed = |source| Error::Keys { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
