//! A replica without a store: what it wants written is folded by hand.

use super::*;
use crate::filter::Filter;
use hive_api::registry::RegisterRequest;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(15);
const OWNER: &str = "spiffe://example.org/w1";

/// One replica with a store that accepts everything, and a clock of its own.
struct World {
    replica: Replica,
    start: Instant,
    elapsed: Duration,
    revision: u64,
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let rules = Rules::new(TIMEOUT, Duration::from_secs(300));
        let mut replica = Replica::new(start, ReplicaId::new("r1"), rules, 1_000);
        let now = Now { monotonic: start, wall_s: 0 };
        replica.begin_snapshot();
        let replicas = [ReplicaId::new("r1"), ReplicaId::new("r2")].into();
        replica.fold(now, FeedItem::Replicas(replicas)).expect("it is well-formed");
        replica.fold(now, FeedItem::InSync { revision: Revision(0) }).expect("it is well-formed");
        Self { replica, start, elapsed: Duration::ZERO, revision: 0 }
    }

    fn now(&self) -> Now {
        let wall_s = i64::try_from(self.elapsed.as_secs()).expect("a test is shorter than that");
        Now { monotonic: self.start + self.elapsed, wall_s }
    }

    fn accept(&mut self, change: Change) {
        self.revision += 1;
        let revision = Revision(self.revision);
        let item = match change {
            Change::Delete { id, .. } => {
                FeedItem::Delete { id, last: Default::default(), revision }
            }
            Change::Put { id, value, .. } => FeedItem::Put { id, value, revision },
        };
        self.replica.fold(self.now(), item).expect("it is what the replica wrote");
    }

    fn register(&mut self, owner: &str, key: &str) -> Result<AgentId, Refused> {
        let id = AgentId::of_instance(owner, key);
        let registration = bounds::registration(able(key))?;
        let now = self.now();
        match self.replica.register(now, owner, id, registration, None)? {
            Registering::Same { .. } => {}
            Registering::Write { change, .. } => self.accept(change),
        }
        Ok(id)
    }

    /// Time passes, and what follows is written.
    fn pass(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.elapsed < end {
            self.elapsed += Duration::from_millis(500).min(end - self.elapsed);
            self.replica.handle_timeout(self.now());
            self.settle();
        }
    }

    fn settle(&mut self) {
        let told = self.replica.is_restless();
        while let Some(act) = self.replica.poll_act() {
            assert!(told, "nobody would have asked for {act:?}");
            if let Act::Write { id, change, .. } = act {
                self.accept(change);
                self.replica.written(id, Written::Made);
            }
        }
    }

    fn heartbeat(&mut self, id: AgentId, rate: Option<f64>) -> Result<Standing, Refused> {
        let telemetry = rate.map(|success_rate| AgentTelemetry {
            success_rate,
            total_executions: 10,
            ..AgentTelemetry::default()
        });
        let (_, stands) = self.replica.heartbeat(self.now(), OWNER, id, telemetry)?;
        self.settle();
        Ok(stands)
    }

    fn standing(&self, id: AgentId) -> Option<Standing> {
        self.replica.directory().agent(id).map(|known| known.agent.standing)
    }

    fn offered(&self) -> usize {
        self.replica.directory().discover(&Filter::default(), 5, 0).best.len()
    }
}

fn able(key: &str) -> RegisterRequest {
    RegisterRequest {
        agent_type: AgentType::Worker.into(),
        capabilities: vec!["BUILD".to_owned()],
        instance_key: key.to_owned(),
        ..RegisterRequest::default()
    }
}

#[test]
fn many_agents_can_have_one_owner_and_registering_again_writes_nothing() {
    let mut world = World::new();
    let first = world.register(OWNER, "a").expect("it is well-formed");
    let second = world.register(OWNER, "b").expect("it is well-formed");
    assert_ne!(first, second);
    assert_eq!(world.register(OWNER, "a"), Ok(first));
    assert_eq!((world.revision, world.replica.directory().len()), (2, 2));
}

#[test]
fn only_the_owner_may_heartbeat_or_deregister() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    let now = world.now();
    let heartbeat = world.replica.heartbeat(now, "spiffe://example.org/w2", id, None);
    assert!(matches!(heartbeat, Err(Refused::NotTheOwner { .. })), "{heartbeat:?}");
    let deregister = world.replica.deregister("spiffe://example.org/w2", id);
    assert!(matches!(deregister, Err(Refused::NotTheOwner { .. })), "{deregister:?}");
    let change = world.replica.deregister(OWNER, id).expect("it is its own");
    world.accept(change);
    assert_eq!(world.replica.deregister(OWNER, id), Err(Refused::Unknown(id)));
}

