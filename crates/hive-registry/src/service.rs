//! The methods of the contract: what comes is checked, decided by the replica, and written by the node.

use crate::agent::{AgentId, ReplicaId};
use crate::attend::{self, Desk};
use crate::bounds::{self, Refused};
use crate::directory::Known;
use crate::encoding;
use crate::filter::Filter;
use crate::forward::{self, Others};
use crate::import;
use crate::node::{Node, now};
use crate::replica::Registering;
use crate::store::{Revision, StoreError};
use crate::watching::Watching;
use hive_api::registry::service_registry_server::ServiceRegistry;
use hive_api::registry::{
    AgentChangeEvent, AgentInfo, AttendRequest, DeliverRequest, DeliverResponse, DeregisterRequest,
    DeregisterResponse, DiscoverAgentsRequest, DiscoverAgentsResponse, DiscoverManyRequest,
    DiscoverManyResponse, GetAgentRequest, GetAgentResponse, HeartbeatManyRequest,
    HeartbeatManyResponse, HeartbeatRequest, HeartbeatResponse, HeartbeatResult,
    ImportAgentsRequest, ImportAgentsResponse, ListAgentsRequest, ListAgentsResponse, Notification,
    NotifyAgentRequest, NotifyAgentResponse, RegisterRequest, RegisterResponse, WatchAgentsRequest,
};
use hive_security::serve;
use prost::Message;
use prost::bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

/// Agents in one list at most, so that it fits into one answer.
const LISTED_MAX: usize = 1_000;
/// Heartbeats in one call at most: each takes microseconds under the lock.
const HEARTBEATS_MAX: usize = 1_000;
/// How long the first message of an agent's stream may take.
const FIRST_WORD_DEADLINE: Duration = Duration::from_secs(5);

/// Events or notifications, as tonic sends them.
pub(crate) type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) node: Arc<Node>,
    pub(crate) desk: Arc<Desk>,
    /// The other replicas; `None` where nobody can be called.
    pub(crate) others: Option<Others>,
    /// How long an agent may be silent before it is dead.
    pub(crate) lease: Duration,
    /// Ends the streams.
    pub(crate) stop: CancellationToken,
}

impl Registry {
    fn lease_ms(&self) -> i64 {
        i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX)
    }

    /// Before the first snapshot, an answer would show an empty fleet.
    pub(crate) fn synced(&self) -> Result<&Node, Status> {
        if self.node.is_synced() {
            return Ok(&self.node);
        }
        Err(Status::unavailable("the registry is reading its store; ask again in a moment"))
    }

    /// One heartbeat, which touches memory only.
    fn beat(&self, node: &Node, caller: &str, heartbeat: HeartbeatRequest) -> HeartbeatResult {
        let HeartbeatRequest { agent_id, telemetry } = heartbeat;
        let now = now();
        let heard = AgentId::parse("agent_id", &agent_id)
            .and_then(|id| node.change(|replica| replica.heartbeat(now, caller, id, telemetry)));
        node.metrics.beat(now.monotonic, heard.as_ref().ok().copied());
        let last_seen = now.wall_s;
        match heard {
            Ok((_, standing)) => HeartbeatResult {
                agent_id,
                status: standing.status().into(),
                last_seen,
                ..HeartbeatResult::default()
            },
            Err(refused) => {
                let status = Status::from(refused);
                let (code, error) = (status.code() as i32, status.message().to_owned());
                HeartbeatResult { agent_id, code, error, ..HeartbeatResult::default() }
            }
        }
    }

    /// Hands a notification to an agent, here or through the replica at which its stream is.
    async fn reach(
        &self,
        node: &Node,
        id: AgentId,
        home: &ReplicaId,
        notification: Notification,
    ) -> Result<(), String> {
        if let Some(reached) = self.desk.notify(id, notification.clone()).await {
            return reached;
        }
        let nobody = || "the agent has no open stream here".to_owned();
        let others = self.others.as_ref().ok_or_else(nobody)?;
        others.notify(node.store(), id, home, notification).await
    }

    /// A watch, and the stream of its encoded events.
    pub(crate) async fn watching(&self, request: WatchAgentsRequest) -> Result<Watching, Status> {
        let WatchAgentsRequest { agent_type, resume_revision, filter } = request;
        let filter =
            Filter::read(filter, std::collections::HashMap::new())?.and_type(agent_type)?;
        self.synced()?;
        let from = (resume_revision != 0).then_some(Revision(resume_revision));
        Watching::begin(Arc::clone(&self.node), self.stop.clone(), filter, from).await
    }
}

