//! An HTTPS server that says exactly what a test wants it to say.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::testing::Authority;
use crate::{X509Svid, tls};

#[derive(Clone)]
pub(super) enum Answer {
    /// These bytes, and then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes, and then white space for ever, as fast as it is read.
    Flood(Vec<u8>),
    /// These bytes, and then nothing.
    Stall(Vec<u8>),
    /// A byte now and then.
    Trickle,
}

pub(super) struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    certificate: Mutex<Option<Arc<CertifiedKey>>>,
    down: AtomicBool,
    /// The head of each request.
    heads: Mutex<Vec<String>>,
    /// Whether the client of each handshake presented a certificate.
    presented: Mutex<Vec<bool>>,
}

impl Answer {
    pub(super) fn json(document: &Value) -> Self {
        Self::body("application/json", document.to_string().as_bytes())
    }

    pub(super) fn body(content_type: &str, body: &[u8]) -> Self {
        Self::http(200, &[("content-type", content_type)], body)
    }

    pub(super) fn status(status: u16) -> Self {
        Self::http(status, &[], b"")
    }

    pub(super) fn redirect(status: u16, location: &str) -> Self {
        Self::http(status, &[("location", location)], b"")
    }

    pub(super) fn http(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        Self::Bytes([head(status, headers, Some(body.len())).as_bytes(), body].concat())
    }
}

pub(super) fn head(status: u16, headers: &[(&str, &str)], length: Option<usize>) -> String {
    let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if let Some(length) = length {
        let _ = write!(head, "content-length: {length}\r\n");
    }
    head + "\r\n"
}

impl Endpoint {
    /// Proves itself with this X.509-SVID.
    pub(super) async fn of_svid(svid: &X509Svid) -> Self {
        Self::start(Arc::clone(&svid.certified), rustls::ALL_VERSIONS, None).await
    }

    /// Proves itself with a web certificate for these names.
    pub(super) async fn of_web(web: &Web, names: &[&str]) -> Self {
        Self::start(web.certificate(names, |_| {}), rustls::ALL_VERSIONS, None).await
    }

    /// Demands an X.509-SVID of an authority, or only asks for one.
    pub(super) async fn demanding(svid: &X509Svid, of: &Authority, insists: bool) -> Self {
        let demand = Some((of, insists));
        Self::start(Arc::clone(&svid.certified), rustls::ALL_VERSIONS, demand).await
    }

    pub(super) async fn start(
        certificate: Arc<CertifiedKey>,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<(&Authority, bool)>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.certificate.lock().unwrap() = Some(certificate);
        let builder = ServerConfig::builder_with_provider(tls::provider());
        let builder = builder.with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some((authority, insists)) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.root.clone()).unwrap();
                let (roots, provider) = (Arc::new(roots), tls::provider());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = if insists { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = builder.with_cert_resolver(Arc::new(Presented(Arc::clone(&shared))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&shared));
        tokio::spawn(stop.clone().run_until_cancelled_owned(served));
        Self { address, shared, _stop: stop.drop_guard() }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// The same by a name.
    pub(super) fn url_by_name(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub(super) fn answer(&self, path: &str, answer: Answer) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// From the next handshake on.
    pub(super) fn present(&self, svid: &X509Svid) {
        *self.shared.certificate.lock().unwrap() = Some(Arc::clone(&svid.certified));
    }

    /// While it is down, it hangs up at once.
    pub(super) fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// The head of each request so far.
    pub(super) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    pub(super) fn presented(&self) -> Vec<bool> {
        self.shared.presented.lock().unwrap().clone()
    }

    /// Waits for so many requests more.
    pub(super) async fn asked(&self, times: usize) {
        let before = self.heads().len();
        super::in_time(async {
            while self.heads().len() < before + times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if !shared.down.load(Ordering::SeqCst) {
            let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
            connections.spawn(async move { converse(stream, acceptor, &shared).await.ok() });
        }
    }
}

async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let presented = stream.get_ref().1.peer_certificates().is_some();
    shared.presented.lock().unwrap().push(presented);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    shared.heads.lock().unwrap().push(head);
    let answer = shared.answers.lock().unwrap().get(&path).cloned();
    match answer.unwrap_or_else(|| Answer::status(404)) {
        Answer::Bytes(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        Answer::Flood(bytes) => {
            stream.write_all(&bytes).await?;
            loop {
                stream.write_all(&[b' '; 16 * 1024]).await?;
            }
        }
        Answer::Stall(bytes) => {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            std::future::pending().await
        }
        Answer::Trickle => {
            stream.write_all(head_of_a_long_body().as_bytes()).await?;
            loop {
                stream.write_all(b" ").await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn head_of_a_long_body() -> String {
    head(200, &[], Some(1_000_000))
}

struct Presented(Arc<Shared>);

impl std::fmt::Debug for Presented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presented")
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certificate.lock().unwrap().clone()
    }
}

/// A web certificate authority.
pub(super) struct Web {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Web {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = format!("web {:08x}", rand::random::<u32>());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = pem(params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(super) fn certificate(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<CertifiedKey> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate], key))
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
