//! What a stranger may say, and how much of it. Every refusal names the field.

use crate::agent::{AgentId, Pairs, Registration, sorted};
use hive_api::registry::{AgentTelemetry, AgentType, RegisterRequest};
use std::collections::HashMap;

/// Agents at most: each takes about a kilobyte of memory here, and a few in messages.
pub(crate) const AGENTS_MAX: usize = 200_000;
/// Agents of one owner at most: half, so that one identity gone mad leaves room for all others.
pub(crate) const AGENTS_OF_OWNER_MAX: usize = AGENTS_MAX / 2;
/// Capabilities of one agent at most, and bytes of one: there are eight kinds of tickets, and room for tags.
const CAPABILITIES_MAX: usize = 64;
const CAPABILITY_BYTES_MAX: usize = 64;
/// Pairs of metadata, bytes of a name, and bytes of all of it: labels, not documents.
const METADATA_MAX: usize = 64;
const METADATA_NAME_BYTES_MAX: usize = 64;
const METADATA_BYTES_MAX: usize = 2_048;
/// Bytes of a namespace, cluster, version or instance key.
const LABEL_BYTES_MAX: usize = 128;
/// Bytes of a notification's type and message: a signal, not a payload.
const NOTIFICATION_TYPE_BYTES_MAX: usize = 64;
const NOTIFICATION_BYTES_MAX: usize = 16 * 1024;
/// Signs that separate nothing anywhere; a capability is made of these, letters and digits.
const CAPABILITY_SIGNS: &str = "-_.:+@";

/// Why a call was refused. The text says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Full(String),
    #[error("{field}: {reason}")]
    Malformed { field: String, reason: String },
    #[error("agent {agent} belongs to {owner}, not to {caller}; register an agent of your own")]
    NotTheOwner { agent: AgentId, owner: String, caller: String },
    /// The predecessor's workers register again when they read its words for "not found".
    #[error("no agent {0} is registered (não encontrado); register again")]
    Unknown(AgentId),
}

impl Refused {
    pub(crate) fn malformed(field: &str, reason: impl Into<String>) -> Self {
        Self::Malformed { field: field.to_owned(), reason: reason.into() }
    }
}

/// The beginning of a stranger's text: an error message travels in a header of bounded size.
pub(crate) fn excerpt(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

/// A registration whose every field is within bounds.
pub(crate) fn registration(request: RegisterRequest) -> Result<Registration, Refused> {
    telemetry(request.telemetry.as_ref())?;
    if request.capabilities.is_empty() {
        return Err(Refused::malformed("capabilities", "it is empty; name at least one"));
    }
    Ok(Registration {
        agent_type: some_agent_type("agent_type", request.agent_type)?.ok_or_else(|| {
            Refused::malformed(
                "agent_type",
                "0 is no type; use 1 (WORKER), 2 (SCOUT), 3 (GUARD) or 4 (ANALYST)",
            )
        })?,
        capabilities: capabilities("capabilities", request.capabilities)?,
        metadata: metadata("metadata", request.metadata)?,
        namespace: label("namespace", request.namespace, "default")?,
        cluster: label("cluster", request.cluster, "local")?,
        version: label("version", request.version, "1.0.0")?,
        instance_key: label("instance_key", request.instance_key, "")?,
    })
}

/// The type that a number means; 0 is none.
pub(crate) fn some_agent_type(field: &str, number: i32) -> Result<Option<AgentType>, Refused> {
    match AgentType::try_from(number) {
        Ok(AgentType::Unspecified) => Ok(None),
        Ok(known) => Ok(Some(known)),
        Err(_) => Err(Refused::malformed(
            field,
            format!("{number} is no type; use 1 (WORKER), 2 (SCOUT), 3 (GUARD) or 4 (ANALYST)"),
        )),
    }
}

/// Names of capabilities, sorted.
pub(crate) fn capabilities(field: &str, names: Vec<String>) -> Result<Box<[Box<str>]>, Refused> {
    if names.len() > CAPABILITIES_MAX {
        let reason = format!("{} are too many; at most {CAPABILITIES_MAX} are kept", names.len());
        return Err(Refused::malformed(field, reason));
    }
    names.iter().try_for_each(|name| capability(field, name))?;
    Ok(sorted(names.into_iter().map(Into::into)))
}

fn capability(field: &str, name: &str) -> Result<(), Refused> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || CAPABILITY_SIGNS.contains(c);
    let reason = match name.len() {
        1..=CAPABILITY_BYTES_MAX if name.chars().all(allowed) => return Ok(()),
        1..=CAPABILITY_BYTES_MAX => {
            format!("must be letters, digits and any of {CAPABILITY_SIGNS}")
        }
        _ => format!("must have 1 to {CAPABILITY_BYTES_MAX} bytes"),
    };
    Err(Refused::malformed(field, format!("{} {reason}", excerpt(name))))
}

