//! Identifiers, and what the store keeps.

use super::*;

pub(crate) fn agent(standing: Standing) -> Agent {
    let telemetry = AgentTelemetry { success_rate: 0.7, total_executions: 3, ..Default::default() };
    Agent {
        id: AgentId::from_random(7),
        owner: "spiffe://example.org/w".into(),
        registration: Registration {
            instance_key: "pod-1".into(),
            agent_type: AgentType::Scout,
            capabilities: ["BUILD".into(), "TEST".into()].into(),
            metadata: [("zone".into(), "a".into())].into(),
            namespace: "n".into(),
            cluster: "c".into(),
            version: "1".into(),
        },
        registered_at: 11,
        standing,
        pulse: Pulse { last_seen: 12, telemetry: Some(telemetry) },
        home: ReplicaId::new("r1"),
        cause: EventType::Updated,
    }
}

#[test]
fn only_the_canonical_form_of_an_identifier_is_read() {
    let id = AgentId::from_random(u128::MAX);
    assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(AgentId::parse("agent_id", &id.to_string()), Ok(id));
    let hostile =
        ["", "w1", "ffffffffffff4fffbfffffffffffffff", "ffffffff-ffff-4fff-bfff-fffffffffff", "+"];
    for text in hostile {
        let refused = AgentId::parse("agent_id", text).expect_err(text);
        assert!(refused.to_string().starts_with("agent_id: "), "{refused}");
    }
}

#[test]
fn an_instance_has_the_same_identifier_everywhere_and_nobody_else_has_it() {
    let id = AgentId::of_instance("spiffe://example.org/w", "pod-1");
    // Written down: a replica of another version must find the same.
    assert_eq!(id.to_string(), "d8220ab6-18f5-8760-98c4-4855d2748e1b");
    let others = [("spiffe://example.org/w", "pod-2"), ("spiffe://example.org/v", "pod-1")];
    for (owner, key) in others {
        assert_ne!(AgentId::of_instance(owner, key), id);
    }
}

#[test]
fn a_record_survives_the_store_whatever_its_standing() {
    use Standing::{Dead, Degraded, Healthy, Suspect, Unhealthy};
    for standing in [Healthy, Degraded, Unhealthy, Suspect, Dead] {
        let agent = agent(standing);
        assert_eq!(Agent::decode(&agent.encode()), Ok(agent));
    }
}

#[test]
fn what_is_no_record_is_said_to_be_none() {
    assert!(Agent::decode(b"").is_err());
    assert!(Agent::decode(b"\xff\xff\xff").is_err());
    let whole = agent(Standing::Healthy).encode();
    assert!(Agent::decode(&whole[..whole.len() / 2]).is_err());
}

#[test]
fn success_decides_between_healthy_degraded_and_unhealthy() {
    let table = [
        (1.0, Standing::Healthy),
        (0.5, Standing::Healthy),
        (0.49, Standing::Degraded),
        (0.3, Standing::Degraded),
        (0.29, Standing::Unhealthy),
        (0.0, Standing::Unhealthy),
    ];
    for (rate, standing) in table {
        assert_eq!(Standing::by_success(rate), standing, "{rate}");
    }
}

const STANDINGS: [Standing; 5] =
    [Standing::Healthy, Standing::Degraded, Standing::Unhealthy, Standing::Suspect, Standing::Dead];

#[test]
fn a_standing_falls_at_once_and_rises_with_a_margin() {
    use Standing::{Dead, Degraded, Healthy, Suspect, Unhealthy};
    let table = [
        (Healthy, 0.5, Healthy),
        (Healthy, 0.49, Degraded),
        (Healthy, 0.29, Unhealthy),
        (Degraded, 0.54, Degraded),
        (Degraded, 0.55, Healthy),
        (Degraded, 0.29, Unhealthy),
        (Unhealthy, 0.34, Unhealthy),
        (Unhealthy, 0.35, Degraded),
        (Unhealthy, 0.54, Degraded),
        (Unhealthy, 0.55, Healthy),
        (Suspect, 0.5, Healthy),
        (Dead, 0.34, Degraded),
    ];
    for (before, rate, now) in table {
        assert_eq!(before.after(rate), now, "{before:?} at {rate}");
    }
}

#[test]
fn a_standing_settles_at_once_and_never_flaps_within_the_margin() {
    for thousandth in 0..=1_000 {
        let rate = f64::from(thousandth) / 1_000.0;
        for before in STANDINGS {
            let now = before.after(rate);
            assert_eq!(now.after(rate), now, "the same again changes nothing");
            // What was said before is as good, or as bad, as what follows from it without it, or one step behind.
            assert!(now >= Standing::by_success(rate) && now <= Standing::by_success(rate - 0.051));
        }
        // However it goes up and down within four hundredths, it changes twice at most: down, or up, and no way back.
        for before in STANDINGS {
            let mut changes = 0;
            let mut standing = before;
            for step in [0.0, 0.04, 0.01, 0.03, 0.0, 0.02, 0.04, 0.0] {
                let next = standing.after(rate + step);
                changes += usize::from(next != standing);
                standing = next;
            }
            assert!(changes <= 2, "{before:?} at {rate} changes {changes} times");
        }
    }
}
