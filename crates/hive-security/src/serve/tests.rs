//! Servers and their callers, over loopback sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod http1;
mod logs;
mod streams;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use rcgen::CertificateParams;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::*;
use crate::testing::{Authority, Stand, audience, leaf, unix_now};
use crate::{IdPattern, connect, tls};

const AUDIENCE: &str = "server.td";

/// A token is accepted for so long after it says that it has expired.
const LEEWAY_S: u64 = 30;

pub(super) fn pattern(text: &str) -> IdPattern {
    IdPattern::parse(text).unwrap()
}

fn both() -> Proof {
    Proof::Both(audience(AUDIENCE))
}

fn clients_only() -> MethodPolicy {
    MethodPolicy::new().allow("/test.Probe/*", pattern("spiffe://td/client/**"))
}

/// A token that is accepted for so many more seconds.
fn token(authority: &Authority, path: &str, seconds: u64) -> String {
    let claims = json!({
        "sub": authority.id(path).to_string(), "aud": [AUDIENCE],
        "iat": unix_now() - 300, "exp": unix_now() - LEEWAY_S + seconds,
    });
    authority.sign(&json!({ "alg": "ES256", "kid": "key", "typ": "JWT" }), &claims)
}

/// A certificate that expires in so many seconds.
fn expiring(path: &str, seconds: u64) -> CertificateParams {
    let mut params = leaf(&format!("spiffe://td{path}"));
    params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
    params
}

/// A message of gRPC.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0], &length[..], text.as_bytes()].concat().into()
}

/// A service of several habits, each a method.
#[derive(Clone)]
struct Probe;

impl NamedService for Probe {
    const NAME: &'static str = "test.Probe";
}

impl Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let peer: Peer = request.extensions().get().cloned().expect("it is authenticated");
            Ok(match request.uri().path() {
                "/test.Probe/Late" => {
                    sleep(Duration::from_secs(3)).await;
                    unary(&peer.spiffe_id.to_string())
                }
                "/test.Probe/Chatter" => chatter(Duration::from_millis(50)),
                "/test.Probe/Silence" => chatter(Duration::from_secs(600)),
                "/test.Probe/Upload" => match request.into_body().collect().await {
                    Ok(_) => unary("the end"),
                    Err(status) => status.into_http(),
                },
                _ => unary(&format!("{} by {:?}", peer.spiffe_id, peer.how)),
            })
        })
    }
}

