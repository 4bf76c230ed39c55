//! Client and server together, over loopback sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod closing;
mod dialling;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::Server;

use super::*;
use crate::serve::{Authenticate, MethodPolicy, Peer, incoming};
use crate::spiffe::source::X509Material;
use crate::spiffe::verify::JwtTrust;
use crate::testing::{Authority, Stand, audience, leaf};

const AUDIENCE: &str = "server.td";

/// Answers with the name of its caller.
#[derive(Clone)]
struct WhoAmI;

/// The same, under the name of a service that is exempt.
#[derive(Clone)]
struct Health;

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

fn answer(request: &http::Request<Body>) -> Ready<Result<http::Response<Body>, Infallible>> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .map_or_else(|| "nobody".to_owned(), |peer| peer.spiffe_id.to_string());
    let expires_at = request.extensions().get::<Peer>().map(|peer| peer.expires_at);
    let is_good = expires_at.is_none_or(|expires_at| expires_at > SystemTime::now());
    let proof = if is_good { "good" } else { "expired" };
    let mut response = http::Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "0")
        .header("peer", peer)
        .header("proof", proof);
    for value in request.headers().get_all(AUTHORIZATION) {
        response = response.header("was-sent", value);
    }
    ready(Ok(response.body(Body::empty()).unwrap()))
}

macro_rules! service {
    ($name:ty) => {
        impl Service<http::Request<Body>> for $name {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = Ready<Result<http::Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                answer(&request)
            }
        }
    };
}

service!(WhoAmI);
service!(Health);

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Stops accepting, and ends the connections.
    async fn stop(mut self) {
        self.stop.cancel();
        timeout(Duration::from_secs(10), &mut self.task).await.expect("it never drained").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that answers `spiffe://td/client/**` at `test.WhoAmI/Ask`.
async fn serve(server: &Stand) -> Running {
    serve_at(server, TcpListener::bind("127.0.0.1:0").await.unwrap())
}

fn serve_at(server: &Stand, listener: TcpListener) -> Running {
    let address = listener.local_addr().unwrap();
    let policy = MethodPolicy::new().allow("/test.WhoAmI/Ask", pattern("spiffe://td/client/**"));
    let connections = incoming(listener, &server.workload).unwrap();
    let router = Server::builder()
        .layer(Authenticate::new(&server.workload, audience(AUDIENCE), policy))
        .add_service(WhoAmI)
        .add_service(Health);
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        router.serve_with_incoming_shutdown(connections, stopped).await.unwrap();
    });
    Running { address, stop, task }
}

fn pattern(text: &str) -> IdPattern {
    IdPattern::parse(text).unwrap()
}

fn connect(client: &Stand, server: &Running) -> Channel {
    connect_as(client, server, "spiffe://td/server", AUDIENCE)
}

fn connect_as(client: &Stand, server: &Running, expected: &str, meant_for: &str) -> Channel {
    channel(
        &client.workload,
        &format!("https://{}", server.address),
        pattern(expected),
        audience(meant_for),
    )
    .unwrap()
}

/// One call: the name that the server knows the caller by.
async fn ask<S>(channel: &mut S, method: &str, authorization: &[&str]) -> Result<String, Status>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Error: Into<tonic::codegen::StdError>,
{
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let mut request = http::Request::post(method)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let call = channel.call(request.body(Body::empty()).unwrap());
    let response = timeout(Duration::from_secs(10), call).await.expect("no answer in 10 s");
    let response = response.map_err(|error| Status::from_error(error.into()))?;
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(response.headers()["peer"].to_str().unwrap().to_owned()),
    }
}

/// Whether the documents that the server knows the caller by are still good.
async fn proof(channel: &mut Channel) -> String {
    let request = http::Request::post("/test.WhoAmI/Ask")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let call = channel.call(request.body(Body::empty()).unwrap());
    let response = timeout(Duration::from_secs(10), call).await.expect("no answer in 10 s");
    response.unwrap().headers()["proof"].to_str().unwrap().to_owned()
}

async fn whoami(channel: &mut Channel) -> Result<String, Status> {
    ask(channel, "/test.WhoAmI/Ask", &[]).await
}

/// A plain channel with the client's certificate, without a token; or with no certificate at all.
fn plain(client: &Stand, server: &Running, with_certificate: bool) -> tonic::transport::Channel {
    let expected = pattern("spiffe://td/server");
    let mut tls =
        Arc::unwrap_or_clone(tls::client_config(&client.workload, expected.clone()).unwrap());
    if !with_certificate {
        tls.client_auth_cert_resolver = Arc::new(Nothing);
    }
    let address = Address::parse(&format!("https://{}", server.address)).unwrap();
    Dialler::new(address, expected, &Arc::new(tls), None).channel().unwrap()
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_caller_who_is_allowed_is_known_by_its_spiffe_id() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let mut channel = connect(&client, &running);
    for _ in 0..3 {
        assert_eq!(whoami(&mut channel).await.unwrap(), "spiffe://td/client/a");
    }
    assert_eq!(client.fetches.load(Ordering::SeqCst), 1, "one JWT-SVID serves many calls");
}

