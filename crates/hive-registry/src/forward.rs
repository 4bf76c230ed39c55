//! Reaching an agent whose stream is open at another replica: one hop, as the registry itself.
//!
//! A stream may be elsewhere than its agent's home, for connections are replaced one by one. So the home is asked first,
//! where it most likely is, and then the others, in turn: an agent that moves may hold two streams, and is told once. The
//! replica that has the stream has the last word, also if the agent does not acknowledge.

use crate::agent::{AgentId, ReplicaId};
use crate::attend::Desk;
use crate::bounds::{self, Refused};
use crate::store::Store;
use hive_api::names::REGISTRY;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{DeliverRequest, DeliverResponse, Notification};
use hive_security::connect;
use hive_security::{Audience, IdPattern, Workload};
use std::time::Duration;
use tonic::Status;

/// What one replica may take: an agent has five seconds to acknowledge.
const HOP_DEADLINE: Duration = Duration::from_secs(6);
/// What all of them may take together.
const DEADLINE: Duration = Duration::from_secs(10);
const NO_STREAM: &str = "the agent has no open stream at any replica";

/// How the other replicas are called.
#[derive(Clone)]
pub(crate) struct Others {
    workload: Workload,
}

impl Others {
    pub(crate) fn new(workload: &Workload) -> Self {
        Self { workload: workload.clone() }
    }

    /// Has a notification handed to an agent that does not attend here. Else says why it was not reached.
    pub(crate) async fn notify(
        &self,
        store: &dyn Store,
        id: AgentId,
        home: &ReplicaId,
        notification: Notification,
    ) -> Result<(), String> {
        let request = DeliverRequest { agent_id: id.to_string(), notification: Some(notification) };
        let late =
            |_| Err(format!("the other replicas did not answer within {} s", DEADLINE.as_secs()));
        tokio::time::timeout(DEADLINE, self.ask(store, home, request)).await.unwrap_or_else(late)
    }

    async fn ask(
        &self,
        store: &dyn Store,
        home: &ReplicaId,
        request: DeliverRequest,
    ) -> Result<(), String> {
        let unknown = |error| format!("which other replicas there are is not known: {error}");
        let mut others = store.others().await.map_err(unknown)?;
        others.sort_by_key(|(replica, _)| replica != home);
        let mut silent = 0;
        for (replica, address) in others {
            match self.hop(&address, request.clone()).await {
                Ok(DeliverResponse { attends: false, .. }) => {}
                Ok(DeliverResponse { error, .. }) if error.is_empty() => return Ok(()),
                Ok(DeliverResponse { error, .. }) => return Err(error),
                Err(status) => {
                    tracing::warn!(replica = replica.as_str(), address, %status, "a replica cannot be asked");
                    silent += 1;
                }
            }
        }
        match silent {
            0 => Err(NO_STREAM.to_owned()),
            _ => Err(format!("{NO_STREAM} that answers, and {silent} did not; see HIVE_ADVERTISE")),
        }
    }

    /// Notifications are rare, so each hop has a connection of its own.
    async fn hop(&self, address: &str, request: DeliverRequest) -> Result<DeliverResponse, Status> {
        if address.is_empty() {
            return Err(Status::unavailable("it does not say where it is"));
        }
        let failed = |error: hive_security::Error| Status::unavailable(error.to_string());
        let trust_domain = self.workload.trust_domain();
        let peer = IdPattern::in_trust_domain(&trust_domain, REGISTRY.path).map_err(failed)?;
        let audience = Audience::of_service(REGISTRY.name, &trust_domain).map_err(failed)?;
        let address = format!("https://{address}");
        let channel = connect::channel(&self.workload, &address, peer, audience).map_err(failed)?;
        let mut client = ServiceRegistryClient::new(channel);
        let answer = tokio::time::timeout(HOP_DEADLINE, client.deliver(request)).await;
        let late = |_| Err(Status::deadline_exceeded("it did not answer in time"));
        answer.unwrap_or_else(late).map(tonic::Response::into_inner)
    }
}

/// Hands over what another replica was given.
pub(crate) async fn deliver(
    desk: &Desk,
    request: DeliverRequest,
) -> Result<DeliverResponse, Status> {
    let DeliverRequest { agent_id, notification } = request;
    let id = AgentId::parse("agent_id", &agent_id)?;
    let notification =
        notification.ok_or_else(|| Refused::malformed("notification", "it is missing"))?;
    bounds::notification(&notification.notification_type, &notification.message)?;
    bounds::metadata("metadata", notification.metadata.clone())?;
    let reached = desk.notify(id, notification).await;
    let attends = reached.is_some();
    let error = reached.and_then(Result::err).unwrap_or_default();
    Ok(DeliverResponse { attends, error })
}
