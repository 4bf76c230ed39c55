//! The registry, twice: as it is served, and without security. For `benches/registry`; no service has this feature.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use hive_api::names::REGISTRY;
use hive_runtime::telemetry;
use hive_security::serve::{self, Authenticate, Peer};
use hive_security::{Audience, Workload, WorkloadConfig};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use tonic::transport::Server;
use tower::Service;
use tower::util::MapRequestLayer;

use crate::agent::ReplicaId;
use crate::attend::Desk;
use crate::liveness::Rules;
use crate::node::{Node, now};
use crate::replica::Replica;
use crate::server::{EVENTS_MAX, STREAMS_MAX, policy};
use crate::service::Registry;
use crate::store::Sqlite;
use crate::wire::Wire;

const ATTACH_DEADLINE: Duration = Duration::from_secs(30);
/// Nobody falls silent while this is measured.
const LEASE: Duration = Duration::from_secs(3600);

/// Who calls without security: whoever called first with it.
static CALLER: OnceLock<Peer> = OnceLock::new();

/// Serves until its input ends. Whoever makes the first call is taken for the caller of all plain ones.
pub async fn serve(endpoint: &str, directory: &Path) {
    telemetry::init(telemetry::DEFAULT_FILTER).unwrap();
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    orders.next_line().await.unwrap().unwrap();
    let config = WorkloadConfig::new(endpoint, ATTACH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await.unwrap();
    tokio::spawn(upkeep.run(CancellationToken::new()));
    let wire = Wire::new(registry(directory).await);
    let secured = secured(&workload, wire.clone()).await;
    let plain = plain(wire).await;
    println!("{secured} {plain}");
    // It ends with its input.
    while orders.next_line().await.unwrap().is_some() {}
}

async fn registry(directory: &Path) -> Registry {
    let replica = ReplicaId::new("bench");
    let (store, writer) = Sqlite::open(&directory.join("registry"), replica.clone()).await.unwrap();
    tokio::spawn(writer.run());
    let store = Arc::new(store);
    let rules = Rules::new(LEASE, LEASE);
    let node = Node::new(Replica::new(now().monotonic, replica, rules, EVENTS_MAX), store);
    tokio::spawn(Arc::clone(&node).follow());
    tokio::spawn(Arc::clone(&node).judge());
    node.folded().wait_for(Option::is_some).await.unwrap();
    let (desk, stop) = (Arc::new(Desk::default()), CancellationToken::new());
    Registry { node, desk, others: None, lease: LEASE, stop }
}

async fn secured(workload: &Workload, wire: Wire) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let trust_domain = workload.trust_domain();
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).unwrap();
    let server = Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .layer(Authenticate::new(workload, audience, policy(&trust_domain).unwrap()))
        .add_service(Noted(wire))
        .serve_with_incoming(serve::incoming(listener, workload).unwrap());
    tokio::spawn(server);
    address.to_string()
}

async fn plain(wire: Wire) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let assumed = |mut request: Request<Body>| {
        request.extensions_mut().insert(CALLER.get().expect("somebody called").clone());
        request
    };
    // tonic sets the option on the streams that it opens itself only.
    let incoming = TcpListenerStream::new(listener).inspect(|stream| {
        if let Ok(stream) = stream {
            stream.set_nodelay(true).unwrap();
        }
    });
    let server = Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .layer(MapRequestLayer::new(assumed))
        .add_service(wire)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    address.to_string()
}

/// Notes who calls.
#[derive(Clone)]
struct Noted(Wire);

impl NamedService for Noted {
    const NAME: &'static str = Wire::NAME;
}

impl Service<Request<Body>> for Noted {
    type Response = <Wire as Service<Request<Body>>>::Response;
    type Error = <Wire as Service<Request<Body>>>::Error;
    type Future = <Wire as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(peer) = request.extensions().get::<Peer>() {
            CALLER.get_or_init(|| peer.clone());
        }
        self.0.call(request)
    }
}