/// JWT-SVID §5.2 and §5.3.
#[tokio::test]
async fn a_token_is_sent_as_the_only_authorization_with_the_scheme_bearer() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let mut channel = connect(&client, &running);
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let request = http::Request::post("/test.WhoAmI/Ask")
        .header("content-type", "application/grpc")
        .header("authorization", "Basic bWU6aHVudGVyMg==");
    let response = channel.call(request.body(Body::empty()).unwrap()).await.unwrap();
    let sent: Vec<_> = response.headers().get_all("was-sent").iter().collect();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let token = sent[0].to_str().unwrap().strip_prefix("Bearer ").expect("the scheme");
    let jwt = server.workload.verify_jwt(token, &audience(AUDIENCE)).unwrap();
    assert_eq!(jwt.spiffe_id().to_string(), "spiffe://td/client/a");
}

#[tokio::test]
async fn who_does_not_prove_an_identity_twice_is_told_what_is_missing() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let bearer =
        |path: &str, aud: &str| format!("Bearer {}", authority.token(path, &audience(aud)));
    let good = bearer("/client/a", AUDIENCE);
    let foreign =
        format!("Bearer {}", Authority::new("td").token("/client/a", &audience(AUDIENCE)));
    let (misdirected, stolen) = (bearer("/client/a", "other.td"), bearer("/client/b", AUDIENCE));
    let table: [(bool, Vec<&str>, &str); 9] = [
        (false, vec![&good], "presented no X.509-SVID"),
        (true, vec![], "carries no JWT-SVID"),
        (true, vec![&good, &good], "more than one authorization"),
        (true, vec!["Basic dTpw"], "not of the form Bearer"),
        (true, vec!["Bearer"], "not of the form Bearer"),
        (true, vec!["Bearer garbage"], "malformed"),
        (true, vec![&misdirected], "meant for another audience than server.td"),
        (true, vec![&stolen], "of spiffe://td/client/b, but the connection's X.509-SVID is of"),
        (true, vec![&foreign], "signature does not verify"),
    ];
    for (certificate, authorization, sentence) in table {
        let mut channel = plain(&client, &running, certificate);
        let status = ask(&mut channel, "/test.WhoAmI/Ask", &authorization).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{sentence}: {status:?}");
        assert!(status.message().contains(sentence), "{sentence}: {}", status.message());
        assert!(!status.message().contains("eyJ"), "the token is repeated: {}", status.message());
    }
    let mut channel = plain(&client, &running, true);
    assert!(
        ask(&mut channel, "/test.WhoAmI/Ask", &[&good]).await.is_ok(),
        "the same call, complete"
    );
}

#[tokio::test]
async fn who_is_known_and_not_allowed_is_denied() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/other"));
    let running = serve(&server).await;
    let status = whoami(&mut connect(&client, &running)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "spiffe://td/other may not call /test.WhoAmI/Ask");
    let allowed = authority.workload("/client/a");
    let status =
        ask(&mut connect(&allowed, &running), "/test.WhoAmI/Other", &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "a method that no rule names");
}

