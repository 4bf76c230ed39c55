//! The development authority: a trust domain of its own, the SPIFFE Workload API on a Unix socket, the JWT keys over
//! HTTP on loopback, and a bundle endpoint for other trust domains if one is wanted.
//!
//! ```text
//!  workload ──socket──▶ workload_api, live ──who is it?──▶ attest ◀── entries ◀── add_entry, or control (stdin)
//!                            │      ▲                         ▲
//!                            │      └── weather (tests)       └── process, hashes (/proc, pidfds)
//!                            ▼ documents
//!  verifier ──HTTP──▶ keys ──▶ issuer ──▶ ring ──▶ ca, jwt, rotation
//!  trust domain ──HTTPS──▶ bundle_endpoint ──▲  ▲── federation ◀── federate, or federate_with
//!                                                       └──HTTPS──▶ bundle endpoint of a trust domain
//! ```
//!
//! A workload is recognised by the process at the other end of its connection, never by anything it says. An entry for
//! a process holds on to that very process: when it ends the entry goes, and a later process with the same number is a
//! stranger. With [`AuthorityConfig::supervisor`] set, the children of that process are expected to be
//! registered one by one, and a child that calls before it is registered is waited for up to two seconds.
//!
//! What a client must live through can be made to happen: [`Authority::weather`] refuses, stalls, drops, spoils and
//! shifts the clock; [`Authority::prepare`] and its sisters rotate keys step by step; entries come, change and go.
//!
//! It deliberately keeps nothing: keys are made at start and gone at the end.

mod attest;
mod bundle_endpoint;
mod ca;
mod caller;
mod clock;
mod config;
mod control;
mod entries;
mod error;
mod federation;
mod hashes;
mod host;
mod issuer;
mod jwk;
mod jwt;
mod keys;
mod live;
mod malformed;
mod process;
mod ring;
mod rotation;
mod socket;
mod tcp;
mod weather;
mod wire;
mod workload_api;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hive_security::federation::Relationship;
use hive_security::{SpiffeId, TrustDomain};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use clock::ClockShift;
pub use config::{AuthorityConfig, BundleEndpoint, BundleProfile};
pub use control::run;
pub use entries::{Entry, EntryId, Selector, Terms};
pub use error::Error;
pub use rotation::{KeyKind, SigningKey, Stage};
pub use weather::{Malformed, Method, Trouble, Weather};

use attest::Identity;
use bundle_endpoint::{Proof, TlsListener};
use entries::Entries;
use issuer::Issuer;
use socket::SocketFile;
use workload_api::Shared;

/// How long open streams and requests get to end by themselves.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// No longer SPIFFE ID is issued: nobody has to read one (SPIFFE-ID standard, section 2.3).
const ID_BYTES_MAX: usize = 2_048;

/// An authority that runs in this process. Dropping it stops it and removes its socket.
#[must_use = "an authority that is dropped stops"]
pub struct Authority {
    shared: Arc<Shared>,
    trust_domain: String,
    socket: SocketFile,
    tcp: Option<SocketAddr>,
    bundle: Option<Bundle>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// What the clients of the bundle endpoint need.
struct Bundle {
    address: SocketAddr,
    /// PEM.
    web_authority: Option<String>,
}

impl Authority {
    /// Starts one on the current runtime; it serves when this returns.
    pub async fn start(config: AuthorityConfig) -> Result<Self, Error> {
        let domain = trust_domain(config.trust_domain.as_deref())?;
        let entries = Arc::new(Entries::new(config.supervisor)?);
        let (keys, address) = listen(config.keys_listen).await?;
        let trust_domain = domain.as_str().to_owned();
        let issuer = Arc::new(Issuer::new(&config, domain, format!("http://{address}"))?);
        let (listener, socket) = socket::bind(&config)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(issuer, entries, stop.clone()));
        let tasks = JoinSet::new();
        let mut authority =
            Self { shared, trust_domain, socket, tcp: None, bundle: None, stop, tasks };
        let room = socket::room();
        if let Some(address) = config.tcp_listen {
            let (listener, address) = listen(address).await?;
            authority.tcp = Some(address);
            authority.serve_workloads(socket::connections(listener, Arc::clone(&room)));
        }
        if let Some(endpoint) = &config.bundle_endpoint {
            authority.bundle = Some(authority.serve_bundle(endpoint).await?);
        }
        authority.serve_workloads(socket::connections(listener, room));
        authority.serve_keys(keys);
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

