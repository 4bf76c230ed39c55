//! Silence on real wires, with short times.

use super::*;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const TIMEOUT: Duration = Duration::from_millis(900);

/// Waits until the registry says so; whoever waits in vain has waited far longer than anything here takes.
async fn until(what: &str, mut said: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !said().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

impl Stack {
    async fn offered(&self) -> usize {
        let request = DiscoverAgentsRequest { max_results: 50, ..wanted("BUILD") };
        let found = self.operator.clone().discover_agents(request).await.expect("allowed");
        found.into_inner().agents.len()
    }

    async fn gives_up(&self) -> bool {
        let mut health = HealthClient::new(self.worker_channel.clone());
        let request = HealthCheckRequest { service: EXPIRY.to_owned() };
        health.check(request).await.expect("it is known").into_inner().status == 1
    }
}

#[tokio::test]
async fn one_that_falls_silent_is_not_offered_any_more_and_is_again_once_it_is_heard() {
    let mut stack = Stack::start_with(TIMEOUT).await;
    let agent_id = stack.registered("a").await;
    until("it is offered for ever", async || stack.offered().await == 0).await;
    let heartbeat = HeartbeatRequest { agent_id, telemetry: None };
    if code(stack.worker.heartbeat(heartbeat).await) == Code::NotFound {
        // The machine was slow: it was forgotten by then.
        stack.registered("a").await;
    }
    until("it is not offered again", async || stack.offered().await == 1).await;
}

#[tokio::test]
async fn many_that_fall_silent_together_stay_offered_and_health_says_so() {
    let mut stack = Stack::start_with(TIMEOUT).await;
    for number in 0..8 {
        stack.registered(&format!("pod-{number}")).await;
    }
    until("the expiry is not frozen", async || !stack.gives_up().await).await;
    tokio::time::sleep(3 * TIMEOUT).await;
    assert_eq!(stack.offered().await, 8, "a cut network must not empty the registry");
    let mut heartbeats = Vec::new();
    for number in 0..8 {
        let agent_id = stack.registered(&format!("pod-{number}")).await;
        heartbeats.push(HeartbeatRequest { agent_id, telemetry: None });
    }
    until("it stays frozen although all are heard", async || {
        let heartbeats = heartbeats.clone();
        let request = HeartbeatManyRequest { heartbeats };
        stack.worker.clone().heartbeat_many(request).await.expect("allowed");
        stack.gives_up().await
    })
    .await;
    assert_eq!(stack.offered().await, 8);
}
