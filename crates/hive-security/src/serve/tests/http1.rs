//! Plain HTTP, with axum.

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming as Received;
use hyper_util::rt::TokioExecutor;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::connect::AttachJwt;

const POLICY: &str = "
allow:
  - methods: GET /orders/*
    who: { any: [spiffe://td/client/**, spiffe://td/other] }
  - methods: [/stream, /slow]
    who: spiffe://td/client/a
";

async fn serve_http(server: &Stand, proof: Proof) -> (SocketAddr, Arc<Counts>) {
    let policy = PolicyHandle::new(MethodPolicy::parse(POLICY).unwrap());
    let layer = Authenticate::for_http(&server.workload, proof, policy);
    let counts = layer.counts();
    let age = ConnectionAge::default();
    (serve_layered(server, layer, age, CancellationToken::new()).await.0, counts)
}

/// Serves until `stop`, and then until its connections are closed.
async fn serve_layered(
    server: &Stand,
    layer: Authenticate,
    age: ConnectionAge,
    stop: CancellationToken,
) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let workload = server.workload.clone();
    let order =
        |Path(id): Path<String>, peer: Peer| async move { format!("{id} for {}", peer.spiffe_id) };
    let stream = || async {
        let ticks = futures_util::stream::unfold((), |()| async {
            sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, Infallible>("tick"), ()))
        });
        axum::body::Body::from_stream(ticks)
    };
    let app = Router::new()
        .route("/orders/{id}", get(order).delete(order))
        .route("/stream", get(stream))
        .route("/slow", get(|| async { sleep(Duration::from_secs(2)).await }))
        .layer(layer);
    let served =
        async move { super::serve_http(listener, &workload, app, age, stop).await.unwrap() };
    (address, tokio::spawn(served))
}

type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn dial_http(client: &Stand, address: SocketAddr) -> Sender {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (stream, server) =
        tls::connect(&client.workload, pattern("spiffe://td/server"), tcp).await.unwrap();
    assert_eq!(server.to_string(), "spiffe://td/server");
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(verb: &str, path: &str, token: Option<&str>) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(verb).uri(path).header("host", "server");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Empty::new()).unwrap()
}

async fn text(response: Response<Received>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_caller_of_plain_http_is_known_denied_or_asked_for_a_token() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let (address, counts) = serve_http(&server, both()).await;
    let mut sender = dial_http(&client, address).await;
    let good = token(&authority, "/client/a", 60);
    let table = [
        ("GET", "/orders/7", Some(&*good), StatusCode::OK, "7 for spiffe://td/client/a"),
        (
            "GET",
            "/orders/7",
            None,
            StatusCode::UNAUTHORIZED,
            r#"{"error":"unauthenticated","reason":"the call carries no JWT-SVID"#,
        ),
        (
            "GET",
            "/orders/7",
            Some("x"),
            StatusCode::UNAUTHORIZED,
            r#"{"error":"unauthenticated","reason":"the JWT-SVID was refused: "#,
        ),
        (
            "DELETE",
            "/orders/7",
            Some(&*good),
            StatusCode::FORBIDDEN,
            r#"{"error":"permission_denied","reason":"spiffe://td/client/a may not call /orders/7"}"#,
        ),
        ("GET", "/nowhere", Some(&*good), StatusCode::FORBIDDEN, r#"{"error":"permission_denied""#),
        // No path of plain HTTP is exempt.
        ("POST", "/grpc.health.v1.Health/Check", None, StatusCode::UNAUTHORIZED, "{"),
    ];
    for (verb, path, token, status, body) in table {
        let response = sender.send_request(request(verb, path, token)).await.unwrap();
        assert_eq!(response.status(), status, "{verb} {path}");
        let challenge = response.headers().get("www-authenticate").cloned();
        let challenged = challenge.is_some_and(|challenge| challenge == "Bearer");
        assert_eq!(challenged, status == StatusCode::UNAUTHORIZED, "{verb} {path}");
        let text = text(response).await;
        assert!(text.starts_with(body), "{verb} {path}: {text}");
        if status != StatusCode::OK {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
    let tally = counts.tally();
    assert_eq!((tally.allowed, tally.denied, tally.unauthenticated, tally.exempt), (1, 2, 3, 0));
}

#[tokio::test]
async fn a_client_of_plain_http_attaches_its_token() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let (address, _) = serve_http(&server, both()).await;
    let sender = Arc::new(tokio::sync::Mutex::new(dial_http(&client, address).await));
    let send = tower::service_fn(move |request| {
        let sender = Arc::clone(&sender);
        async move { sender.lock().await.send_request(request).await }
    });
    let attach =
        AttachJwt::new(&client.workload, &format!("https://{address}"), audience(AUDIENCE))
            .unwrap();
    let service = tower::Layer::layer(&attach, send);
    for _ in 0..3 {
        let response = service.clone().oneshot(request("GET", "/orders/1", None)).await.unwrap();
        assert_eq!(text(response).await, "1 for spiffe://td/client/a");
    }
    assert_eq!(client.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_response_without_end_breaks_off_when_a_document_expires() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let (address, counts) = serve_http(&server, both()).await;
    let mut sender = dial_http(&client, address).await;
    let token = token(&authority, "/client/a", 2);
    let response = sender.send_request(request("GET", "/stream", Some(&token))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let ended = timeout(Duration::from_secs(10), response.into_body().collect()).await;
    assert!(ended.expect("it never ended").is_err(), "the client sees that it is not the whole");
    assert_eq!(counts.tally().expired, 1);
}

/// A server whose connections become this old, and who tells how they are closed.
async fn aging(max_ms: u64) -> (Stand, SocketAddr, String) {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let policy = MethodPolicy::parse(POLICY).unwrap();
    let layer = Authenticate::for_http(&server.workload, both(), policy);
    let age = ConnectionAge { max: Duration::from_millis(max_ms) };
    let (address, _) = serve_layered(&server, layer, age, CancellationToken::new()).await;
    (client, address, token(&authority, "/client/a", 600))
}

#[tokio::test]
async fn an_old_connection_of_http1_is_closed_with_its_last_answer() {
    let (client, address, token) = aging(3_000).await;
    let mut sender = dial_http(&client, address).await;
    let young = sender.send_request(request("GET", "/orders/7", Some(&token))).await.unwrap();
    assert!(!young.headers().contains_key("connection"));
    text(young).await;
    sleep(Duration::from_millis(1_500)).await;
    // Its age comes while this one is answered.
    let old = sender.send_request(request("GET", "/slow", Some(&token))).await.unwrap();
    assert_eq!(
        (old.status(), &old.headers()["connection"]),
        (StatusCode::OK, &"close".parse().unwrap())
    );
    text(old).await;
    until_closed(|| sender.is_closed()).await;
    // Another connection is as young as the first one was.
    let mut again = dial_http(&client, address).await;
    let young = again.send_request(request("GET", "/orders/7", Some(&token))).await.unwrap();
    assert!(!young.headers().contains_key("connection"));
}

#[tokio::test]
async fn an_idle_connection_of_http1_is_closed_at_its_age() {
    let (client, address, token) = aging(1_500).await;
    let mut sender = dial_http(&client, address).await;
    text(sender.send_request(request("GET", "/orders/7", Some(&token))).await.unwrap()).await;
    assert!(!sender.is_closed());
    until_closed(|| sender.is_closed()).await;
}

#[tokio::test]
async fn an_old_connection_of_http2_finishes_what_it_carries_and_takes_nothing_new() {
    let (client, address, token) = aging(1_500).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut config = Arc::unwrap_or_clone(
        tls::client_config(&client.workload, pattern("spiffe://td/server")).unwrap(),
    );
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("server".try_into().unwrap(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let closed = tokio::spawn(connection);
    let absolute = |path: &str| {
        let mut request = request("GET", path, Some(&token));
        *request.uri_mut() = format!("https://{address}{path}").parse().unwrap();
        request
    };
    let slow = sender.send_request(absolute("/slow"));
    let response = timeout(Duration::from_secs(10), slow).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK, "it began in time");
    text(response).await;
    let ended = timeout(Duration::from_secs(10), closed).await.expect("GOAWAY ends it").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    assert!(sender.send_request(absolute("/orders/7")).await.is_err());
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_runs_and_closes_the_rest() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let policy = MethodPolicy::parse(POLICY).unwrap();
    let layer = Authenticate::for_http(&server.workload, both(), policy);
    let stop = CancellationToken::new();
    let age = ConnectionAge::default();
    let (address, served) = serve_layered(&server, layer, age, stop.clone()).await;
    let token = token(&authority, "/client/a", 600);
    let (mut busy, idle) = (dial_http(&client, address).await, dial_http(&client, address).await);
    let slow = busy.send_request(request("GET", "/slow", Some(&token)));
    let stopping = async {
        sleep(Duration::from_millis(500)).await;
        stop.cancel();
    };
    let (answered, ()) = tokio::join!(slow, stopping);
    let answered = answered.unwrap();
    assert_eq!(answered.status(), StatusCode::OK);
    text(answered).await;
    timeout(Duration::from_secs(10), served).await.expect("it drained").unwrap();
    until_closed(|| idle.is_closed()).await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
}

async fn until_closed(closed: impl Fn() -> bool) {
    let waited = async {
        while !closed() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), waited).await.expect("it was never closed");
}

#[tokio::test]
async fn a_response_without_end_breaks_off_when_a_new_policy_does_not_allow_it() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let policy = PolicyHandle::new(MethodPolicy::parse(POLICY).unwrap());
    let layer = Authenticate::for_http(&server.workload, both(), policy.clone());
    let counts = layer.counts();
    let age = ConnectionAge::default();
    let (address, _) = serve_layered(&server, layer, age, CancellationToken::new()).await;
    let mut sender = dial_http(&client, address).await;
    let token = token(&authority, "/client/a", 600);
    let response = sender.send_request(request("GET", "/stream", Some(&token))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    policy.reload("allow: [{ methods: GET /orders/*, who: spiffe://td/client/a }]").unwrap();
    let ended = timeout(Duration::from_secs(10), response.into_body().collect()).await;
    assert!(ended.expect("it never ended").is_err(), "the client sees that it is not the whole");
    assert_eq!(counts.tally().revoked, 1);
}
