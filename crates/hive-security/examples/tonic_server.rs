//! A gRPC server that knows its callers.
//!
//! Run it where `SPIFFE_ENDPOINT_SOCKET` leads to a Workload API that has an entry for it.

use std::time::Duration;

use hive_security::serve::{self, Authenticate, ConnectionAge, MethodPolicy, PolicyHandle};
use hive_security::{Audience, Workload, WorkloadConfig};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

const POLICY: &str = "
allow:
  - methods: /shop.v1.Orders/*
    who: { all: [spiffe://example.org/ns/*/sa/web, { not: spiffe://example.org/ns/test/sa/web }] }
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
    let policy = PolicyHandle::new(MethodPolicy::parse(POLICY)?);
    let audience = Audience::of_service("orders", &workload.trust_domain())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:7000").await?;
    Server::builder()
        .max_connection_age(ConnectionAge::default().drawn())
        .layer(Authenticate::new(workload, audience, policy))
        .add_routes(tonic::service::Routes::default())
        .serve_with_incoming(serve::incoming(listener, workload)?)
        .await?;
    Ok(())
}
