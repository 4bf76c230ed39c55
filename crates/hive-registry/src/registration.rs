//! Who is registered: the agents, their owners, and what a registration must look like.

use crate::liveness::{Liveness, Now, Standing};
use hive_api::registry::{AgentInfo, AgentTelemetry, AgentType, RegisterRequest};
use hive_security::SpiffeId;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Agents at most: each takes a few kilobytes, and a fleet beyond this needs a replicated registry.
pub(crate) const MAX_AGENTS: usize = 10_000;
/// Capabilities of one agent at most, and bytes of one: there are eight kinds of tickets, and room for tags.
const MAX_CAPABILITIES: usize = 64;
const MAX_CAPABILITY_BYTES: usize = 64;
/// Bytes of all metadata of one agent: labels, not documents.
const MAX_METADATA_BYTES: usize = 2_048;
/// Bytes of a namespace, cluster or version.
const MAX_LABEL_BYTES: usize = 128;
/// The shape of `AgentInfo`, for readers of a later version.
const SCHEMA_VERSION: i32 = 1;

/// The identifier of a registration: a random UUID (version 4), new for each registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AgentId(u128);

impl AgentId {
    /// The identifier made of these random bits.
    pub(crate) fn from_random(bits: u128) -> Self {
        let unversioned = bits & !(0xf << 76) & !(0b11 << 62);
        Self(unversioned | (0x4 << 76) | (0b10 << 62))
    }

    /// Reads the canonical form, `xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refused> {
        let malformed = || Refused::Malformed(format!("agent_id {} is not a UUID", excerpt(text)));
        let digits: String = text.chars().filter(|character| *character != '-').collect();
        let id = u128::from_str_radix(&digits, 16).map(Self).map_err(|_| malformed())?;
        // Comparing with the canonical form catches misplaced hyphens, signs and wrong lengths at once.
        if id.to_string().eq_ignore_ascii_case(text) { Ok(id) } else { Err(malformed()) }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

/// A registered agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) owner: SpiffeId,
    pub(crate) agent_type: AgentType,
    pub(crate) capabilities: Vec<String>,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) labels: Labels,
    pub(crate) telemetry: Option<AgentTelemetry>,
    pub(crate) registered: Now,
    pub(crate) seen: Now,
}

/// Where an agent belongs. Discovery filters by these.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    pub(crate) namespace: String,
    pub(crate) cluster: String,
    pub(crate) version: String,
}

impl Agent {
    /// The agent as callers see it.
    pub(crate) fn info(&self, standing: Standing) -> AgentInfo {
        AgentInfo {
            agent_id: self.id.to_string(),
            agent_type: self.agent_type.into(),
            capabilities: self.capabilities.clone(),
            metadata: self.metadata.clone(),
            telemetry: self.telemetry,
            status: standing.status().into(),
            registered_at: self.registered.wall_s,
            last_seen: self.seen.wall_s,
            namespace: self.labels.namespace.clone(),
            cluster: self.labels.cluster.clone(),
            version: self.labels.version.clone(),
            schema_version: SCHEMA_VERSION,
            spiffe_id: self.owner.to_string(),
        }
    }

    /// How many of its executions succeeded; an agent that has executed nothing is in the middle.
    pub(crate) fn success_rate(&self) -> f64 {
        match &self.telemetry {
            Some(telemetry) if telemetry.total_executions > 0 => telemetry.success_rate,
            _ => 0.5,
        }
    }
}

/// Why a call was refused. The text says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "the registry holds {MAX_AGENTS} agents, its limit; deregister some or split the fleet"
    )]
    Full,
    #[error("{0}")]
    Malformed(String),
    #[error("agent {agent} belongs to {owner}, not to {caller}; register an agent of your own")]
    NotTheOwner { agent: AgentId, owner: String, caller: String },
    #[error("no agent {0} is registered; register again")]
    Unknown(AgentId),
}

/// Every registered agent, in memory.
#[derive(Debug)]
pub(crate) struct Directory {
    agents: BTreeMap<AgentId, Agent>,
    by_owner: HashMap<SpiffeId, AgentId>,
    liveness: Liveness,
}

impl Directory {
    pub(crate) fn new(liveness: Liveness) -> Self {
        Self { agents: BTreeMap::new(), by_owner: HashMap::new(), liveness }
    }

    /// Registers an agent under `id`. An earlier agent of the same owner is replaced: its process was restarted.
    pub(crate) fn register(
        &mut self,
        now: Now,
        id: AgentId,
        owner: &SpiffeId,
        request: RegisterRequest,
    ) -> Result<&Agent, Refused> {
        let agent = checked(now, id, owner, request)?;
        if self.agents.len() >= MAX_AGENTS && !self.by_owner.contains_key(owner) {
            return Err(Refused::Full);
        }
        if let Some(earlier) = self.by_owner.insert(owner.clone(), id) {
            self.agents.remove(&earlier);
        }
        Ok(self.agents.entry(id).or_insert(agent))
    }

    /// Notes that an agent is alive.
    pub(crate) fn heartbeat(
        &mut self,
        now: Now,
        id: AgentId,
        caller: &SpiffeId,
        telemetry: Option<AgentTelemetry>,
    ) -> Result<Standing, Refused> {
        check_telemetry(telemetry.as_ref())?;
        self.owned(now, id, caller)?;
        let liveness = self.liveness;
        let agent = self.agents.get_mut(&id).ok_or(Refused::Unknown(id))?;
        agent.seen = now;
        agent.telemetry = telemetry.or(agent.telemetry);
        Ok(liveness.standing(now, agent))
    }