    /// The value of `SPIFFE_ENDPOINT_SOCKET` over TCP, `tcp://127.0.0.1:…`, with [`AuthorityConfig::tcp_listen`].
    pub fn tcp_endpoint(&self) -> Option<String> {
        self.tcp.map(|address| format!("tcp://{address}"))
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Where the JWT keys are served: `http://127.0.0.1:<port>/keys`.
    pub fn keys_url(&self) -> String {
        format!("{}/keys", self.shared.issuer.keys_base())
    }

    /// The full SPIFFE ID of the workload at `path`.
    pub fn spiffe_id(&self, path: &str) -> Result<String, Error> {
        self.member(path).map(|id| id.to_string())
    }

    /// Adds an entry; open streams of the processes it matches are told at once.
    pub fn add_entry(&self, entry: Entry) -> Result<EntryId, Error> {
        self.add(entry, false)
    }

    /// Adds an entry for the person who works with the supervisor: services and their descendants cannot use it.
    pub fn add_operator_entry(&self, entry: Entry) -> Result<EntryId, Error> {
        self.add(entry, true)
    }

    /// Changes what comes with the identity of an entry; open streams are told at once. False if there is none.
    pub fn change_entry(&self, id: EntryId, terms: Terms) -> Result<bool, Error> {
        self.shared.issuer.check_terms(&terms)?;
        self.shared.entries.change(id, terms)
    }

    /// Declares a child of the supervisor, and everything below it, to be the operator's.
    pub fn add_operator_root(&self, pid: u32) -> Result<(), Error> {
        self.shared.entries.add_operator_root(pid)
    }

    /// Removes an entry; its identity is withdrawn from open streams at once. False if there is none.
    pub fn remove_entry(&self, id: EntryId) -> bool {
        self.shared.entries.remove(id)
    }

    /// Replaces the X.509 authority: publishes the new one, lets it sign after [`AuthorityConfig::publish_ahead`], and
    /// keeps the old one published until its last SVID has expired. Returns when the new one signs.
    pub async fn rotate_x509(&self) -> Result<(), Error> {
        self.shared.issuer.rotate_x509().await
    }

    /// Replaces the JWT key in the same way.
    pub async fn rotate_jwt(&self) -> Result<(), Error> {
        self.shared.issuer.rotate_jwt().await
    }

    /// Publishes a new signing key, which signs nothing yet. One that was prepared before is dropped.
    pub async fn prepare(&self, kind: KeyKind) -> Result<SigningKey, Error> {
        self.shared.issuer.prepare(kind).await
    }

    /// Lets the prepared key sign. The one before it stays published until its last document has expired. Open
    /// streams say new documents at once.
    pub async fn activate(&self, key: &SigningKey) -> Result<(), Error> {
        self.shared.issuer.activate(key).await
    }

    /// Marks an old key as not to be trusted for long. Open streams say new documents at once, so that nobody who
    /// listens holds one of the old key's any more.
    pub fn taint(&self, key: &SigningKey) -> Result<(), Error> {
        self.shared.issuer.taint(key)
    }

    /// Takes a tainted key out of the bundle: what it signed is worth nothing from now on.
    pub fn revoke(&self, key: &SigningKey) -> Result<(), Error> {
        self.shared.issuer.revoke(key)
    }

    /// The signing keys of one kind and where they stand, the active one first.
    pub fn signing_keys(&self, kind: KeyKind) -> Vec<(SigningKey, Stage)> {
        self.shared.issuer.signing_keys(kind)
    }

    /// Trusts another trust domain's bundle document, for every workload whose entry does not say otherwise
    /// ([`Terms::federates_with`]). False if a newer one is known already, by `spiffe_sequence`. Keys that cannot be
    /// used are left out.
    pub fn federate(&self, trust_domain: &str, bundle_document: &str) -> Result<bool, Error> {
        let domain = self.other(trust_domain)?;
        self.shared.issuer.federation.set(&domain, bundle_document)
    }

    /// The same for the bundle that an endpoint serves, now and whenever it changes: it is fetched in the background
    /// as often as it asks for, within the bounds of the relationship, until
    /// [`end_federation`](Self::end_federation). It takes the place of an earlier relationship with the trust domain.
    ///
    /// Must be called on a runtime.
    pub fn federate_with(&self, relationship: Relationship) -> Result<(), Error> {
        self.other(relationship.trust_domain().as_str())?;
        let followed = self.shared.issuer.federation.follow(relationship, &self.stop)?;
        tokio::spawn(followed);
        Ok(())
    }

    /// Trusts another trust domain no more, and asks its endpoint no more. False if there was nothing to end.
    pub fn end_federation(&self, trust_domain: &str) -> Result<bool, Error> {
        Ok(self.shared.issuer.federation.remove(&self.other(trust_domain)?))
    }

    /// This trust domain's public keys as a SPIFFE bundle document: what [`federate`](Self::federate) of another
    /// authority takes, and what the bundle endpoint serves.
    pub fn bundle_document(&self) -> String {
        self.shared.issuer.bundle_document().to_string()
    }

    /// Where the bundle is served, `https://127.0.0.1:…/bundle`, with [`AuthorityConfig::bundle_endpoint`].
    pub fn bundle_url(&self) -> Option<String> {
        self.bundle.as_ref().map(|bundle| format!("https://{}/bundle", bundle.address))
    }

    /// The certificate, in PEM, of the authority that vouches for a bundle endpoint of [`BundleProfile::HttpsWeb`].
    pub fn web_authority_pem(&self) -> Option<&str> {
        self.bundle.as_ref()?.web_authority.as_deref()
    }

    /// What workloads must live through. Fair, until someone says otherwise.
    pub fn weather(&self) -> &Weather {
        &self.shared.weather
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
        let domain = &self.shared.issuer.trust_domain;
        let length = self.shared.issuer.trust_domain_id().len() + path.len();
        if length > ID_BYTES_MAX {
            return Err(refused(format!(
                "the SPIFFE ID would have {length} of {ID_BYTES_MAX} bytes"
            )));
        }
        SpiffeId::in_trust_domain(domain, path).map_err(|error| refused(error.to_string()))
    }

    /// The name of a trust domain that is not this one.
    fn other(&self, name: &str) -> Result<TrustDomain, Error> {
        let domain = parse_trust_domain(name)?;
        if domain == self.shared.issuer.trust_domain {
            let reason = "an authority does not federate with its own trust domain".to_owned();
            return Err(Error::Name { name: name.to_owned(), reason });
        }
        Ok(domain)
    }

    fn add(&self, entry: Entry, for_operator: bool) -> Result<EntryId, Error> {
        let Entry { spiffe_path, selectors, terms } = entry;
        self.shared.issuer.check_terms(&terms)?;
        let identity = Identity { spiffe_id: self.member(&spiffe_path)?, terms };
        self.shared.entries.add(identity, selectors, for_operator)
    }

    fn serve_workloads<S>(
        &mut self,
        connections: impl Stream<Item = io::Result<socket::Connection<S>>> + Send + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let server = workload_api::server(Arc::clone(&self.shared));
        let stopped = self.stop.clone().cancelled_owned();
        let served = server.serve_with_incoming_shutdown(connections, stopped);
        self.tasks.spawn(supervised("Workload API", self.stop.clone(), served));
    }

    fn serve_keys(&mut self, listener: TcpListener) {
        let issuer = Arc::clone(&self.shared.issuer);
        let served = axum::serve(listener, keys::router(Arc::clone(&issuer)))
            .with_graceful_shutdown(self.stop.clone().cancelled_owned());
        self.tasks.spawn(supervised("key server", self.stop.clone(), served.into_future()));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(issuer.upkeep()).await;
        });
    }

    async fn serve_bundle(&mut self, endpoint: &BundleEndpoint) -> Result<Bundle, Error> {
        let issuer = &self.shared.issuer;
        let proof = Proof::new(issuer, &endpoint.profile, |path| self.member(path))?;
        let (listener, address) = listen(endpoint.listen).await?;
        let listener = TlsListener::new(listener, proof.config);
        let served = axum::serve(listener, bundle_endpoint::router(Arc::clone(issuer)))
            .with_graceful_shutdown(self.stop.clone().cancelled_owned());
        self.tasks.spawn(supervised("bundle endpoint", self.stop.clone(), served.into_future()));
        Ok(Bundle { address, web_authority: proof.web_authority })
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
    parse_trust_domain(&given.map_or_else(minted, str::to_owned))
}

fn parse_trust_domain(name: &str) -> Result<TrustDomain, Error> {
    let refused = |error: hive_security::Error| Error::Name {
        name: name.to_owned(),
        reason: error.to_string(),
    };
    TrustDomain::parse(name).map_err(refused)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback(address));
    }
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
