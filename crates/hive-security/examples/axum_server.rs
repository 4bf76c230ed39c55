//! An HTTP server that knows its callers: `cargo run --example axum_server`, with the feature `axum`.
//!
//! Run it where `SPIFFE_ENDPOINT_SOCKET` leads to a Workload API that has an entry for it.

use std::time::Duration;

use axum::{Router, routing::get};
use hive_security::serve::{self, Authenticate, ConnectionAge, MethodPolicy, Peer, Proof};
use hive_security::{Audience, Workload, WorkloadConfig};
use tokio_util::sync::CancellationToken;

const POLICY: &str = "
allow:
  - methods: GET /hello
    who: spiffe://example.org/ns/*/sa/web
";

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let endpoint = std::env::var("SPIFFE_ENDPOINT_SOCKET")?;
    let config = WorkloadConfig::new(endpoint, Duration::from_secs(30));
    let (workload, upkeep) = Workload::attach(config).await?;
    tokio::spawn(upkeep.run(CancellationToken::new()));
    serve(&workload).await
}

/// Ten lines: who may call what, and a server that asks for it.
async fn serve(workload: &Workload) -> Result<(), Failure> {
    let proof = Proof::Both(Audience::of_service("hello", &workload.trust_domain())?);
    let layer = Authenticate::for_http(workload, proof, MethodPolicy::parse(POLICY)?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:7000").await?;
    let app = Router::new()
        .route("/hello", get(async |peer: Peer| format!("hello {}\n", peer.spiffe_id)))
        .layer(layer);
    let (age, stop) = (ConnectionAge::default(), CancellationToken::new());
    Ok(serve::serve_http(listener, workload, app, age, stop).await?)
}
