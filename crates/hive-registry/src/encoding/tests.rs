//! What is written is what the generated code reads.

use super::*;
use crate::agent::tests::agent;
use crate::agent::{AgentId, Standing};
use crate::store::Revision;
use hive_api::registry::{
    AgentInfo, AgentTelemetry, DiscoverAgentsResponse, DiscoverManyResponse, DiscoverResult,
};
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
fn many_answers_have_their_agents_and_their_refusals_in_order() {
    let found = agents();
    let mut results = Results::default();
    assert_eq!(results.found(&found), Ok(()));
    results.refused(&Refused::malformed("max_results", "it is odd").into());
    assert_eq!(results.found(&[]), Ok(()));
    let answer = |agents| DiscoverResult {
        found: Some(DiscoverAgentsResponse { agents, ranked: true, explanations: Vec::new() }),
        ..DiscoverResult::default()
    };
    let refused =
        DiscoverResult { found: None, code: 3, error: "max_results: it is odd".to_owned() };
    let expected = DiscoverManyResponse {
        results: vec![answer(found.iter().map(Known::info).collect()), refused, answer(Vec::new())],
    };
    assert_eq!(DiscoverManyResponse::decode(results.encoded()), Ok(expected));
}

/// An agent as large as may register.
fn large() -> Known {
    let mut large = agents().swap_remove(0);
    let mut agent = agent(Standing::Healthy);
    agent.registration.metadata = [("k".into(), "v".repeat(2_000).into())].into();
    agent.registration.capabilities =
        (10..74).map(|number| format!("{}{number}", "c".repeat(62)).into()).collect();
    agent.owner = format!("spiffe://example.org/{}", "w".repeat(2_000)).into();
    large.agent = Arc::new(agent);
    large
}

#[test]
fn a_page_and_a_ranking_end_where_an_answer_is_full() {
    let found = vec![large(); 500];
    let infos: Vec<AgentInfo> = found.iter().map(Known::info).collect();
    let fit = fitting(&infos);
    assert!((400..500).contains(&fit), "{fit}");
    let encoded = discovered(&found, &[]);
    assert!(encoded.len() <= RESPONSE_BYTES_MAX, "{}", encoded.len());
    let answer = DiscoverAgentsResponse::decode(encoded).expect("it is read");
    assert_eq!(answer.agents, infos[..fit]);
    assert_eq!(fitting(&infos[..3]), 3);
}

#[test]
fn answers_that_do_not_fit_are_refused_one_by_one() {
    let five = vec![large(); 5];
    let mut results = Results::default();
    let answers: Vec<_> = (0..100).map(|_| results.found(&five)).collect();
    let fit = answers.iter().take_while(|answer| answer.is_ok()).count();
    assert!((80..100).contains(&fit), "{fit}");
    for refused in answers.into_iter().skip(fit) {
        let status = Status::from(refused.expect_err("there is no room for it"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        results.refused(&status);
    }
    assert_eq!(results.found(&[]), Ok(()), "a smaller one has room");
    let encoded = results.encoded();
    assert!(encoded.len() <= RESPONSE_BYTES_MAX, "{}", encoded.len());
    let answer = DiscoverManyResponse::decode(encoded).expect("it is read");
    assert_eq!(answer.results.len(), 101);
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
