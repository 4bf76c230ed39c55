//! What an agent is: its identifier, what it registered, how it stands, and how all of it is stored.

use crate::bounds::{Refused, excerpt};
use crate::index::{Kind, Term};
use aws_lc_rs::digest::{SHA256, digest};
use hive_api::registry::{
    AgentInfo, AgentStatus, AgentTelemetry, AgentType, EventType, Liveness as WireLiveness,
};
use prost::Message;
use prost::bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// The shape of `AgentInfo`, for readers of a later version.
pub(crate) const SCHEMA_VERSION: i32 = 2;
/// What an agent counts as that says nothing of its security level.
const SECURITY_LEVEL: &str = "INTERNAL";
/// What an agent that has executed nothing counts as: neither good nor bad.
const UNTRIED: f64 = 0.5;
/// Below these shares of successes an agent is not used, or avoided.
const WORSE_BELOW: [f64; 2] = [0.3, 0.5];
/// One that was so has to do a little better before it counts as better: at a threshold, each heartbeat would be a write.
const BETTER_FROM: [f64; 2] = [0.35, 0.55];

/// The identifier of an agent, a UUID. Ordered as its text is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AgentId([u8; 16]);

impl AgentId {
    /// The nil and the max UUID of RFC 9562, section 5: before and behind every other, and no agent's.
    pub(crate) const MIN: Self = Self([0; 16]);
    pub(crate) const MAX: Self = Self([0xff; 16]);

    /// A UUID of version 4, made of these random bits.
    pub(crate) fn from_random(bits: u128) -> Self {
        Self::versioned(bits.to_be_bytes(), 4)
    }

    /// A UUID of version 8, the same for the same owner and key at every replica.
    pub(crate) fn of_instance(owner: &str, instance_key: &str) -> Self {
        // A SPIFFE ID holds no NUL, so no two pairs are written alike.
        let named = digest(&SHA256, format!("{owner}\0{instance_key}").as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&named.as_ref()[..16]);
        Self::versioned(bytes, 8)
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    fn versioned(mut bytes: [u8; 16], version: u8) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | (version << 4);
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// The canonical form, in ASCII.
    pub(crate) fn text(self) -> [u8; 36] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (number, byte) in self.0.into_iter().enumerate() {
            if matches!(number, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 0x0f)];
            at += 2;
        }
        text
    }

    /// Reads the canonical form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, from the field of this name.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, Refused> {
        let malformed = || Refused::malformed(field, format!("{} is not a UUID", excerpt(text)));
        let mut number = 0;
        for digit in text.bytes().filter_map(|byte| char::from(byte).to_digit(16)).take(32) {
            number = (number << 4) | u128::from(digit);
        }
        let id = Self(number.to_be_bytes());
        // Comparing with the canonical form catches misplaced hyphens, other characters and wrong lengths at once.
        if id.text().eq_ignore_ascii_case(text.as_bytes()) { Ok(id) } else { Err(malformed()) }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It is ASCII.
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a replica of the registry, new at each start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReplicaId(Arc<str>);

impl ReplicaId {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// How an agent stands, as decided last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Standing {
    Healthy,
    Degraded,
    Unhealthy,
    /// Silent for longer than usual.
    Suspect,
    /// Silent for too long.
    Dead,
}

impl Standing {
    /// How an agent stands that is heard for the first time, or again: its telemetry decides.
    pub(crate) fn by_success(rate: f64) -> Self {
        Self::between(WORSE_BELOW, rate)
    }

    /// How an agent that stood so, and is heard, stands now.
    pub(crate) fn after(self, rate: f64) -> Self {
        match self {
            Self::Dead | Self::Suspect => Self::by_success(rate),
            // In this order, the worse is the greater.
            Self::Degraded | Self::Healthy | Self::Unhealthy => {
                self.clamp(Self::by_success(rate), Self::between(BETTER_FROM, rate))
            }
        }
    }

    fn between([unhealthy_below, degraded_below]: [f64; 2], rate: f64) -> Self {
        if rate < unhealthy_below {
            Self::Unhealthy
        } else if rate < degraded_below {
            Self::Degraded
        } else {
            Self::Healthy
        }
    }

    /// Whether work may be given to it. A suspect may be cut off for a moment only, and the dead are dead.
    pub(crate) fn is_discoverable(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded | Self::Suspect)
    }

    /// The word of the predecessor's contract.
    pub(crate) fn status(self) -> AgentStatus {
        match self {
            Self::Healthy => AgentStatus::Healthy,
            Self::Degraded | Self::Suspect => AgentStatus::Degraded,
            Self::Unhealthy | Self::Dead => AgentStatus::Unhealthy,
        }
    }

    /// What the addition to that contract says.
    pub(crate) fn liveness(self) -> WireLiveness {
        match self {
            Self::Healthy | Self::Degraded | Self::Unhealthy => WireLiveness::Alive,
            Self::Suspect => WireLiveness::Suspect,
            Self::Dead => WireLiveness::Dead,
        }
    }

    /// The two words together mean one standing.
    fn of_wire(status: AgentStatus, liveness: WireLiveness) -> Option<Self> {
        let all = [Self::Healthy, Self::Degraded, Self::Unhealthy, Self::Suspect, Self::Dead];
        all.into_iter()
            .find(|standing| standing.status() == status && standing.liveness() == liveness)
    }
}