#[tonic::async_trait]
impl ServiceRegistry for Registry {
    type WatchAgentsStream = Outgoing<AgentChangeEvent>;
    type AttendStream = Outgoing<Notification>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let owner = serve::peer(&request)?.spiffe_id.to_string();
        let request = request.into_inner();
        let telemetry = request.telemetry;
        let registration = bounds::registration(request)?;
        let node = self.synced()?;
        let id = match &*registration.instance_key {
            "" => AgentId::from_random(rand::random()),
            key => AgentId::of_instance(&owner, key),
        };
        let agent_type = registration.agent_type;
        let registering =
            node.change(|replica| replica.register(now(), &owner, id, registration, telemetry))?;
        let (registered_at, revision) = match registering {
            Registering::Same { registered_at, revision } => (registered_at, revision),
            Registering::Write { registered_at, change } => {
                let revision = node.write(change).await?;
                node.metrics.registered(agent_type);
                tracing::info!(agent = %id, owner, "registered");
                (registered_at, revision)
            }
        };
        Ok(Response::new(RegisterResponse {
            agent_id: id.to_string(),
            registration_token: String::new(),
            registered_at,
            lease_duration_ms: self.lease_ms(),
            revision: revision.0,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.to_string();
        let node = self.synced()?;
        let result = self.beat(node, &caller, request.into_inner());
        if result.code != Code::Ok as i32 {
            return Err(Status::new(Code::from(result.code), result.error));
        }
        Ok(Response::new(HeartbeatResponse {
            status: result.status,
            last_seen: result.last_seen,
            lease_duration_ms: self.lease_ms(),
        }))
    }

    async fn heartbeat_many(
        &self,
        request: Request<HeartbeatManyRequest>,
    ) -> Result<Response<HeartbeatManyResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.to_string();
        let heartbeats = request.into_inner().heartbeats;
        if heartbeats.len() > HEARTBEATS_MAX {
            let reason = format!("{} are too many; at most {HEARTBEATS_MAX}", heartbeats.len());
            return Err(Refused::malformed("heartbeats", reason).into());
        }
        let node = self.synced()?;
        let each = heartbeats.into_iter().map(|heartbeat| self.beat(node, &caller, heartbeat));
        Ok(Response::new(HeartbeatManyResponse { results: each.collect() }))
    }

    async fn import_agents(
        &self,
        request: Request<ImportAgentsRequest>,
    ) -> Result<Response<ImportAgentsResponse>, Status> {
        let operator = serve::peer(&request)?.spiffe_id.clone();
        let node = self.synced()?;
        import::import(node, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.to_string();
        let id = AgentId::parse("agent_id", &request.into_inner().agent_id)?;
        let node = self.synced()?;
        let (change, agent_type) = {
            let replica = node.replica();
            let known = replica.owned(&caller, id)?;
            (replica.deregister(&caller, id)?, known.agent.registration.agent_type)
        };
        node.write(change).await?;
        node.metrics.deregistered(agent_type);
        tracing::info!(agent = %id, caller, "deregistered");
        Ok(Response::new(DeregisterResponse { success: true }))
    }

    async fn discover_agents(
        &self,
        request: Request<DiscoverAgentsRequest>,
    ) -> Result<Response<DiscoverAgentsResponse>, Status> {
        decoded(self.discovered(request.into_inner())?).map(Response::new)
    }

    async fn discover_many(
        &self,
        request: Request<DiscoverManyRequest>,
    ) -> Result<Response<DiscoverManyResponse>, Status> {
        decoded(self.discovered_many(request.into_inner()).await?).map(Response::new)
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let id = AgentId::parse("agent_id", &request.into_inner().agent_id)?;
        let node = self.synced()?;
        let info = node.replica().directory().agent(id).map(|known| known.info());
        let agent = info.ok_or(Refused::Unknown(id))?;
        Ok(Response::new(GetAgentResponse { agent: Some(agent) }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let ListAgentsRequest { agent_type, filters, filter, page_size, page_token } =
            request.into_inner();
        let filter = Filter::read(filter, filters)?.and_type(agent_type)?;
        let size = listed(page_size)?;
        let after = match &*page_token {
            "" => None,
            token => Some(AgentId::parse("page_token", token)?),
        };
        let node = self.synced()?;
        let revision = node.log().latest().0;
        let mut agents: Vec<AgentInfo> = Vec::new();
        let mut page = node.replica().directory().page(&filter, after, size + 1);
        loop {
            agents.extend(page.agents.iter().map(Known::info));
            let missing = (size + 1).saturating_sub(agents.len());
            let Some(last) = page.next.filter(|_| missing > 0) else { break };
            tokio::task::yield_now().await;
            page = node.replica().directory().page(&filter, Some(last), missing);
        }
        let mut next_page_token = String::new();
        let kept = encoding::fitting(&agents).min(size);
        if agents.len() > kept {
            if page_size == 0 {
                return Err(Status::resource_exhausted(
                    "more agents match than fit into one answer; ask for pages with page_size, or narrow the list with \
                     filters",
                ));
            }
            agents.truncate(kept);
            next_page_token = agents.last().map(|last| last.agent_id.clone()).unwrap_or_default();
        }
        Ok(Response::new(ListAgentsResponse { agents, next_page_token, revision }))
    }

    async fn watch_agents(
        &self,
        request: Request<WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let watching = self.watching(request.into_inner()).await?;
        let events = encoded(watching).map(|event| decoded(event?));
        Ok(Response::new(Box::pin(events)))
    }

    async fn notify_agent(
        &self,
        request: Request<NotifyAgentRequest>,
    ) -> Result<Response<NotifyAgentResponse>, Status> {
        let sender = serve::peer(&request)?.spiffe_id.to_string();
        let NotifyAgentRequest { agent_id, notification_type, message, metadata } =
            request.into_inner();
        let id = AgentId::parse("agent_id", &agent_id)?;
        bounds::notification(&notification_type, &message)?;
        bounds::metadata("metadata", metadata.clone())?;
        let node = self.synced()?;
        let home = node.replica().directory().agent(id).map(|known| known.agent.home.clone());
        let notification = Notification {
            sequence: 0,
            notification_type,
            message,
            metadata,
            timestamp: now().wall_s,
            spiffe_id: sender,
        };
        let reached = match home {
            Some(home) => self.reach(node, id, &home, notification).await,
            None => Err(Refused::Unknown(id).to_string()),
        };
        node.metrics.notified(reached.is_ok());
        let (success, error) = (reached.is_ok(), reached.err().unwrap_or_default());
        Ok(Response::new(NotifyAgentResponse { success, error }))
    }

    async fn deliver(
        &self,
        request: Request<DeliverRequest>,
    ) -> Result<Response<DeliverResponse>, Status> {
        forward::deliver(&self.desk, request.into_inner()).await.map(Response::new)
    }

    async fn attend(
        &self,
        request: Request<Streaming<AttendRequest>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.to_string();
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(FIRST_WORD_DEADLINE, messages.message()).await;
        let first =
            first.map_err(|_| Refused::malformed("agent_id", "it did not come in time"))??;
        let agent_id = first.map(|first| first.agent_id).unwrap_or_default();
        let id = AgentId::parse("agent_id", &agent_id)?;
        self.synced()?.replica().owned(&caller, id)?;
        let (out, notifications) = mpsc::channel(attend::LETTERS_MAX);
        let mut letters = self.desk.attend(id);
        let (desk, stop) = (Arc::clone(&self.desk), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = attend::carry(&mut letters, messages, out) => {}
                () = stop.cancelled() => {}
            }
            desk.leave(id, &letters);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(notifications))))
    }
}

/// The events of a watch, until it ends with an error.
pub(crate) fn encoded(watching: Watching) -> impl Stream<Item = Result<Bytes, Status>> {
    // It is handed on with each event.
    futures_util::stream::unfold(Some(Box::new(watching)), |watching| async {
        let mut watching = watching?;
        match watching.next().await {
            Ok(event) => Some((Ok(event), Some(watching))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

/// What was encoded here. On the wire, bytes stay bytes.
fn decoded<T: Message + Default>(encoded: Bytes) -> Result<T, Status> {
    T::decode(encoded).map_err(|error| Status::internal(error.to_string()))
}

fn listed(page_size: i32) -> Result<usize, Refused> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(LISTED_MAX),
        Ok(size) => Ok(size.min(LISTED_MAX)),
        Err(_) => Err(Refused::malformed("page_size", format!("{page_size} is negative"))),
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Full(_) => Self::resource_exhausted(text),
            Refused::Malformed { .. } => Self::invalid_argument(text),
            Refused::NotTheOwner { .. } => Self::permission_denied(text),
            Refused::Unknown(_) => Self::not_found(text),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => {
                Self::aborted("the agent was changed by somebody else at once; try again")
            }
            StoreError::Compacted { .. } | StoreError::Cut | StoreError::Unavailable(_) => {
                Self::unavailable(format!("{error}; nothing is known to be changed; try again"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