    /// Forgets an agent.
    pub(crate) fn deregister(
        &mut self,
        now: Now,
        id: AgentId,
        caller: &SpiffeId,
    ) -> Result<(), Refused> {
        self.owned(now, id, caller)?;
        self.remove(id);
        Ok(())
    }

    /// One agent and how it stands.
    pub(crate) fn agent(&self, now: Now, id: AgentId) -> Result<(&Agent, Standing), Refused> {
        let agent = self.agents.get(&id).ok_or(Refused::Unknown(id))?;
        match self.liveness.standing(now, agent) {
            Standing::Gone => Err(Refused::Unknown(id)),
            standing => Ok((agent, standing)),
        }
    }

    /// Every agent that is not gone, and how it stands.
    pub(crate) fn agents(&self, now: Now) -> impl Iterator<Item = (&Agent, Standing)> {
        self.agents
            .values()
            .map(move |agent| (agent, self.liveness.standing(now, agent)))
            .filter(|(_, standing)| *standing != Standing::Gone)
    }

    /// Removes the agents that are gone, and says which.
    pub(crate) fn sweep(&mut self, now: Now) -> Vec<Agent> {
        let gone: Vec<AgentId> = self
            .agents
            .values()
            .filter(|agent| self.liveness.standing(now, agent) == Standing::Gone)
            .map(|agent| agent.id)
            .collect();
        gone.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    fn owned(&self, now: Now, id: AgentId, caller: &SpiffeId) -> Result<(), Refused> {
        let (agent, _) = self.agent(now, id)?;
        if agent.owner == *caller {
            return Ok(());
        }
        let (owner, caller) = (agent.owner.to_string(), caller.to_string());
        Err(Refused::NotTheOwner { agent: id, owner, caller })
    }

    fn remove(&mut self, id: AgentId) -> Option<Agent> {
        let agent = self.agents.remove(&id)?;
        self.by_owner.remove(&agent.owner);
        Some(agent)
    }
}

/// The beginning of a stranger's text: an error message travels in a header of bounded size.
pub(crate) fn excerpt(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

fn checked(
    now: Now,
    id: AgentId,
    owner: &SpiffeId,
    request: RegisterRequest,
) -> Result<Agent, Refused> {
    check_capabilities(&request.capabilities)?;
    check_metadata(&request.metadata)?;
    check_telemetry(request.telemetry.as_ref())?;
    Ok(Agent {
        id,
        owner: owner.clone(),
        agent_type: agent_type(request.agent_type)?,
        capabilities: request.capabilities,
        metadata: request.metadata,
        labels: Labels {
            namespace: label("namespace", request.namespace, "default")?,
            cluster: label("cluster", request.cluster, "local")?,
            version: label("version", request.version, "1.0.0")?,
        },
        telemetry: request.telemetry,
        registered: now,
        seen: now,
    })
}

fn agent_type(number: i32) -> Result<AgentType, Refused> {
    match AgentType::try_from(number) {
        Ok(AgentType::Unspecified) | Err(_) => Err(Refused::Malformed(format!(
            "agent_type is {number}; it must be 1 (WORKER), 2 (SCOUT), 3 (GUARD) or 4 (ANALYST)"
        ))),
        Ok(known) => Ok(known),
    }
}

fn check_capabilities(capabilities: &[String]) -> Result<(), Refused> {
    let fits = |text: &String| (1..=MAX_CAPABILITY_BYTES).contains(&text.len());
    match capabilities.len() {
        0 => Err(Refused::Malformed("capabilities is empty; name at least one".to_owned())),
        1..=MAX_CAPABILITIES if capabilities.iter().all(fits) => Ok(()),
        _ => Err(Refused::Malformed(format!(
            "capabilities must be at most {MAX_CAPABILITIES}, of 1 to {MAX_CAPABILITY_BYTES} bytes each"
        ))),
    }
}

fn check_metadata(metadata: &HashMap<String, String>) -> Result<(), Refused> {
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= MAX_METADATA_BYTES {
        return Ok(());
    }
    Err(Refused::Malformed(format!(
        "metadata has {bytes} bytes; at most {MAX_METADATA_BYTES} are kept"
    )))
}

fn check_telemetry(telemetry: Option<&AgentTelemetry>) -> Result<(), Refused> {
    match telemetry {
        // NaN is in no range, so it is refused here and never reaches a comparison.
        Some(telemetry) if !(0.0..=1.0).contains(&telemetry.success_rate) => {
            Err(Refused::Malformed("telemetry.success_rate must be between 0 and 1".to_owned()))
        }
        _ => Ok(()),
    }
}

fn label(name: &str, value: String, default: &str) -> Result<String, Refused> {
    match value.len() {
        0 => Ok(default.to_owned()),
        1..=MAX_LABEL_BYTES => Ok(value),
        _ => Err(Refused::Malformed(format!("{name} is longer than {MAX_LABEL_BYTES} bytes"))),
    }
}

#[cfg(test)]
pub(crate) mod tests;