/// The last sign of life, and what came with it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pulse {
    /// Seconds since the epoch.
    pub(crate) last_seen: i64,
    pub(crate) telemetry: Option<AgentTelemetry>,
}

impl Pulse {
    /// How many of its executions succeeded; an agent that has executed nothing is in the middle.
    pub(crate) fn success_rate(&self) -> f64 {
        match &self.telemetry {
            Some(telemetry) if telemetry.total_executions > 0 => telemetry.success_rate,
            _ => UNTRIED,
        }
    }
}

/// Names and values, sorted by name.
pub(crate) type Pairs = Box<[(Box<str>, Box<str>)]>;

/// What an agent says of itself, within bounds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Registration {
    pub(crate) instance_key: Box<str>,
    pub(crate) agent_type: AgentType,
    /// Sorted, and each once.
    pub(crate) capabilities: Box<[Box<str>]>,
    pub(crate) metadata: Pairs,
    pub(crate) namespace: Box<str>,
    pub(crate) cluster: Box<str>,
    pub(crate) version: Box<str>,
}

/// A registered agent: what the store keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) owner: Arc<str>,
    pub(crate) registration: Registration,
    /// Seconds since the epoch.
    pub(crate) registered_at: i64,
    pub(crate) standing: Standing,
    /// As of the decision about its standing.
    pub(crate) pulse: Pulse,
    /// The replica at which it heartbeats, and which judges its silence.
    pub(crate) home: ReplicaId,
    /// What made this record: [`EventType::Registered`], `Updated` or `StatusChanged`.
    pub(crate) cause: EventType,
}

impl Agent {
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.registration.capabilities.binary_search_by(|known| (**known).cmp(name)).is_ok()
    }

    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        let pairs = &self.registration.metadata;
        let at = pairs.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&pairs[at].1)
    }

    pub(crate) fn security_level(&self) -> &str {
        self.metadata("security_level").unwrap_or(SECURITY_LEVEL)
    }

    /// All that it can be found by.
    pub(crate) fn terms(&self) -> impl Iterator<Item = Term<'_>> {
        let told = &self.registration;
        let labels = [
            (Kind::AgentType, told.agent_type.as_str_name()),
            (Kind::Cluster, &*told.cluster),
            (Kind::Namespace, &*told.namespace),
            (Kind::Owner, &*self.owner),
            (Kind::SecurityLevel, self.security_level()),
            (Kind::Version, &*told.version),
        ];
        let capabilities = told.capabilities.iter().map(|name| (Kind::Capability, &**name));
        labels.into_iter().chain(capabilities)
    }

    /// The agent as callers see it, with a pulse that may be newer than the record's.
    pub(crate) fn info(&self, pulse: &Pulse, revision: u64) -> AgentInfo {
        let told = &self.registration;
        let pair = |(name, value): &(Box<str>, Box<str>)| (name.to_string(), value.to_string());
        AgentInfo {
            agent_id: self.id.to_string(),
            agent_type: told.agent_type.into(),
            capabilities: told.capabilities.iter().map(ToString::to_string).collect(),
            metadata: told.metadata.iter().map(pair).collect(),
            telemetry: pulse.telemetry,
            status: self.standing.status().into(),
            registered_at: self.registered_at,
            last_seen: pulse.last_seen,
            namespace: told.namespace.to_string(),
            cluster: told.cluster.to_string(),
            version: told.version.to_string(),
            schema_version: SCHEMA_VERSION,
            spiffe_id: self.owner.to_string(),
            liveness: self.standing.liveness().into(),
            revision,
            instance_key: told.instance_key.to_string(),
        }
    }

    /// What the store keeps.
    pub(crate) fn encode(&self) -> Bytes {
        let stored = Stored {
            agent: Some(self.info(&self.pulse, 0)),
            home: self.home.as_str().to_owned(),
            cause: self.cause.into(),
        };
        stored.encode_to_vec().into()
    }

    /// Reads what [`encode`](Self::encode) wrote; else says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored = Stored::decode(bytes).map_err(|error| error.to_string())?;
        let cause = stored.cause();
        let info = stored.agent.ok_or("it holds no agent")?;
        let standing = Standing::of_wire(info.status(), info.liveness())
            .ok_or("its standing is of another version")?;
        let agent_type = info.agent_type();
        let id = AgentId::parse("agent_id", &info.agent_id).map_err(|error| error.to_string())?;
        let registration = Registration {
            instance_key: info.instance_key.into(),
            agent_type,
            capabilities: sorted(info.capabilities.into_iter().map(Into::into)),
            metadata: sorted(info.metadata.into_iter().map(|(n, v)| (n.into(), v.into()))),
            namespace: info.namespace.into(),
            cluster: info.cluster.into(),
            version: info.version.into(),
        };
        Ok(Self {
            id,
            owner: info.spiffe_id.into(),
            registration,
            registered_at: info.registered_at,
            standing,
            pulse: Pulse { last_seen: info.last_seen, telemetry: info.telemetry },
            home: ReplicaId::new(&stored.home),
            cause,
        })
    }
}

/// In order, each once.
pub(crate) fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Box<[T]> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items.into()
}

/// The record in the store. Field numbers never change.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    agent: Option<AgentInfo>,
    #[prost(string, tag = "2")]
    home: String,
    #[prost(enumeration = "EventType", tag = "3")]
    cause: i32,
}

#[cfg(test)]
pub(crate) mod tests;
