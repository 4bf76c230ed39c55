//! What is taken over, and what is not.

use super::*;
use hive_api::registry::{AgentTelemetry, AgentType};
use std::time::Instant;

const OWNER: &str = "spiffe://example.org/ns/neural-hive-execution/sa/worker-agents";

fn now() -> Now {
    Now { monotonic: Instant::now(), wall_s: 1_000 }
}

fn owners() -> IdPattern {
    IdPattern::parse(&WORKERS.id_pattern("example.org")).expect("a pattern")
}

fn info() -> AgentInfo {
    let telemetry =
        AgentTelemetry { success_rate: 0.4, total_executions: 10, ..AgentTelemetry::default() };
    AgentInfo {
        agent_id: "3b1c9d1e-6f0a-4c55-9f55-0a4f1a2b3c4d".to_owned(),
        agent_type: AgentType::Scout.into(),
        capabilities: vec!["BUILD".to_owned()],
        metadata: [("zone".to_owned(), "a".to_owned())].into(),
        telemetry: Some(telemetry),
        registered_at: 900,
        last_seen: 950,
        namespace: "n".to_owned(),
        cluster: "c".to_owned(),
        version: "v".to_owned(),
        spiffe_id: OWNER.to_owned(),
        ..AgentInfo::default()
    }
}

fn taken(info: AgentInfo) -> Agent {
    read(now(), info, &owners()).expect("it is within bounds")
}

#[test]
fn all_that_an_agent_was_is_kept_and_how_it_stands_follows_from_its_telemetry() {
    let agent = taken(AgentInfo { status: 1, liveness: 3, ..info() });
    let told = agent.info(&agent.pulse, 0);
    let expected = AgentInfo {
        status: told.status,
        liveness: told.liveness,
        schema_version: told.schema_version,
        ..info()
    };
    assert_eq!((told, agent.standing), (expected, Standing::Degraded));
}

#[test]
fn times_that_are_not_told_or_lie_ahead_are_those_of_now() {
    let times = |registered_at, last_seen| {
        let agent = taken(AgentInfo { registered_at, last_seen, ..info() });
        (agent.registered_at, agent.pulse.last_seen)
    };
    assert_eq!(times(900, 950), (900, 950));
    assert_eq!(times(900, 0), (900, 900));
    assert_eq!(times(0, 0), (1_000, 1_000));
    assert_eq!(times(5_000, i64::MAX), (1_000, 1_000));
}

#[test]
fn what_may_not_be_taken_over_is_named() {
    let owned = |spiffe_id: &str| AgentInfo { spiffe_id: spiffe_id.to_owned(), ..info() };
    let called = |agent_id: &str| AgentInfo { agent_id: agent_id.to_owned(), ..info() };
    let table = [
        (owned(""), "spiffe_id: "),
        (owned("worker-agents"), "spiffe_id: "),
        (owned("spiffe://example.org/ns/neural-hive/sa/operator"), "spiffe_id: "),
        (owned(&OWNER.replace("example.org", "elsewhere.org")), "spiffe_id: "),
        (owned(&format!("{OWNER}-evil")), "spiffe_id: "),
        (called("w1"), "agent_id: "),
        (called("00000000-0000-0000-0000-000000000000"), "agent_id: "),
        (called("ffffffff-ffff-ffff-ffff-ffffffffffff"), "agent_id: "),
        (AgentInfo { instance_key: "pod-1".to_owned(), ..info() }, "instance_key: "),
        (AgentInfo { registered_at: -1, ..info() }, "registered_at: "),
        (AgentInfo { last_seen: i64::MIN, ..info() }, "last_seen: "),
        (AgentInfo { capabilities: Vec::new(), ..info() }, "capabilities: "),
        (AgentInfo { agent_type: 0, ..info() }, "agent_type: "),
        (AgentInfo { namespace: "n".repeat(129), ..info() }, "namespace: "),
    ];
    for (info, field) in table {
        let refused = read(now(), info, &owners()).expect_err(field).to_string();
        assert!(refused.starts_with(field), "{refused}");
    }
}
