//! What an agent must be to be listed, offered or watched.

use crate::agent::{Agent, Pairs, Standing};
use crate::bounds::{self, Refused, excerpt};
use crate::index::{Kind, Term};
use hive_api::registry::{AgentFilter, AgentStatus, AgentType};
use std::collections::HashMap;

/// Conditions that all must hold. Whatever is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    agent_type: Option<AgentType>,
    namespace: Box<str>,
    cluster: Box<str>,
    version: Box<str>,
    spiffe_id: Box<str>,
    status: Option<StatusFilter>,
    security_level: Box<str>,
    metadata: Pairs,
    pub(crate) capabilities: Box<[Box<str>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatusFilter {
    Exactly(AgentStatus),
    /// The predecessor's `HEALTHY` in the map admits degraded agents, too.
    HealthyOrDegraded,
}

impl Filter {
    /// Reads the typed filter and the predecessor's map, which are combined. An unknown name in the map is refused:
    /// ignored, it would let through what it was to keep out.
    pub(crate) fn read(
        typed: Option<AgentFilter>,
        map: HashMap<String, String>,
    ) -> Result<Self, Refused> {
        let mut filter = typed.map_or_else(|| Ok(Self::default()), Self::typed)?;
        for (name, value) in map {
            filter.named(&name, value)?;
        }
        Ok(filter)
    }

    /// Also asks for this type; 0 asks for nothing.
    pub(crate) fn and_type(mut self, number: i32) -> Result<Self, Refused> {
        if let Some(wanted) = bounds::some_agent_type("agent_type", number)? {
            set("agent_type", &mut self.agent_type, wanted)?;
        }
        Ok(self)
    }

    /// Also asks for these capabilities.
    pub(crate) fn and_capabilities(mut self, names: Vec<String>) -> Result<Self, Refused> {
        let more = bounds::capabilities("capabilities", names)?;
        let both = self.capabilities.into_iter().chain(more);
        self.capabilities = crate::agent::sorted(both);
        Ok(self)
    }

    /// The type asked for, if one is.
    pub(crate) fn agent_type(&self) -> Option<AgentType> {
        self.agent_type
    }

    /// What an agent must have, of what agents are found by.
    pub(crate) fn terms(&self) -> impl Iterator<Item = Term<'_>> {
        let labels = [
            (Kind::AgentType, self.agent_type.map_or("", |wanted| wanted.as_str_name())),
            (Kind::Cluster, &*self.cluster),
            (Kind::Namespace, &*self.namespace),
            (Kind::Owner, &*self.spiffe_id),
            (Kind::SecurityLevel, &*self.security_level),
            (Kind::Version, &*self.version),
        ];
        let capabilities = self.capabilities.iter().map(|name| (Kind::Capability, &**name));
        labels.into_iter().filter(|(_, wanted)| !wanted.is_empty()).chain(capabilities)
    }

    /// Whether an agent that has all [`terms`](Self::terms) is admitted whatever else it is.
    pub(crate) fn is_terms_alone(&self) -> bool {
        self.metadata.is_empty() && self.status.is_none()
    }

    /// Why `agent` is not what is asked for; `None` if it is.
    pub(crate) fn refuses(&self, agent: &Agent) -> Option<String> {
        let told = &agent.registration;
        if self.agent_type.is_some_and(|wanted| wanted != told.agent_type) {
            return Some(format!("its type is {}", told.agent_type.as_str_name()));
        }
        let labels = [
            ("namespace", &*self.namespace, &*told.namespace),
            ("cluster", &*self.cluster, &*told.cluster),
            ("version", &*self.version, &*told.version),
            ("SPIFFE ID", &*self.spiffe_id, &*agent.owner),
        ];
        if let Some((name, _, is)) =
            labels.into_iter().find(|(_, wanted, is)| !wanted.is_empty() && wanted != is)
        {
            return Some(format!("its {name} is {is}"));
        }
        if let Some(missing) = self.capabilities.iter().find(|name| !agent.has_capability(name)) {
            return Some(format!("it cannot {missing}"));
        }
        self.refuses_metadata(agent).or_else(|| self.refuses_status(agent.standing))
    }

    /// Whether `agent` is what is asked for.
    pub(crate) fn admits(&self, agent: &Agent) -> bool {
        self.refuses(agent).is_none()
    }

    fn refuses_metadata(&self, agent: &Agent) -> Option<String> {
        let is = agent.security_level();
        if !self.security_level.is_empty() && *self.security_level != *is {
            return Some(format!("its security level is {is}"));
        }
        let differs =
            |(name, wanted): &&(Box<str>, Box<str>)| agent.metadata(name) != Some(&**wanted);
        self.metadata.iter().find(differs).map(|(name, _)| format!("its metadata {name} differs"))
    }

    fn refuses_status(&self, standing: Standing) -> Option<String> {
        let status = standing.status();
        let admitted = match self.status {
            None => true,
            Some(StatusFilter::Exactly(wanted)) => wanted == status,
            Some(StatusFilter::HealthyOrDegraded) => status != AgentStatus::Unhealthy,
        };
        (!admitted).then(|| format!("its status is {}", status.as_str_name()))
    }

    fn typed(filter: AgentFilter) -> Result<Self, Refused> {
        let status = match AgentStatus::try_from(filter.status) {
            Ok(AgentStatus::Unspecified) => None,
            Ok(known) => Some(StatusFilter::Exactly(known)),
            Err(_) => {
                let reason = format!("{} is no status; use 1 to 3", filter.status);
                return Err(Refused::malformed("filter.status", reason));
            }
        };
        Ok(Self {
            agent_type: bounds::some_agent_type("filter.agent_type", filter.agent_type)?,
            namespace: bounds::label("filter.namespace", filter.namespace, "")?,
            cluster: bounds::label("filter.cluster", filter.cluster, "")?,
            version: bounds::label("filter.version", filter.version, "")?,
            spiffe_id: owner(&filter.spiffe_id)?,
            status,
            security_level: "".into(),
            metadata: bounds::metadata("filter.metadata", filter.metadata)?,
            capabilities: bounds::capabilities("filter.capabilities", filter.capabilities)?,
        })
    }

    /// One entry of the map.
    fn named(&mut self, name: &str, value: String) -> Result<(), Refused> {
        let field = format!("filters[{}]", excerpt(name));
        let label = match name {
            "agent_type" => {
                return set(&field, &mut self.agent_type, type_of_word(&field, &value)?);
            }
            "status" => return set(&field, &mut self.status, status_of_word(&field, &value)?),
            "cluster" => &mut self.cluster,
            "namespace" => &mut self.namespace,
            "security_level" => &mut self.security_level,
            "version" => &mut self.version,
            _ => {
                let known = "agent_type, cluster, namespace, security_level, status and version";
                return Err(Refused::malformed(
                    &field,
                    format!("it is unknown; known are {known}"),
                ));
            }
        };
        let value = bounds::label(&field, value, "")?;
        if !label.is_empty() && *label != value {
            return Err(contradiction(&field));
        }
        *label = value;
        Ok(())
    }
}

