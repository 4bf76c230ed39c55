//! Where the metrics are read: plain HTTP, for a collector inside the same network. They tell numbers, no names.

use crate::node::Node;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use hive_security::metrics::Metrics as Security;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The text format of Prometheus.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers `GET /metrics` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    node: Arc<Node>,
    security: Security,
    lease: Duration,
    stop: CancellationToken,
) {
    let metrics = get(async move || ([(CONTENT_TYPE, FORMAT)], page(&node, &security, lease)));
    let served = axum::serve(listener, Router::new().route("/metrics", metrics));
    if let Err(error) = served.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

fn page(node: &Node, security: &Security, lease: Duration) -> String {
    let (agents, frozen) = {
        let replica = node.replica();
        (replica.directory().counts(), replica.is_frozen())
    };
    let page = node.metrics.render(&agents, frozen, lease);
    format!("{page}{security}")
}