#[tokio::test]
async fn health_may_be_asked_by_anyone_and_only_by_its_full_name() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/other"));
    let running = serve(&server).await;
    let mut channel = plain(&client, &running, false);
    assert_eq!(ask(&mut channel, "/grpc.health.v1.Health/Check", &[]).await.unwrap(), "nobody");
    for method in [
        "/grpc.health.v1.Healthy/Check",
        "/x/grpc.health.v1.Health/Check",
        "/grpc.health.v1.health/Check",
    ] {
        assert_eq!(
            ask(&mut channel, method, &[]).await.unwrap_err().code(),
            Code::Unauthenticated,
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_someone_else_is_refused_with_both_names() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/impostor"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let status = whoami(&mut connect(&client, &running)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("expected spiffe://td/server"), "{}", status.message());
    assert!(
        status.message().contains("it comes from spiffe://td/impostor"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn a_server_of_another_authority_with_the_same_name_is_refused() {
    let (authority, impostors) = (Authority::new("td"), Authority::new("td"));
    let (server, client) = (impostors.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let status = whoami(&mut connect(&client, &running)).await.unwrap_err();
    assert!(
        status.message().contains("does not chain to the bundle of its trust domain"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn a_client_of_another_authority_does_not_get_in() {
    let (authority, strangers) = (Authority::new("td"), Authority::new("td"));
    let (server, client) = (authority.workload("/server"), strangers.workload("/client/a"));
    let running = serve(&server).await;
    // It knows the server; the server does not know it.
    let svid = Arc::new(strangers.svid("/client/a"));
    client.x509.publish(Ok(X509Material::new(vec![svid], vec![authority.bundle()])));
    let status = whoami(&mut connect(&client, &running)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("alert"), "{}", status.message());
}

#[tokio::test]
async fn a_server_that_stops_is_unavailable_and_is_found_again_when_it_is_back() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let mut channel = connect(&client, &running);
    assert!(whoami(&mut channel).await.is_ok());
    let address = running.address;
    running.stop().await;
    for _ in 0..3 {
        let status = whoami(&mut channel).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let _back = serve_at(&server, TcpListener::bind(address).await.unwrap());
    assert!(whoami(&mut channel).await.is_ok());
}

#[tokio::test]
async fn nobody_there_is_said_in_a_sentence() {
    let authority = Authority::new("td");
    let client = authority.workload("/client/a");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = format!("https://{free}");
    let mut channel =
        channel(&client.workload, &address, pattern("spiffe://td/server"), audience(AUDIENCE))
            .unwrap();
    let status = whoami(&mut channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&format!("no connection to {free}")), "{}", status.message());
}

#[tokio::test]
async fn svids_and_bundles_rotate_between_handshakes() {
    let (old, new) = (Authority::new("td"), Authority::new("td"));
    let (server, client) = (old.workload("/server"), old.workload("/client/a"));
    let running = serve(&server).await;
    let mut before = connect(&client, &running);
    assert!(whoami(&mut before).await.is_ok());
    // Both sides move to the new authority; only the bundle of the new one is left.
    for (stand, path) in [(&server, "/server"), (&client, "/client/a")] {
        stand.x509.publish(new.material(path));
    }
    assert!(
        whoami(&mut connect(&client, &running)).await.is_ok(),
        "a new connection uses the new ones"
    );
    assert!(whoami(&mut before).await.is_ok(), "the connection that exists goes on");
    // A client that was left behind is not let in, and does not know the server either.
    let behind = old.workload("/client/b");
    assert!(whoami(&mut connect(&behind, &running)).await.is_err());
}

#[tokio::test]
async fn a_token_does_not_outlive_the_bundle_that_vouched_for_it() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let mut channel = connect(&client, &running);
    assert!(whoami(&mut channel).await.is_ok());
    server.jwt.publish(Ok(JwtTrust::new(Authority::new("td").keys()).into()));
    let status = whoami(&mut channel).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message().contains("does not verify")),
        (Code::Unauthenticated, true)
    );
    server.jwt.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
    let status = whoami(&mut channel).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message().contains("withdrew")),
        (Code::Unauthenticated, true)
    );
    server.jwt.publish(Ok(JwtTrust::new(authority.keys()).into()));
    assert!(whoami(&mut channel).await.is_ok());
}

#[tokio::test]
async fn after_withdrawal_no_call_is_sent() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let mut channel = connect(&client, &running);
    assert!(whoami(&mut channel).await.is_ok());
    client.x509.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
    let status = whoami(&mut channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("withdrew this workload's identity"), "{}", status.message());
}

#[tokio::test]
async fn a_silent_client_holds_up_nobody() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let running = serve(&server).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    assert!(whoami(&mut connect(&client, &running)).await.is_ok());
}

#[test]
fn an_address_is_https_with_host_and_port() {
    for address in
        ["https://127.0.0.1:7000", "https://[::1]:7000", "https://registry.example.org:443/"]
    {
        assert!(Address::parse(address).is_ok(), "{address}");
    }
    for address in [
        "http://127.0.0.1:7000",
        "127.0.0.1:7000",
        "https://127.0.0.1",
        "https://u@h:1",
        "https://h:1/p",
        "",
    ] {
        assert!(Address::parse(address).is_err(), "{address}");
    }
}

#[tokio::test]
async fn no_call_begins_on_a_connection_whose_certificate_has_expired() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let server = serve(&server).await;
    let mut short = leaf(&authority.id("/client/a").to_string());
    // Whole seconds, rounded down.
    short.not_after = (SystemTime::now() + Duration::from_secs(3)).into();
    let svid = Arc::new(authority.svid_of(&short));
    let expires_at = svid.expires_at();
    client.x509.publish(Ok(X509Material::new(vec![svid], vec![authority.bundle()])));
    let mut channel = connect(&client, &server);
    assert_eq!(proof(&mut channel).await, "good");
    client.x509.publish(authority.material("/client/a"));
    while let Ok(left) = expires_at.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
    assert_eq!(proof(&mut channel).await, "good");
}