/// Two conditions on one thing must not contradict each other: nobody could mean that.
fn set<T: PartialEq>(field: &str, place: &mut Option<T>, wanted: T) -> Result<(), Refused> {
    if place.as_ref().is_some_and(|already| *already != wanted) {
        return Err(contradiction(field));
    }
    *place = Some(wanted);
    Ok(())
}

fn contradiction(field: &str) -> Refused {
    Refused::malformed(field, "another filter asks for something else")
}

fn owner(text: &str) -> Result<Box<str>, Refused> {
    if text.is_empty() {
        return Ok("".into());
    }
    match hive_security::SpiffeId::parse(text) {
        Ok(id) => Ok(id.to_string().into()),
        Err(_) => {
            let reason = format!("{} is not a SPIFFE ID", excerpt(text));
            Err(Refused::malformed("filter.spiffe_id", reason))
        }
    }
}

fn type_of_word(field: &str, word: &str) -> Result<AgentType, Refused> {
    let known = AgentType::from_str_name(&word.to_ascii_uppercase());
    known.filter(|known| *known != AgentType::Unspecified).ok_or_else(|| {
        let reason = format!("{} is no type; use WORKER, SCOUT, GUARD or ANALYST", excerpt(word));
        Refused::malformed(field, reason)
    })
}

fn status_of_word(field: &str, word: &str) -> Result<StatusFilter, Refused> {
    match word {
        "HEALTHY" => Ok(StatusFilter::HealthyOrDegraded),
        "DEGRADED" => Ok(StatusFilter::Exactly(AgentStatus::Degraded)),
        "UNHEALTHY" => Ok(StatusFilter::Exactly(AgentStatus::Unhealthy)),
        _ => {
            let reason =
                format!("{} is no status; use HEALTHY, DEGRADED or UNHEALTHY", excerpt(word));
            Err(Refused::malformed(field, reason))
        }
    }
}

#[cfg(test)]
mod tests;
