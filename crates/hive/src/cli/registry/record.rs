//! How the registry before this one wrote an agent: a key that names its type and its identifier, and a JSON document.

use hive_api::registry::{AgentInfo, AgentTelemetry, AgentType};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Where each agent is, below the prefix: `worker:<identifier>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) agent_type: AgentType,
    pub(super) agent_id: String,
}

impl Place {
    /// The place that a key is, without its prefix; `None` if it is no agent's.
    pub(super) fn of(rest: &[u8]) -> Option<Self> {
        let (name, agent_id) = str::from_utf8(rest).ok()?.split_once(':')?;
        let lower = name.bytes().all(|byte| byte.is_ascii_lowercase());
        let agent_type = agent_type(name).filter(|_| lower)?;
        Some(Self { agent_type, agent_id: agent_id.to_owned() })
    }
}

/// The type of this name, in any case.
pub(super) fn agent_type(name: &str) -> Option<AgentType> {
    AgentType::from_str_name(&name.to_ascii_uppercase())
        .filter(|known| *known != AgentType::Unspecified)
}

/// Its name in keys.
pub(super) fn type_name(agent_type: AgentType) -> String {
    agent_type.as_str_name().to_ascii_lowercase()
}

/// The agent that a document at this place describes, or what is wrong with it. What is not said is left to the
/// registry's defaults, and what nobody asks for is passed over.
pub(super) fn read(place: &Place, document: &[u8]) -> Result<AgentInfo, String> {
    // The parser's own message would quote the document.
    let parsed = serde_json::from_slice(document).map_err(|error| {
        format!("line {}, column {}: it is not JSON", error.line(), error.column())
    })?;
    let Value::Object(fields) = parsed else { return Err("it is no JSON object".to_owned()) };
    let fields = Fields { of: "", fields: &fields };
    let agent_id = fields.text("agent_id")?;
    if !agent_id.eq_ignore_ascii_case(&place.agent_id) {
        return Err("agent_id: it is not the one in the key".to_owned());
    }
    if fields.agent_type()? != place.agent_type {
        return Err("agent_type: it is not the one in the key".to_owned());
    }
    Ok(AgentInfo {
        agent_id,
        agent_type: place.agent_type.into(),
        capabilities: fields.texts("capabilities")?,
        metadata: fields.pairs("metadata")?,
        telemetry: fields.telemetry()?,
        registered_at: fields.integer("registered_at")?,
        last_seen: fields.integer("last_seen")?,
        namespace: fields.text("namespace")?,
        cluster: fields.text("cluster")?,
        version: fields.text("version")?,
        ..AgentInfo::default()
    })
}

/// The fields of an object, by their names in protocol buffers or in its JSON form; `null` is no field.
struct Fields<'a> {
    of: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn field(&self, name: &str) -> Option<&'a Value> {
        let named = self.fields.get(name).or_else(|| self.fields.get(&in_json(name)));
        named.filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, name: &str, what: &str) -> Result<T, String> {
        Err(format!("{}{name}: it must be {what}", self.of))
    }

    fn text(&self, name: &str) -> Result<String, String> {
        match self.field(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => self.wrong(name, "text"),
        }
    }

    /// A 64-bit integer, which JSON of protocol buffers writes as text.
    fn integer(&self, name: &str) -> Result<i64, String> {
        let read = match self.field(name) {
            None => Some(0),
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(digits)) => digits.parse().ok(),
            Some(_) => None,
        };
        read.map_or_else(|| self.wrong(name, "a whole number"), Ok)
    }

    fn number(&self, name: &str) -> Result<f64, String> {
        let read = match self.field(name) {
            None => Some(0.0),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(digits)) => digits.parse().ok(),
            Some(_) => None,
        };
        read.map_or_else(|| self.wrong(name, "a number"), Ok)
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let Some(value) = self.field(name) else { return Ok(Vec::new()) };
        let text = |item: &Value| item.as_str().map(str::to_owned);
        let read = value.as_array().and_then(|items| items.iter().map(text).collect());
        read.map_or_else(|| self.wrong(name, "a list of texts"), Ok)
    }

    fn pairs(&self, name: &str) -> Result<HashMap<String, String>, String> {
        let Some(value) = self.field(name) else { return Ok(HashMap::new()) };
        let pair =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        let read = value.as_object().and_then(|pairs| pairs.iter().map(pair).collect());
        read.map_or_else(|| self.wrong(name, "an object of texts"), Ok)
    }

    fn agent_type(&self) -> Result<AgentType, String> {
        let read = match self.field("agent_type") {
            Some(Value::String(name)) => agent_type(name),
            Some(Value::Number(number)) => number
                .as_i64()
                .and_then(|number| AgentType::try_from(i32::try_from(number).ok()?).ok()),
            _ => None,
        };
        read.map_or_else(|| self.wrong("agent_type", "WORKER, SCOUT, GUARD or ANALYST"), Ok)
    }

    fn telemetry(&self) -> Result<Option<AgentTelemetry>, String> {
        let fields = match self.field("telemetry") {
            None => return Ok(None),
            Some(Value::Object(fields)) => Fields { of: "telemetry.", fields },
            Some(_) => return self.wrong("telemetry", "an object"),
        };
        Ok(Some(AgentTelemetry {
            success_rate: fields.number("success_rate")?,
            avg_duration_ms: fields.integer("avg_duration_ms")?,
            total_executions: fields.integer("total_executions")?,
            failed_executions: fields.integer("failed_executions")?,
            last_execution_at: fields.integer("last_execution_at")?,
        }))
    }
}

/// `agent_id` is `agentId` there.
fn in_json(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |camel, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        camel + &head.to_ascii_uppercase() + tail
    })
}

#[cfg(test)]
mod tests;
