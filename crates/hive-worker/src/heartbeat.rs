//! Being known to the registry: register, say "still alive", and leave in good order.
//!
//! The registry is told, never asked: while it is away, the worker works on.

use crate::backoff::Backoff;
use crate::orchestrator::sentence;
use crate::tally::Tally;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{AgentType, DeregisterRequest, HeartbeatRequest, RegisterRequest};
use hive_plan::TicketKind;
use hive_security::connect::Channel;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const PERIOD: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(2);
/// The namespace of the workers' SPIFFE IDs.
const NAMESPACE: &str = "neural-hive-execution";

pub(crate) struct Heartbeat {
    pub(crate) client: ServiceRegistryClient<Channel>,
    pub(crate) name: String,
    pub(crate) kinds: Vec<TicketKind>,
    pub(crate) slots: usize,
    pub(crate) tally: Arc<Tally>,
    /// This worker's agent, once it has been registered for the first time.
    pub(crate) registered: watch::Sender<Option<String>>,
}

impl Heartbeat {
    /// Stays registered until `stop`, then deregisters.
    pub(crate) async fn beat(self, stop: CancellationToken) {
        let mut agent_id = None;
        let mut backoff = Backoff::default();
        loop {
            let wait = match self.tell(&mut agent_id).await {
                Ok(()) => {
                    backoff.reset();
                    PERIOD
                }
                Err(status) => {
                    if backoff.is_fresh() {
                        tracing::warn!(
                            reason = sentence(&status),
                            "the registry does not know that this worker is alive"
                        );
                    }
                    backoff.next_delay().min(PERIOD)
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.leave(agent_id).await;
    }

    /// Heartbeats if it is registered, and registers if it is not, or is not any more.
    async fn tell(&self, agent_id: &mut Option<String>) -> Result<(), Status> {
        if let Some(known) = agent_id.clone() {
            match self.heartbeat(known).await {
                Err(status) if status.code() == Code::NotFound => *agent_id = None,
                told => return told,
            }
        }
        *agent_id = Some(self.register().await?);
        self.registered.send_replace(agent_id.clone());
        Ok(())
    }

    async fn register(&self) -> Result<String, Status> {
        let metadata = [
            ("worker".to_owned(), self.name.clone()),
            ("slots".to_owned(), self.slots.to_string()),
        ];
        let request = RegisterRequest {
            agent_type: AgentType::Worker.into(),
            capabilities: self.kinds.iter().map(ToString::to_string).collect(),
            metadata: metadata.into(),
            namespace: NAMESPACE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            telemetry: Some(self.tally.telemetry()),
            // Workers may share an identity; a restart is to find the agent that it was.
            instance_key: self.name.clone(),
            ..Default::default()
        };
        let answer = bounded(self.client.clone().register(request)).await?;
        tracing::info!(agent_id = answer.agent_id, "registered");
        Ok(answer.agent_id)
    }

    async fn heartbeat(&self, agent_id: String) -> Result<(), Status> {
        let telemetry = Some(self.tally.telemetry());
        bounded(self.client.clone().heartbeat(HeartbeatRequest { agent_id, telemetry }))
            .await
            .map(drop)
    }

    async fn leave(&self, agent_id: Option<String>) {
        let Some(agent_id) = agent_id else { return };
        if let Err(status) =
            bounded(self.client.clone().deregister(DeregisterRequest { agent_id })).await
        {
            tracing::warn!(
                reason = sentence(&status),
                "not deregistered: the registry will notice by itself"
            );
        }
    }
}

async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}
