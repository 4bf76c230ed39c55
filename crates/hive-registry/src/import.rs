//! Taking agents over from another registry, for the owners that an operator names.
//!
//! Whoever imports says who owns an agent; nobody else can know, and nothing is guessed. From then on it is an agent like
//! any other: its owner heartbeats, or it dies. What is known here is never changed by an import.

use crate::agent::{Agent, AgentId, Pulse, ReplicaId, Standing};
use crate::bounds::{self, Refused, excerpt};
use crate::node::{Node, now};
use crate::replica::Now;
use futures_util::stream::{self, StreamExt};
use hive_api::names::WORKERS;
use hive_api::registry::{
    AgentInfo, EventType, ImportAgentsRequest, ImportAgentsResponse, ImportResult, RegisterRequest,
};
use hive_security::{IdPattern, SpiffeId};
use tonic::Status;

/// Agents in one call at most: a request of 256 kilobytes holds as many of two kilobytes.
const IMPORTED_MAX: usize = 128;
/// Changes that are written at once.
const WRITES_MAX: usize = 32;

/// Imports each agent, or says why not.
pub(crate) async fn import(
    node: &Node,
    operator: &SpiffeId,
    request: ImportAgentsRequest,
) -> Result<ImportAgentsResponse, Status> {
    let ImportAgentsRequest { agents, dry_run } = request;
    if agents.len() > IMPORTED_MAX {
        let reason = format!("{} are too many; at most {IMPORTED_MAX}", agents.len());
        return Err(Refused::malformed("agents", reason).into());
    }
    // Whoever may not register could never say that the agent is alive.
    let owners = IdPattern::in_trust_domain(&operator.trust_domain(), WORKERS.path)
        .map_err(|error| Status::internal(error.to_string()))?;
    let importer = Importer { node, operator, owners: &owners, dry_run };
    let results = stream::iter(agents).map(|info| importer.answer(info)).buffered(WRITES_MAX);
    Ok(ImportAgentsResponse { results: results.collect().await })
}

#[derive(Clone, Copy)]
struct Importer<'a> {
    node: &'a Node,
    operator: &'a SpiffeId,
    owners: &'a IdPattern,
    dry_run: bool,
}

impl Importer<'_> {
    async fn answer(self, info: AgentInfo) -> ImportResult {
        let agent_id = info.agent_id.clone();
        match self.import(info).await {
            Ok(known) => ImportResult { agent_id, known, ..ImportResult::default() },
            Err(status) => {
                let (code, error) = (status.code() as i32, status.message().to_owned());
                ImportResult { agent_id, code, error, known: false }
            }
        }
    }

    /// Whether it was known already.
    async fn import(self, info: AgentInfo) -> Result<bool, Status> {
        let agent = read(now(), info, self.owners)?;
        let (id, agent_type) = (agent.id, agent.registration.agent_type);
        let owner = agent.owner.clone();
        let Some(change) = self.node.replica().import(agent)? else { return Ok(true) };
        if !self.dry_run {
            self.node.write(change).await?;
            self.node.metrics.registered(agent_type);
            tracing::info!(agent = %id, %owner, operator = %self.operator, "imported");
        }
        Ok(false)
    }
}

/// An agent whose every field is within the bounds of a registration.
fn read(now: Now, info: AgentInfo, owners: &IdPattern) -> Result<Agent, Refused> {
    let id = AgentId::parse("agent_id", &info.agent_id)?;
    if [AgentId::MIN, AgentId::MAX].contains(&id) {
        return Err(Refused::malformed("agent_id", format!("{id} is no agent's")));
    }
    if !info.instance_key.is_empty() {
        let reason =
            "an identifier follows from its instance key; only agents without one are imported";
        return Err(Refused::malformed("instance_key", reason));
    }
    let owner = owner(&info.spiffe_id, owners)?;
    let registered_at = moment("registered_at", info.registered_at, now.wall_s)?;
    let last_seen = moment("last_seen", info.last_seen, registered_at)?.min(now.wall_s);
    let pulse = Pulse { last_seen, telemetry: info.telemetry };
    let registration = bounds::registration(RegisterRequest {
        agent_type: info.agent_type,
        capabilities: info.capabilities,
        metadata: info.metadata,
        namespace: info.namespace,
        cluster: info.cluster,
        version: info.version,
        telemetry: info.telemetry,
        instance_key: String::new(),
    })?;
    Ok(Agent {
        id,
        owner: owner.to_string().into(),
        registration,
        registered_at: registered_at.min(now.wall_s),
        standing: Standing::by_success(pulse.success_rate()),
        pulse,
        // The replica that imports it says so.
        home: ReplicaId::new(""),
        cause: EventType::Registered,
    })
}

fn owner(text: &str, owners: &IdPattern) -> Result<SpiffeId, Refused> {
    let id = SpiffeId::parse(text).map_err(|_| {
        Refused::malformed("spiffe_id", format!("{} is no SPIFFE ID", excerpt(text)))
    })?;
    if owners.matches(&id) {
        return Ok(id);
    }
    let reason = format!("{} may not register agents here, so it can own none", excerpt(text));
    Err(Refused::malformed("spiffe_id", reason))
}

/// Seconds since the epoch, or what holds where none are told.
fn moment(field: &str, seconds: i64, default: i64) -> Result<i64, Refused> {
    match seconds {
        0 => Ok(default),
        1.. => Ok(seconds),
        _ => Err(Refused::malformed(field, format!("{seconds} is negative"))),
    }
}

#[cfg(test)]
mod tests;
