//! What a collector reads.

use super::*;
use hive_api::registry::DiscoverManyRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = "GET /metrics HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut page = String::new();
    stream.read_to_string(&mut page).await.expect("text");
    page
}

#[tokio::test]
async fn the_metrics_count_what_was_done_under_the_names_that_dashboards_know() {
    let mut stack = Stack::start().await;
    let agent_id = stack.registered("a").await;
    let heartbeat = HeartbeatRequest { agent_id: agent_id.clone(), telemetry: None };
    stack.worker.heartbeat(heartbeat.clone()).await.expect("it is its own");
    assert!(stack.other.heartbeat(heartbeat).await.is_err());
    stack.operator.discover_agents(wanted("BUILD")).await.expect("allowed");
    let questions = vec![wanted("BUILD"), wanted("TEST"), wanted("BUILD")];
    stack.operator.discover_many(DiscoverManyRequest { questions }).await.expect("allowed");
    let page = page(&stack.metrics).await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    for line in [
        "agents_active{agent_type=\"WORKER\",status=\"HEALTHY\"} 1",
        "agents_registered_total{agent_type=\"WORKER\"} 1",
        "agents_deregistered_total{agent_type=\"WORKER\"} 0",
        "agents_marked_unhealthy_total{agent_type=\"WORKER\"} 0",
        "agents_removed_total{agent_type=\"WORKER\"} 0",
        "heartbeats_received_total{agent_type=\"WORKER\",status=\"HEALTHY\"} 1",
        "heartbeats_received_total{agent_type=\"\",status=\"refused\"} 1",
        "heartbeat_latency_seconds_count 2",
        "registry_operations_total{operation=\"Heartbeat\",status=\"success\"} 1",
        "registry_operations_total{operation=\"Heartbeat\",status=\"error\"} 1",
        "registry_operations_total{operation=\"DiscoverMany\",status=\"success\"} 1",
        "discovery_requests_total{agent_type=\"AGENT_TYPE_UNSPECIFIED\"} 4",
        "discovery_duration_seconds_count 4",
        "matching_candidates_evaluated_bucket{le=\"0\"} 1",
        "matching_candidates_evaluated_bucket{le=\"1\"} 4",
        "agents_matched_sum 3",
        "etcd_operations_total{status=\"success\"} 1",
        "grpc_auth_attempts_total{service=\"service-registry\",status=\"success\"} 5",
        "hive_registry_frozen 0",
    ] {
        assert!(page.lines().any(|said| said == line), "{line} is missing in\n{page}");
    }
    let expiry = "hive_registry_next_expiry_timestamp_seconds ";
    let expiry = page.lines().find_map(|line| line.strip_prefix(expiry)).expect("it is there");
    let left = expiry.parse::<f64>().expect("a number") - now().wall_s as f64;
    assert!((0.0..=15.0).contains(&left), "{left} s are left");
    // Nobody's name is in a place that needs no identity to read.
    assert!(!page.contains(&agent_id) && !page.contains("worker-agents"));
}
