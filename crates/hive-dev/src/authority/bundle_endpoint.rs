//! The SPIFFE bundle endpoint: other trust domains fetch our public keys from here (federation standard, section 5).
//!
//! `GET /bundle` over HTTPS on loopback, without any demand on the client. By `https_spiffe` the certificate is an
//! X.509-SVID that is issued for each connection, so that it is always the current authority's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use hive_security::SpiffeId;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Error;
use super::config::BundleProfile;
use super::issuer::Issuer;
use crate::web::Web;

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Others wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 32;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

pub(super) fn router(issuer: Arc<Issuer>) -> Router {
    Router::new().route("/bundle", get(bundle)).with_state(issuer)
}

async fn bundle(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    Json(issuer.bundle_document())
}

/// How the endpoint proves who it is, and what its clients need to know for that.
pub(super) struct Proof {
    pub(super) config: Arc<ServerConfig>,
    /// PEM, with `https_web` only.
    pub(super) web_authority: Option<String>,
}

impl Proof {
    /// `id` is what the path of an `https_spiffe` profile stands for.
    pub(super) fn new(
        issuer: &Arc<Issuer>,
        profile: &BundleProfile,
        id: impl FnOnce(&str) -> Result<SpiffeId, Error>,
    ) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        let (mut config, web_authority) = match profile {
            BundleProfile::HttpsSpiffe { spiffe_path } => {
                let id = id(spiffe_path)?;
                let svid = Svid { issuer: Arc::clone(issuer), id, provider };
                (builder.with_cert_resolver(Arc::new(svid)), None)
            }
            BundleProfile::HttpsWeb => {
                let web = Web::new("Neural Hive development web authority")?;
                (builder.with_single_cert(vec![web.certificate], web.key)?, Some(web.authority))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), web_authority })
    }
}

/// An X.509-SVID for each handshake.
struct Svid {
    issuer: Arc<Issuer>,
    id: SpiffeId,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Svid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let issued = self.issue();
        issued
            .inspect_err(|error| tracing::error!(%error, "no X.509-SVID for the bundle endpoint"))
            .ok()
    }
}

impl Svid {
    fn issue(&self) -> Result<Arc<CertifiedKey>, Error> {
        let document = self.issuer.own_x509_svid(&self.id)?;
        let key = PrivatePkcs8KeyDer::from(document.key.to_vec()).into();
        let key = self.provider.key_provider.load_private_key(key)?;
        let chain = vec![CertificateDer::from(document.certificate)];
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

/// Connections on which the handshake is done. One that is slow keeps nobody waiting.
pub(super) struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { listener, acceptor: config.into(), handshakes: JoinSet::new() }
    }

    fn shake_hands(&mut self, stream: TcpStream, address: SocketAddr) {
        let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, self.acceptor.accept(stream));
        self.handshakes.spawn(async move {
            let stream = handshake.await.ok()?;
            let failed = |error: &io::Error| tracing::debug!(%error, "a TLS handshake failed");
            Some((stream.inspect_err(failed).ok()?, address))
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    match accepted {
                        Ok((stream, address)) => self.shake_hands(stream, address),
                        Err(error) => {
                            tracing::warn!(%error, "the bundle endpoint could not accept");
                            tokio::time::sleep(ACCEPT_RETRY).await;
                        }
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
