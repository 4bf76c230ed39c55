//! The gRPC service, and what runs beside it.

use crate::discovery::{self, Filters};
use crate::liveness::{Liveness, Now};
use crate::registration::{AgentId, Directory, Refused};
use crate::{Config, Error};
use hive_api::names::{OPERATOR, ORCHESTRATOR, Party, REGISTRY, WORKERS};
use hive_api::registry::service_registry_server::{ServiceRegistry, ServiceRegistryServer};
use hive_api::registry::{
    AgentInfo, AgentType, DeregisterRequest, DeregisterResponse, DiscoverAgentsRequest,
    DiscoverAgentsResponse, GetAgentRequest, GetAgentResponse, HeartbeatRequest, HeartbeatResponse,
    ListAgentsRequest, ListAgentsResponse, RegisterRequest, RegisterResponse,
};
use hive_runtime::listen::listen;
use hive_runtime::ready::Ready;
use hive_runtime::stop;
use hive_security::serve::{self, Authenticate, MethodPolicy};
use hive_security::{Audience, IdPattern, TrustDomain, Workload};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Time to obtain a first SVID: a start that takes longer is better seen as failed.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);
/// Time for calls under way to end once the registry stops: none of them waits for anything but the lock.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// How often an idle connection is probed, and how long an answer may take: a dead peer frees its slot in 30 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection, at most: a worker has one heartbeat under way, an orchestrator a question for
/// each kind.
const STREAMS_MAX: u32 = 256;
/// A registration is a few kilobytes at most.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// What a gRPC client accepts by default.
const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Agents in one list at most, so that it fits into one answer.
const LISTED_MAX: usize = 1_000;

/// Serves until `stop` is cancelled; announces the address once it does.
pub async fn run(config: Config, ready: Ready, stop: CancellationToken) -> Result<(), Error> {
    let mut identity = config.workload.clone();
    identity.attach_deadline = ATTACH_DEADLINE;
    let (workload, upkeep) = Workload::attach(identity).await.map_err(Error::Identity)?;
    let upkeep = tokio::spawn(upkeep.run(stop.clone()));
    let served = serve_until(config, &workload, ready, stop).await;
    upkeep.abort();
    served
}

async fn serve_until(
    config: Config,
    workload: &Workload,
    ready: Ready,
    stop: CancellationToken,
) -> Result<(), Error> {
    let refused = |source| Error::Listen { address: config.listen, source };
    let (listener, address) = listen(config.listen).await.map_err(refused)?;
    let registry = Registry::new(Liveness::new(config.heartbeat_timeout));
    let trust_domain = workload.trust_domain();
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).map_err(Error::Identity)?;
    let policy = policy(&trust_domain).map_err(Error::Identity)?;
    let incoming = serve::incoming(listener, workload).map_err(Error::Identity)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ServiceRegistryServer<Registry>>().await;
    let sweeper = tokio::spawn(registry.clone().sweep_every(config.heartbeat_timeout));
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .max_connection_age(serve::ConnectionAge::default().drawn())
        .layer(Authenticate::new(workload, audience, policy))
        .add_service(health_service)
        .add_service(
            ServiceRegistryServer::new(registry)
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .max_encoding_message_size(RESPONSE_BYTES_MAX),
        )
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    ready.announce(address.to_string());
    tracing::info!(%address, "the registry serves");
    let served = tokio::select! {
        served = server => served.map_err(Error::Serve),
        () = stop::drained(&stop, DRAIN_DEADLINE) => Ok(()),
    };
    sweeper.abort();
    served
}

/// Who may call what. Whatever is not named here nobody may call.
fn policy(trust_domain: &TrustDomain) -> Result<MethodPolicy, hive_security::Error> {
    let pattern = |party: Party| IdPattern::in_trust_domain(trust_domain, party.path);
    let mut policy = MethodPolicy::new();
    for method in ["Register", "Heartbeat", "Deregister"] {
        policy = policy.allow(&path(method), pattern(WORKERS)?);
    }
    for method in ["DiscoverAgents", "GetAgent", "ListAgents"] {
        for party in [ORCHESTRATOR, WORKERS, OPERATOR] {
            policy = policy.allow(&path(method), pattern(party)?);
        }
    }
    Ok(policy)
}

fn path(method: &str) -> String {
    format!("/neural_hive.service_registry.ServiceRegistry/{method}")
}