fn respond(body: Body) -> http::Response<Body> {
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn unary(text: &str) -> http::Response<Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [
        Ok::<_, Status>(http_body::Frame::data(message(text))),
        Ok(http_body::Frame::trailers(trailers)),
    ];
    respond(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
}

/// A message at once, and one after each pause, for ever.
fn chatter(pause: Duration) -> http::Response<Body> {
    let frames = futures_util::stream::unfold(0, move |count| async move {
        if count > 0 {
            sleep(pause).await;
        }
        Some((Ok::<_, Status>(http_body::Frame::data(message("tick"))), count + 1))
    });
    respond(Body::new(StreamBody::new(Box::pin(frames))))
}

/// A server that stops when it is dropped.
struct Running {
    address: SocketAddr,
    counts: Arc<Counts>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(server: &Stand, layer: Authenticate, age: Option<ConnectionAge>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let incoming = incoming(listener, &server.workload).unwrap();
    let incoming = incoming.inspect(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let mut builder = Server::builder();
    if let Some(age) = age {
        builder = builder.max_connection_age(age.drawn());
    }
    let counts = layer.counts();
    let router = builder.layer(layer).add_service(Probe);
    let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
    Running { address, counts, connections, task }
}

/// A channel without tokens of its own.
fn dial(client: &Stand, server: &Running) -> Channel {
    let (workload, address) = (client.workload.clone(), server.address);
    let connect = tower::service_fn(move |_: http::Uri| {
        let workload = workload.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let (stream, _) = tls::connect(&workload, pattern("spiffe://td/server"), tcp).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector_lazy(connect)
}

/// What came of a call: the status, and what was received before it.
async fn call<S>(channel: &S, method: &str, token: Option<&str>, body: Body) -> (Code, Bytes)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone,
    S::Error: std::fmt::Debug,
{
    let mut request = http::Request::post(method)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = async {
        let response = channel.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return (status.code(), Bytes::from(status.message().to_owned()));
        }
        let received = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(received.trailers().expect("trailers")).unwrap();
        (status.code(), received.to_bytes())
    };
    timeout(Duration::from_secs(20), answer).await.expect("no end within 20 s")
}

async fn ask<S>(channel: &S, method: &str, token: Option<&str>) -> (Code, String)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone,
    S::Error: std::fmt::Debug,
{
    let request = Body::new(http_body_util::Full::new(message("please")));
    let (code, received) = call(channel, method, token, request).await;
    (code, String::from_utf8_lossy(&received).into_owned())
}

#[tokio::test]
async fn each_proof_asks_for_what_its_name_says() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let (own, other) = ("/client/a", "/client/b");
    let table = [
        (both(), Some(own), Ok("spiffe://td/client/a by Both")),
        (both(), Some(other), Err("but the connection's X.509-SVID is of spiffe://td/client/a")),
        (both(), None, Err("carries no JWT-SVID")),
        (Proof::DangerCertificateOnly, None, Ok("spiffe://td/client/a by Certificate")),
        (Proof::DangerCertificateOnly, Some(other), Ok("spiffe://td/client/a by Certificate")),
        (
            Proof::DangerTokenOnly(audience(AUDIENCE)),
            Some(other),
            Ok("spiffe://td/client/b by Token"),
        ),
        (Proof::DangerTokenOnly(audience(AUDIENCE)), None, Err("carries no JWT-SVID")),
        (
            Proof::DangerTokenOnly(audience("other.td")),
            Some(own),
            Err("meant for another audience"),
        ),
    ];
    for (proof, of, expected) in table {
        let name = format!("{proof:?} with a token of {of:?}");
        let running =
            serve(&server, Authenticate::with_proof(&server.workload, proof, clients_only()), None)
                .await;
        let token = of.map(|path| token(&authority, path, 60));
        let channel = dial(&client, &running);
        let (code, text) = ask(&channel, "/test.Probe/Ask", token.as_deref()).await;
        match expected {
            Ok(peer) => assert_eq!((code, &text[5..]), (Code::Ok, peer), "{name}"),
            Err(reason) => {
                assert_eq!(code, Code::Unauthenticated, "{name}");
                assert!(text.contains(reason), "{name}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_certificate_only_a_token_can_be_enough() {
    let authority = Authority::new("td");
    let server = authority.workload("/server");
    let token = token(&authority, "/client/a", 60);
    let request = || {
        http::Request::post("/test.Probe/Ask").header("authorization", format!("Bearer {token}"))
    };
    let echo = tower::service_fn(|_| async { Ok::<_, Infallible>(unary("through")) });
    for (proof, through) in [
        (both(), false),
        (Proof::DangerCertificateOnly, false),
        (Proof::DangerTokenOnly(audience(AUDIENCE)), true),
    ] {
        let name = format!("{proof:?}");
        let layer = Authenticate::with_proof(&server.workload, proof, clients_only());
        for shown in [None, Some(PeerCertificate(None))] {
            let mut request = request().body(Body::empty()).unwrap();
            request.extensions_mut().extend(
                shown
                    .clone()
                    .map(|shown| {
                        let mut extensions = http::Extensions::new();
                        extensions.insert(shown);
                        extensions
                    })
                    .unwrap_or_default(),
            );
            let service = tower::Layer::layer(&layer, echo);
            let response = service.oneshot(request).await.unwrap();
            let refused = response.headers().get("grpc-status").is_some_and(|code| code == "16");
            assert_eq!(!refused, through, "{name} {shown:?}");
        }
    }
}

#[tokio::test]
async fn a_policy_is_reloaded_under_a_server_that_runs() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let policy = PolicyHandle::new(MethodPolicy::new());
    let layer = Authenticate::new(&server.workload, audience(AUDIENCE), policy.clone());
    let running = serve(&server, layer, None).await;
    let channel = dial(&client, &running);
    let token = token(&authority, "/client/a", 60);
    let ask = || ask(&channel, "/test.Probe/Ask", Some(&token));
    assert_eq!(ask().await.0, Code::PermissionDenied);
    policy.reload("allow: [{ methods: /test.Probe/*, who: spiffe://td/client/* }]").unwrap();
    assert_eq!(ask().await.0, Code::Ok);
    assert!(policy.reload("allow: [{ methods: nonsense }]").is_err());
    assert_eq!(ask().await.0, Code::Ok, "a file with a mistake changes nothing");
    policy.reload("allow: []").unwrap();
    assert_eq!(ask().await.0, Code::PermissionDenied);
    assert_eq!(running.connections.load(Ordering::SeqCst), 1, "the connection stayed");
    let tally = running.counts.tally();
    assert_eq!((tally.allowed, tally.denied, tally.unauthenticated), (2, 2, 0));
}

#[tokio::test]
async fn a_connection_that_is_old_is_replaced_and_no_call_is_lost() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let age = ConnectionAge { max: Duration::from_millis(300) };
    let layer = Authenticate::new(&server.workload, audience(AUDIENCE), clients_only());
    let running = serve(&server, layer, Some(age)).await;
    let address = format!("https://{}", running.address);
    let server = pattern("spiffe://td/server");
    let channel = connect::channel(&client.workload, &address, server, audience(AUDIENCE)).unwrap();
    let callers = (0..8).map(|_| async {
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        let mut calls = 0;
        while tokio::time::Instant::now() < until {
            assert_eq!(ask(&channel, "/test.Probe/Ask", None).await.0, Code::Ok);
            calls += 1;
        }
        calls
    });
    let calls: Vec<u64> = futures_util::future::join_all(callers).await;
    let connections = running.connections.load(Ordering::SeqCst);
    assert!((3..=12).contains(&connections), "{connections} connections for {calls:?} calls");
    assert_eq!(running.counts.tally().allowed, calls.iter().sum::<u64>());
}

/// A way to a server that counts the connections made, and those that are open.
async fn counting_way_to(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (made, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&made), Arc::clone(&open));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            made.fetch_add(1, Ordering::SeqCst);
            open.fetch_add(1, Ordering::SeqCst);
            let open = Arc::clone(&open);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, counted.0, counted.1)
}

/// The server would keep its connections for ever.
#[tokio::test]
async fn a_client_replaces_its_old_connection_and_lets_it_finish() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let layer = Authenticate::new(&server.workload, audience(AUDIENCE), clients_only());
    let running = serve(&server, layer, None).await;
    let (way, made, open) = counting_way_to(running.address).await;
    let (address, server) = (format!("https://{way}"), pattern("spiffe://td/server"));
    let channel = connect::channel(&client.workload, &address, server, audience(AUDIENCE)).unwrap();
    let age = ConnectionAge { max: Duration::from_millis(300) };
    let channel = channel.max_connection_age(age).unwrap();
    let calls = async {
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while tokio::time::Instant::now() < until {
            assert_eq!(ask(&channel, "/test.Probe/Ask", None).await.0, Code::Ok);
            sleep(Duration::from_millis(5)).await;
        }
    };
    // It takes 3 seconds, on a connection that is soon too old.
    let (late, ()) = tokio::join!(ask(&channel, "/test.Probe/Late", None), calls);
    assert_eq!(late.0, Code::Ok, "{late:?}");
    let made = made.load(Ordering::SeqCst);
    assert!((4..=9).contains(&made), "{made} connections in 2 s");
    let closed = async {
        while open.load(Ordering::SeqCst) > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), closed).await.expect("old connections are closed");
}
