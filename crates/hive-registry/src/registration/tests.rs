//! Registration, ownership and silence, with the time handed in.

use super::*;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(15);

/// A directory with a clock of its own.
pub(crate) struct World {
    pub(crate) directory: Directory,
    start: Instant,
    elapsed: Duration,
    ids: u128,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = Directory::new(Liveness::new(TIMEOUT));
        Self { directory, start: Instant::now(), elapsed: Duration::ZERO, ids: 0 }
    }

    pub(crate) fn now(&self) -> Now {
        let wall_s = i64::try_from(self.elapsed.as_secs()).expect("a test is shorter than that");
        Now { monotonic: self.start + self.elapsed, wall_s }
    }

    fn pass(&mut self, time: Duration) {
        self.elapsed += time;
    }

    pub(crate) fn register(
        &mut self,
        owner: &SpiffeId,
        request: RegisterRequest,
    ) -> Result<AgentId, Refused> {
        self.ids += 1;
        let (now, id) = (self.now(), AgentId::from_random(self.ids));
        self.directory.register(now, id, owner, request).map(|agent| agent.id)
    }

    fn standing(&self, id: AgentId) -> Option<Standing> {
        self.directory.agent(self.now(), id).map(|(_, standing)| standing).ok()
    }
}

pub(crate) fn worker(name: &str) -> SpiffeId {
    let text = format!("spiffe://example.org/ns/neural-hive-execution/sa/worker-agents/{name}");
    SpiffeId::parse(&text).expect("a valid SPIFFE ID")
}

pub(crate) fn able(capabilities: &[&str]) -> RegisterRequest {
    RegisterRequest {
        agent_type: AgentType::Worker.into(),
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        ..RegisterRequest::default()
    }
}

pub(crate) fn successful(rate: f64) -> AgentTelemetry {
    AgentTelemetry { success_rate: rate, total_executions: 10, ..AgentTelemetry::default() }
}

#[test]
fn an_identifier_is_a_version_4_uuid_and_only_its_canonical_form_is_read() {
    let id = AgentId::from_random(u128::MAX);
    assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(AgentId::parse(&id.to_string()), Ok(id));
    let hostile =
        ["", "w1", "ffffffffffff4fffbfffffffffffffff", "ffffffff-ffff-4fff-bfff-fffffffffff", "+"];
    for text in hostile {
        assert!(matches!(AgentId::parse(text), Err(Refused::Malformed(_))), "{text}");
    }
}

#[test]
fn a_registration_gets_the_defaults_and_is_healthy() {
    let mut world = World::new();
    let id = world.register(&worker("w1"), able(&["BUILD"])).expect("it is well-formed");
    let (agent, standing) = world.directory.agent(world.now(), id).expect("it was registered");
    assert_eq!(standing, Standing::Healthy);
    let labels = &agent.labels;
    assert_eq!(
        (&*labels.namespace, &*labels.cluster, &*labels.version),
        ("default", "local", "1.0.0")
    );
    assert_eq!(agent.info(standing).spiffe_id, worker("w1").to_string());
}

