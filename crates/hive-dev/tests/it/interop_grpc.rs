//! Services behind our layers and services behind go-spiffe's call one another over gRPC.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use hive_dev::authority::KeyKind;
use hive_security::serve::{Authenticate, MethodPolicy, incoming, peer};
use hive_security::{Audience, Workload, connect};
use http::uri::PathAndQuery;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codegen::Service;
use tonic::server::{Grpc as Server, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::authority::in_time;
use crate::interop::{Library, World, pattern};

const METHOD: &str = "/interop.Echo/Say";
const AUDIENCE: &str = "echo.test";

/// Sends a message (`google.protobuf.StringValue`) back, behind the SPIFFE ID of its sender.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "interop.Echo";
}

impl UnaryService<String> for Echo {
    type Response = String;
    type Future = Ready<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let known = peer(&request).map(|peer| peer.spiffe_id.to_string());
        ready(known.map(|peer| Response::new(format!("{peer} {}", request.get_ref()))))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut server = Server::new(ProstCodec::<String, String>::default());
        Box::pin(async move { Ok(server.unary(Self, request).await) })
    }
}

fn audience() -> Audience {
    Audience::parse(AUDIENCE).expect("a good name")
}

/// A server that `client` may ask; it ends with the guard.
async fn serve(workload: &Workload, client: &str) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let policy = MethodPolicy::new().allow(METHOD, pattern(client));
    let connections = incoming(listener, workload).expect("TLS");
    let router = tonic::transport::Server::builder()
        .layer(Authenticate::new(workload, audience(), policy))
        .add_service(Echo);
    let stop = CancellationToken::new();
    tokio::spawn(router.serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned()));
    (address, stop.drop_guard())
}

async fn say(channel: &connect::Channel) -> Result<String, Status> {
    in_time(async {
        let mut client = Client::new(channel.clone());
        client.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(METHOD), ProstCodec::default());
        let answer = client.unary(Request::new("hello".to_owned()), path, codec).await?;
        Ok(answer.into_inner())
    })
    .await
}

#[tokio::test]
async fn a_go_client_passes_our_layers_with_both_proofs_and_not_with_one() {
    let mut world = World::start(Library::Go).await;
    let (me, them) = (world.me(), world.other.id.clone());
    let (address, _serving) = serve(&world.workload, &them).await;
    let order = |audience: &str| json!({ "do": "call_grpc", "address": address, "peer": me, "audience": audience });
    let said = world.other.obey(order(AUDIENCE)).await.expect("it is let in");
    assert_eq!(said["line"], format!("{them} hello"));
    for (audience, reason) in
        [("", "the call carries no JWT-SVID"), ("elsewhere", "the JWT-SVID was refused")]
    {
        let refused = world.other.obey(order(audience)).await.expect_err("it is kept out");
        assert!(refused.contains("Unauthenticated") && refused.contains(reason), "{refused}");
    }
    let (address, _serving) = serve(&world.workload, &me).await;
    let order = json!({ "do": "call_grpc", "address": address, "peer": me, "audience": AUDIENCE });
    let refused = world.other.obey(order).await.expect_err("the policy knows it not");
    assert!(refused.contains("PermissionDenied"), "{refused}");
}

#[tokio::test]
async fn our_channel_passes_a_go_server_while_every_key_changes() {
    let mut world = World::start(Library::Go).await;
    let order = json!({ "do": "serve_grpc", "peer": world.me(), "audience": AUDIENCE });
    let served = world.other.obey(order).await.expect("it serves");
    let address = format!("https://{}", served["address"].as_str().expect("an address"));
    let (server, audience) = (pattern(&world.other.id), audience());
    let open = || connect::channel(&world.workload, &address, server.clone(), audience.clone());
    let kept = open().expect("a good address");
    let expected = format!("{} hello", world.me());
    assert_eq!(say(&kept).await.expect("it is let in"), expected);

    for kind in [KeyKind::X509, KeyKind::Jwt] {
        let authority = &world.place.authority;
        let new = authority.prepare(kind).await.expect("prepared");
        authority.activate(&new).await.expect("activated");
        assert_eq!(say(&kept).await.expect("the old connection"), expected, "{kind:?}");
        let fresh = open().expect("a good address");
        assert_eq!(say(&fresh).await.expect("a new connection"), expected, "{kind:?}");
    }
    let stranger = pattern(&world.place.id("/ns/test/sa/stranger"));
    let wrong = connect::channel(&world.workload, &address, stranger, audience);
    let refused = say(&wrong.expect("a good address")).await.expect_err("it is somebody else");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
}
