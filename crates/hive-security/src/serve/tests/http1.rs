//! Plain HTTP, with axum.

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming as Received;

use super::*;
use crate::connect::AttachJwt;

const POLICY: &str = "
allow:
  - methods: GET /orders/*
    who: { any: [spiffe://td/client/**, spiffe://td/other] }
  - methods: /stream
    who: spiffe://td/client/a
";

async fn serve_http(server: &Stand, proof: Proof) -> (SocketAddr, Arc<Counts>) {
    let policy = MethodPolicy::parse(POLICY).unwrap();
    let layer = Authenticate::for_http(&server.workload, proof, policy);
    let counts = layer.counts();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = incoming_http(listener, &server.workload).unwrap();
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
        .layer(layer)
        .into_make_service_with_connect_info::<PeerCertificate>();
    tokio::spawn(async move { axum::serve(connections, app).await.unwrap() });
    (address, counts)
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