#[test]
fn the_silent_are_offered_while_suspect_and_not_once_dead_and_then_forgotten() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    world.pass(TIMEOUT - Duration::from_secs(1));
    assert_eq!((world.standing(id), world.offered()), (Some(Standing::Suspect), 1));
    world.pass(Duration::from_secs(1));
    assert_eq!((world.standing(id), world.offered()), (Some(Standing::Dead), 0));
    world.pass(TIMEOUT * 3);
    assert_eq!(world.standing(id), None);
    assert_eq!(world.heartbeat(id, None), Err(Refused::Unknown(id)));
}

#[test]
fn an_imported_agent_has_its_grace_and_lives_if_its_owner_heartbeats() {
    for heartbeats in [false, true] {
        let mut world = World::new();
        let agent = imported(OWNER);
        let id = agent.id;
        let change = world.replica.import(agent).expect("there is room").expect("it is new");
        world.accept(change);
        let known = world.replica.directory().agent(id).expect("it is known");
        assert_eq!((known.agent.home.as_str(), known.agent.registered_at), ("r1", 11));
        world.pass(TIMEOUT / 2);
        assert_eq!(world.standing(id), Some(Standing::Healthy));
        if heartbeats {
            world.heartbeat(id, None).expect("it is its own");
        }
        world.pass(TIMEOUT / 2 + Duration::from_secs(1));
        let expected = if heartbeats { Standing::Healthy } else { Standing::Dead };
        assert_eq!(world.standing(id), Some(expected));
    }
}

#[test]
fn an_import_changes_nothing_of_what_is_known() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    let same = world.replica.import(Agent { id, ..imported(OWNER) });
    assert_eq!(same, Ok(None));
    let stolen = world.replica.import(Agent { id, ..imported("spiffe://example.org/w2") });
    let refused = stolen.expect_err("it is somebody else's").to_string();
    assert!(refused.starts_with("spiffe_id: ") && refused.contains(OWNER), "{refused}");
    // Another replica may know it already, which this one has not heard.
    let change = world.replica.import(imported(OWNER)).expect("there is room").expect("it is new");
    assert!(matches!(change, Change::Put { expected: Expected::Absent, .. }), "{change:?}");
}

fn imported(owner: &str) -> Agent {
    let agent = crate::agent::tests::agent(Standing::Healthy);
    Agent { owner: owner.into(), home: ReplicaId::new(""), ..agent }
}

#[test]
fn a_heartbeat_brings_back_the_dead() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    world.pass(TIMEOUT * 2);
    assert_eq!(world.offered(), 0);
    assert_eq!(world.heartbeat(id, None), Ok(Standing::Healthy));
    assert_eq!((world.standing(id), world.offered()), (Some(Standing::Healthy), 1));
}

#[test]
fn registering_again_brings_back_the_dead() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    world.pass(TIMEOUT * 2);
    assert_eq!(world.register(OWNER, "a"), Ok(id));
    world.settle();
    assert_eq!((world.standing(id), world.offered()), (Some(Standing::Healthy), 1));
    world.pass(Duration::from_secs(9));
    assert_eq!(world.standing(id), Some(Standing::Healthy));
}

#[test]
fn heartbeats_write_only_what_changes_a_standing() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    let mut revisions = Vec::new();
    for rate in [None, Some(0.9), Some(0.8), Some(0.4), Some(0.35), Some(0.1), None, Some(0.9)] {
        world.heartbeat(id, rate).expect("it is known");
        revisions.push(world.revision);
    }
    assert_eq!(revisions, [1, 1, 1, 2, 2, 3, 3, 4]);
    assert_eq!(world.standing(id), Some(Standing::Healthy));
}

#[test]
fn a_rate_that_flaps_around_a_threshold_is_written_once() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    for _ in 0..20 {
        for rate in [0.51, 0.49] {
            let said = world.heartbeat(id, Some(rate)).expect("it is known");
            assert_eq!(Some(said), world.standing(id), "it is told as it is recorded");
        }
    }
    assert_eq!((world.revision, world.standing(id)), (2, Some(Standing::Degraded)));
}

#[test]
fn an_agent_that_heartbeats_here_moves_here_and_one_that_lives_elsewhere_is_not_judged() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    let mut moved = (*world.replica.directory().agent(id).expect("known").agent).clone();
    moved.home = ReplicaId::new("r2");
    world.accept(Change::Put { id, value: moved.encode(), expected: Expected::Any });
    world.pass(TIMEOUT * 10);
    assert_eq!(world.standing(id), Some(Standing::Healthy));
    world.heartbeat(id, None).expect("it is known");
    world.pass(TIMEOUT);
    assert_eq!(world.standing(id), Some(Standing::Dead));
}