#[test]
fn a_malformed_registration_is_refused_with_what_is_wrong() {
    let mut world = World::new();
    let table = [
        (able(&[]), "capabilities is empty"),
        (able(&[""]), "of 1 to 64 bytes"),
        (RegisterRequest { agent_type: 0, ..able(&["BUILD"]) }, "agent_type is 0"),
        (RegisterRequest { agent_type: 9, ..able(&["BUILD"]) }, "agent_type is 9"),
        (RegisterRequest { namespace: "n".repeat(129), ..able(&["BUILD"]) }, "namespace is longer"),
        (
            RegisterRequest { telemetry: Some(successful(f64::NAN)), ..able(&["BUILD"]) },
            "success_rate",
        ),
        (
            RegisterRequest {
                metadata: [("k".to_owned(), "v".repeat(2_048))].into(),
                ..able(&["BUILD"])
            },
            "metadata has 2049 bytes",
        ),
    ];
    for (request, reason) in table {
        let refused = world.register(&worker("w1"), request).expect_err(reason);
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}

#[test]
fn registering_again_replaces_the_earlier_agent_of_the_same_owner() {
    let mut world = World::new();
    let first = world.register(&worker("w1"), able(&["BUILD"])).expect("the first");
    let second = world.register(&worker("w1"), able(&["BUILD"])).expect("the second");
    assert_eq!(world.standing(first), None);
    assert_eq!(world.standing(second), Some(Standing::Healthy));
    assert_eq!(world.directory.agents(world.now()).count(), 1);
}

#[test]
fn only_the_owner_may_heartbeat_or_deregister() {
    let mut world = World::new();
    let id = world.register(&worker("w1"), able(&["BUILD"])).expect("it is well-formed");
    let now = world.now();
    let heartbeat = world.directory.heartbeat(now, id, &worker("w2"), None);
    assert!(matches!(heartbeat, Err(Refused::NotTheOwner { .. })), "{heartbeat:?}");
    let deregister = world.directory.deregister(now, id, &worker("w2"));
    assert!(matches!(deregister, Err(Refused::NotTheOwner { .. })), "{deregister:?}");
    assert_eq!(world.directory.deregister(now, id, &worker("w1")), Ok(()));
    assert_eq!(world.directory.deregister(now, id, &worker("w1")), Err(Refused::Unknown(id)));
}

#[test]
fn silence_makes_an_agent_unhealthy_and_then_unknown() {
    let mut world = World::new();
    let id = world.register(&worker("w1"), able(&["BUILD"])).expect("it is well-formed");
    world.pass(TIMEOUT - Duration::from_millis(1));
    assert_eq!(world.standing(id), Some(Standing::Healthy));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.standing(id), Some(Standing::Unhealthy));
    assert!(world.directory.sweep(world.now()).is_empty());
    world.pass(3 * TIMEOUT);
    assert_eq!(world.standing(id), None);
    let heartbeat = world.directory.heartbeat(world.now(), id, &worker("w1"), None);
    assert_eq!(heartbeat, Err(Refused::Unknown(id)));
    assert_eq!(world.directory.sweep(world.now()).len(), 1);
}

#[test]
fn a_heartbeat_revives_a_silent_agent() {
    let mut world = World::new();
    let id = world.register(&worker("w1"), able(&["BUILD"])).expect("it is well-formed");
    world.pass(2 * TIMEOUT);
    assert_eq!(world.standing(id), Some(Standing::Unhealthy));
    let standing = world.directory.heartbeat(world.now(), id, &worker("w1"), None);
    assert_eq!(standing, Ok(Standing::Healthy));
}

#[test]
fn telemetry_is_kept_until_newer_telemetry_arrives() {
    let mut world = World::new();
    let id = world.register(&worker("w1"), able(&["BUILD"])).expect("it is well-formed");
    let now = world.now();
    let with = |telemetry| world.directory.heartbeat(now, id, &worker("w1"), telemetry);
    let standings: Vec<_> =
        [None, Some(successful(0.4)), None, Some(successful(0.1))].map(with).into();
    assert_eq!(
        standings,
        [
            Ok(Standing::Healthy),
            Ok(Standing::Degraded),
            Ok(Standing::Degraded),
            Ok(Standing::Unhealthy)
        ]
    );
}

#[test]
fn a_full_directory_refuses_newcomers_but_not_restarts() {
    let mut world = World::new();
    for number in 0..MAX_AGENTS {
        world.register(&worker(&format!("w{number}")), able(&["BUILD"])).expect("there is room");
    }
    assert_eq!(world.register(&worker("late"), able(&["BUILD"])), Err(Refused::Full));
    assert!(world.register(&worker("w1"), able(&["BUILD"])).is_ok());
}