/// The service: a directory behind a lock that is held for microseconds and never across an await.
#[derive(Clone, Debug)]
struct Registry(Arc<Mutex<Directory>>);

impl Registry {
    fn new(liveness: Liveness) -> Self {
        Self(Arc::new(Mutex::new(Directory::new(liveness))))
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        // A panic leaves the directory usable: each of its methods changes it in one step, after every check.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees what dead agents hold. Answers do not depend on it: they look at the time themselves.
    async fn sweep_every(self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let gone = self.directory().sweep(now());
            for agent in gone {
                tracing::warn!(agent = %agent.id, owner = %agent.owner, "removed: no heartbeat");
            }
        }
    }
}

#[tonic::async_trait]
impl ServiceRegistry for Registry {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let owner = serve::peer(&request)?.spiffe_id.clone();
        let id = AgentId::from_random(rand::random());
        let registered_at = self
            .directory()
            .register(now(), id, &owner, request.into_inner())
            .map(|agent| agent.registered.wall_s)?;
        tracing::info!(agent = %id, %owner, "registered");
        Ok(Response::new(RegisterResponse {
            agent_id: id.to_string(),
            registration_token: String::new(),
            registered_at,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.clone();
        let HeartbeatRequest { agent_id, telemetry } = request.into_inner();
        let (now, id) = (now(), AgentId::parse(&agent_id)?);
        let standing = self.directory().heartbeat(now, id, &caller, telemetry)?;
        let status = standing.status().into();
        Ok(Response::new(HeartbeatResponse { status, last_seen: now.wall_s }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.clone();
        let id = AgentId::parse(&request.into_inner().agent_id)?;
        self.directory().deregister(now(), id, &caller)?;
        tracing::info!(agent = %id, %caller, "deregistered");
        Ok(Response::new(DeregisterResponse { success: true }))
    }

    async fn discover_agents(
        &self,
        request: Request<DiscoverAgentsRequest>,
    ) -> Result<Response<DiscoverAgentsResponse>, Status> {
        let DiscoverAgentsRequest { capabilities, filters, max_results } = request.into_inner();
        let (filters, limit) = (Filters::parse(filters)?, discovery::limit(max_results)?);
        let directory = self.directory();
        let found = discovery::discover(directory.agents(now()), &capabilities, &filters, limit);
        let agents = found.into_iter().map(|(agent, standing)| agent.info(standing)).collect();
        Ok(Response::new(DiscoverAgentsResponse { agents, ranked: true }))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let id = AgentId::parse(&request.into_inner().agent_id)?;
        let directory = self.directory();
        let (agent, standing) = directory.agent(now(), id)?;
        Ok(Response::new(GetAgentResponse { agent: Some(agent.info(standing)) }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let ListAgentsRequest { agent_type, filters } = request.into_inner();
        let filters = Filters::parse(filters)?;
        let wanted = wanted_type(agent_type)?;
        let directory = self.directory();
        let agents: Vec<AgentInfo> = directory
            .agents(now())
            .filter(|(agent, _)| wanted.is_none_or(|wanted| wanted == agent.agent_type))
            .filter(|(agent, _)| filters.admit(agent))
            .take(LISTED_MAX + 1)
            .map(|(agent, standing)| agent.info(standing))
            .collect();
        if agents.len() > LISTED_MAX {
            return Err(Status::resource_exhausted(format!(
                "more than {LISTED_MAX} agents match; narrow the list with filters"
            )));
        }
        Ok(Response::new(ListAgentsResponse { agents }))
    }
}

/// The type asked for; 0 asks for all.
fn wanted_type(number: i32) -> Result<Option<AgentType>, Refused> {
    match AgentType::try_from(number) {
        Ok(AgentType::Unspecified) => Ok(None),
        Ok(known) => Ok(Some(known)),
        Err(_) => Err(Refused::Malformed(format!("agent_type is {number}; it must be 0 to 4"))),
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Full => Self::resource_exhausted(text),
            Refused::Malformed(_) => Self::invalid_argument(text),
            Refused::NotTheOwner { .. } => Self::permission_denied(text),
            Refused::Unknown(_) => Self::not_found(text),
        }
    }
}

fn now() -> Now {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall_s = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    Now { monotonic: Instant::now(), wall_s }
}

#[cfg(test)]
mod tests;
