//! Agents in the contract's encoding, written straight from what the registry holds: a question is answered thousands
//! of times a second, and each message in between would be dozens of small allocations.

use crate::agent::{Agent, Pulse};
use crate::bounds::Refused;
use crate::directory::Known;
use crate::wire::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use hive_api::registry::{AgentChangeEvent, AgentInfo, Explanation};
use prost::bytes::{BufMut, Bytes};
use prost::{Message, length_delimiter_len};
use tonic::Status;

/// The wire types of Protocol Buffers that occur here.
const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;
/// What the answers of one call may fill; a refusal, which quotes little of its question, always finds room beside them.
const FOUND_BYTES_MAX: usize = RESPONSE_BYTES_MAX - REQUEST_BYTES_MAX;

/// `DiscoverAgentsResponse`, ranked: of those found, as many as fit, the best first.
pub(crate) fn discovered(found: &[Known], explanations: &[Explanation]) -> Bytes {
    let mut answer = Vec::with_capacity(512 * found.len());
    let mut agent = Vec::with_capacity(512);
    for known in found {
        agent.clear();
        info(&known.agent, &known.pulse, known.revision.0, &mut agent);
        if answer.len() + field_len_of(agent.len()) > FOUND_BYTES_MAX {
            break;
        }
        bytes(1, &agent, &mut answer);
    }
    number(2, 1, &mut answer);
    for explanation in explanations {
        bytes(3, &explanation.encode_to_vec(), &mut answer);
    }
    answer.into()
}

/// How many of these fit into one answer, from the first.
pub(crate) fn fitting(agents: &[AgentInfo]) -> usize {
    let mut room = FOUND_BYTES_MAX;
    let fits = |agent: &&AgentInfo| {
        let left = room.checked_sub(field_len_of(agent.encoded_len()));
        room = left.unwrap_or_default();
        left.is_some()
    };
    agents.iter().take_while(fits).count()
}

/// `DiscoverManyResponse`, result by result.
#[derive(Debug, Default)]
pub(crate) struct Results(Vec<u8>);

impl Results {
    /// The next question is answered. Refused if that does not fit.
    pub(crate) fn found(&mut self, found: &[Known]) -> Result<(), Refused> {
        let found = discovered(found, &[]);
        if self.0.len() + found.len() > FOUND_BYTES_MAX {
            let reason =
                "the agents found do not fit into this answer; ask for fewer, or in another call";
            return Err(Refused::Full(reason.to_owned()));
        }
        key(1, LENGTH_DELIMITED, &mut self.0);
        varint(field_len_of(found.len()) as u64, &mut self.0);
        bytes(1, &found, &mut self.0);
        Ok(())
    }

    /// The next question is refused.
    pub(crate) fn refused(&mut self, status: &Status) {
        let mut result = Vec::new();
        number(2, i64::from(status.code() as i32), &mut result);
        text(3, status.message(), &mut result);
        bytes(1, &result, &mut self.0);
    }

    pub(crate) fn encoded(self) -> Bytes {
        self.0.into()
    }
}

/// `AgentChangeEvent` of an agent that has this pulse and revision.
pub(crate) fn event(
    event: &AgentChangeEvent,
    agent: &Agent,
    pulse: &Pulse,
    revision: u64,
) -> Bytes {
    let mut of_agent = Vec::with_capacity(512);
    info(agent, pulse, revision, &mut of_agent);
    let mut encoded = Vec::with_capacity(of_agent.len() + event.encoded_len() + 4);
    bytes(2, &of_agent, &mut encoded);
    // The order of fields means nothing.
    encoded.extend(event.encode_to_vec());
    encoded.into()
}

/// `AgentInfo`: what [`Agent::info`] makes, encoded.
pub(crate) fn info(agent: &Agent, pulse: &Pulse, revision: u64, to: &mut Vec<u8>) {
    let told = &agent.registration;
    bytes(1, &agent.id.text(), to);
    number(2, i64::from(i32::from(told.agent_type)), to);
    for name in &told.capabilities {
        bytes(3, name.as_bytes(), to);
    }
    for (name, value) in &told.metadata {
        let length = field_len(name) + field_len(value);
        key(4, LENGTH_DELIMITED, to);
        varint(length as u64, to);
        text(1, name, to);
        text(2, value, to);
    }
    if let Some(telemetry) = pulse.telemetry {
        bytes(5, &telemetry.encode_to_vec(), to);
    }
    number(6, i64::from(i32::from(agent.standing.status())), to);
    number(7, agent.registered_at, to);
    number(8, pulse.last_seen, to);
    text(9, &told.namespace, to);
    text(10, &told.cluster, to);
    text(11, &told.version, to);
    number(12, i64::from(crate::agent::SCHEMA_VERSION), to);
    text(13, &agent.owner, to);
    number(14, i64::from(i32::from(agent.standing.liveness())), to);
    number(15, revision.cast_signed(), to);
    text(16, &told.instance_key, to);
}

/// A string that is absent when it is empty.
fn text(field: u32, text: &str, to: &mut Vec<u8>) {
    if !text.is_empty() {
        bytes(field, text.as_bytes(), to);
    }
}

/// How long such a string with a field number below 16 is.
fn field_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { field_len_of(text.len()) }
}

/// How long a field with a number below 16 is that contains so many bytes.
fn field_len_of(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

fn bytes(field: u32, bytes: &[u8], to: &mut Vec<u8>) {
    key(field, LENGTH_DELIMITED, to);
    varint(bytes.len() as u64, to);
    to.put_slice(bytes);
}

/// A number that is absent when it is 0. Negative ones are written as the 64 bits that they are.
fn number(field: u32, number: i64, to: &mut Vec<u8>) {
    if number != 0 {
        key(field, VARINT, to);
        varint(number.cast_unsigned(), to);
    }
}

fn key(field: u32, wire_type: u32, to: &mut Vec<u8>) {
    varint(u64::from((field << 3) | wire_type), to);
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push((number as u8) | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[cfg(test)]
mod tests;