#[test]
fn the_agents_of_a_replica_that_is_gone_have_their_grace_and_are_judged_here() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    let mut moved = (*world.replica.directory().agent(id).expect("known").agent).clone();
    moved.home = ReplicaId::new("r2");
    world.accept(Change::Put { id, value: moved.encode(), expected: Expected::Any });
    world.pass(TIMEOUT * 10);
    let alone = FeedItem::Replicas([ReplicaId::new("r1")].into());
    world.replica.fold(world.now(), alone).expect("it is well-formed");
    world.pass(TIMEOUT - Duration::from_secs(1));
    assert_eq!(world.standing(id), Some(Standing::Suspect));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.standing(id), Some(Standing::Dead));
}

#[test]
fn what_a_new_snapshot_does_not_tell_is_gone_and_every_watch_begins_anew() {
    let mut world = World::new();
    let first = world.register(OWNER, "a").expect("it is well-formed");
    let second = world.register(OWNER, "b").expect("it is well-formed");
    let log = world.replica.log();
    let mut cursor = log.read().expect("no panic").cursor(Revision(2));
    let kept = world.replica.directory().agent(second).expect("known").agent.encode();
    world.replica.begin_snapshot();
    let now = world.now();
    let put = FeedItem::Put { id: second, value: kept, revision: Revision(9) };
    world.replica.fold(now, put).expect("it is well-formed");
    assert_eq!(world.replica.directory().len(), 2, "nothing is gone before the snapshot ends");
    let synced = FeedItem::InSync { revision: Revision(12) };
    world.replica.fold(now, synced).expect("it is well-formed");
    assert_eq!((world.standing(first), world.replica.directory().len()), (None, 1));
    let lost = log.read().expect("no panic").read(&mut cursor, 10, |_| {});
    assert_eq!(lost, Err(crate::watch::Lost::Reset));
}

#[test]
fn a_record_that_cannot_be_read_is_passed_over() {
    let mut world = World::new();
    let id = AgentId::from_random(1);
    let put = FeedItem::Put { id, value: b"nonsense".as_slice().into(), revision: Revision(1) };
    assert!(world.replica.fold(world.now(), put).is_err());
    assert_eq!(world.replica.directory().len(), 0);
    world.register(OWNER, "a").expect("others are read");
}

#[test]
fn one_owner_cannot_fill_the_registry() {
    assert_eq!(has_room(AGENTS_OF_OWNER_MAX, AGENTS_OF_OWNER_MAX - 1), Ok(()));
    assert!(has_room(AGENTS_OF_OWNER_MAX, AGENTS_OF_OWNER_MAX).is_err());
    assert_eq!(has_room(AGENTS_MAX - 1, 0), Ok(()));
    assert!(has_room(AGENTS_MAX, 0).is_err());
    let mut world = World::new();
    world.register(OWNER, "a").expect("there is room");
    assert_eq!(world.replica.directory().owned_by(OWNER), 1);
}

#[test]
fn a_change_that_could_not_be_written_is_decided_again() {
    let mut world = World::new();
    let id = world.register(OWNER, "a").expect("it is well-formed");
    world.elapsed += TIMEOUT / 4;
    let mut decided = 0;
    // The store refuses everything for a while.
    for _ in 0..40 {
        world.elapsed += Duration::from_millis(500);
        world.replica.handle_timeout(world.now());
        while let Some(act) = world.replica.poll_act() {
            let Act::Write { id, .. } = act else { continue };
            world.replica.written(id, Written::Unknown);
            decided += 1;
        }
    }
    assert!(decided > 2, "suspect, dead, and again: {decided}");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.standing(id), Some(Standing::Dead));
}

#[test]
fn a_heartbeat_that_comes_while_a_change_is_written_is_recorded_after_it() {
    for fold_first in [true, false] {
        let mut world = World::new();
        let id = world.register(OWNER, "a").expect("it is well-formed");
        let poor = AgentTelemetry { total_executions: 9, ..AgentTelemetry::default() };
        let good = AgentTelemetry { success_rate: 1.0, ..poor };
        world.replica.heartbeat(world.now(), OWNER, id, Some(poor)).expect("it is known");
        let Some(Act::Write { change, .. }) = world.replica.poll_act() else { panic!("a write") };
        world.replica.heartbeat(world.now(), OWNER, id, Some(good)).expect("it is known");
        assert!(world.replica.poll_act().is_none(), "one at a time");
        if fold_first {
            world.accept(change);
            world.replica.written(id, Written::Made);
        } else {
            world.replica.written(id, Written::Made);
            world.accept(change);
        }
        world.settle();
        assert_eq!(world.standing(id), Some(Standing::Healthy));
    }
}
