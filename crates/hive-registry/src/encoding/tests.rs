//! What is written is what the generated code reads.

use super::*;
use crate::agent::tests::agent;
use crate::agent::{AgentId, Standing};
use crate::store::Revision;
use hive_api::registry::{AgentInfo, AgentTelemetry, DiscoverAgentsResponse};
use std::sync::Arc;

/// Agents with much, with nothing, and with what is hard to write.
fn agents() -> Vec<Known> {
    let full = agent(Standing::Healthy);
    let mut empty =
        Agent { id: AgentId::from_random(0), registered_at: 0, ..agent(Standing::Dead) };
    empty.registration.instance_key = "".into();
    empty.registration.capabilities = [].into();
    empty.registration.metadata = [].into();
    empty.registration.namespace = "".into();
    empty.registration.cluster = "".into();
    empty.registration.version = "".into();
    empty.pulse = Pulse::default();
    let mut hard = Agent { registered_at: -1, ..agent(Standing::Suspect) };
    hard.registration.metadata =
        [("empty".into(), "".into()), ("long".into(), "ü".repeat(300).into())].into();
    hard.registration.instance_key = "k".repeat(128).into();
    hard.pulse = Pulse { last_seen: i64::MIN, telemetry: Some(AgentTelemetry::default()) };
    let known = |agent: Agent| Known {
        pulse: agent.pulse,
        agent: Arc::new(agent),
        revision: Revision(u64::MAX),
    };
    [full, empty, hard].map(known).into()
}

#[test]
fn an_agent_is_read_as_it_was_written() {
    for known in agents() {
        let mut encoded = Vec::new();
        info(&known.agent, &known.pulse, known.revision.0, &mut encoded);
        assert_eq!(AgentInfo::decode(&*encoded), Ok(known.info()));
        assert_eq!(encoded.len(), known.info().encoded_len(), "and no byte more");
    }
}

#[test]
fn an_answer_has_its_agents_in_order_and_its_explanations() {
    let explanation =
        Explanation { agent_id: "a".into(), score: 0.5, why_not: "x".into(), ..Default::default() };
    let found = agents();
    let answer =
        DiscoverAgentsResponse::decode(discovered(&found, std::slice::from_ref(&explanation)));
    let expected = DiscoverAgentsResponse {
        agents: found.iter().map(Known::info).collect(),
        ranked: true,
        explanations: vec![explanation],
    };
    assert_eq!(answer, Ok(expected));
}

#[test]
fn an_event_has_its_agent() {
    for known in agents() {
        let told = AgentChangeEvent {
            event_type: 3,
            timestamp: 9,
            revision: 8,
            snapshot: true,
            ..AgentChangeEvent::default()
        };
        let encoded = event(&told, &known.agent, &known.pulse, known.revision.0);
        let expected = AgentChangeEvent { agent: Some(known.info()), ..told };
        assert_eq!(AgentChangeEvent::decode(encoded), Ok(expected));
    }
}