/// Pairs, sorted by name.
pub(crate) fn metadata(field: &str, pairs: HashMap<String, String>) -> Result<Pairs, Refused> {
    let wrong = |reason: String| Err(Refused::malformed(field, reason));
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return wrong(format!("it has {bytes} bytes; at most {METADATA_BYTES_MAX} are kept"));
    }
    if pairs.len() > METADATA_MAX {
        return wrong(format!(
            "{} pairs are too many; at most {METADATA_MAX} are kept",
            pairs.len()
        ));
    }
    for (name, value) in &pairs {
        if !(1..=METADATA_NAME_BYTES_MAX).contains(&name.len()) {
            return wrong(format!("a name must have 1 to {METADATA_NAME_BYTES_MAX} bytes"));
        }
        printable(field, name)?;
        printable(field, value)?;
    }
    Ok(sorted(pairs.into_iter().map(|(name, value)| (name.into(), value.into()))))
}

/// What an agent may say of its work.
pub(crate) fn telemetry(telemetry: Option<&AgentTelemetry>) -> Result<(), Refused> {
    let Some(told) = telemetry else { return Ok(()) };
    // NaN is in no range, so it is refused here and never reaches a comparison.
    if !(0.0..=1.0).contains(&told.success_rate) {
        return Err(Refused::malformed("telemetry.success_rate", "it must be between 0 and 1"));
    }
    let counts = [
        ("telemetry.avg_duration_ms", told.avg_duration_ms),
        ("telemetry.total_executions", told.total_executions),
        ("telemetry.failed_executions", told.failed_executions),
        ("telemetry.last_execution_at", told.last_execution_at),
    ];
    if let Some((field, count)) = counts.into_iter().find(|(_, count)| *count < 0) {
        return Err(Refused::malformed(field, format!("{count} is negative")));
    }
    if told.failed_executions > told.total_executions {
        let reason = "more executions failed than there were";
        return Err(Refused::malformed("telemetry.failed_executions", reason));
    }
    Ok(())
}

/// A short name, or the default in place of an empty one.
pub(crate) fn label(field: &str, value: String, default: &str) -> Result<Box<str>, Refused> {
    match value.len() {
        0 => Ok(default.into()),
        1..=LABEL_BYTES_MAX => printable(field, &value).map(|()| value.into()),
        bytes => Err(Refused::malformed(
            field,
            format!("it has {bytes} bytes; at most {LABEL_BYTES_MAX} are kept"),
        )),
    }
}

/// What may be sent to an agent.
pub(crate) fn notification(notification_type: &str, message: &str) -> Result<(), Refused> {
    let bytes = notification_type.len();
    if !(1..=NOTIFICATION_TYPE_BYTES_MAX).contains(&bytes) {
        let reason = format!("it must have 1 to {NOTIFICATION_TYPE_BYTES_MAX} bytes");
        return Err(Refused::malformed("notification_type", reason));
    }
    printable("notification_type", notification_type)?;
    if message.len() > NOTIFICATION_BYTES_MAX {
        let reason =
            format!("it has {} bytes; at most {NOTIFICATION_BYTES_MAX} are sent", message.len());
        return Err(Refused::malformed("message", reason));
    }
    Ok(())
}

/// A terminal or a log shows these texts, and must not be driven by them.
fn printable(field: &str, text: &str) -> Result<(), Refused> {
    if text.chars().any(char::is_control) {
        return Err(Refused::malformed(field, format!("{} has control characters", excerpt(text))));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
