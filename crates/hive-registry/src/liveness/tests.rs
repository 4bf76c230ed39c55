//! Silence, with the time handed in.

use super::*;

const S: Duration = Duration::from_secs(1);

/// A machine with its own clock, whose decisions are noted.
struct World {
    liveness: Liveness,
    start: Instant,
    elapsed: Duration,
    decided: Vec<Decision>,
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let liveness = Liveness::new(start, Rules::new(15 * S, 300 * S));
        Self { liveness, start, elapsed: Duration::ZERO, decided: Vec::new() }
    }

    fn with(agents: u128) -> Self {
        let mut world = Self::new();
        (0..agents).for_each(|agent| world.adopt(agent, Vital::Alive));
        world
    }

    fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    fn adopt(&mut self, agent: u128, recorded: Vital) {
        self.liveness.adopt(self.now(), id(agent), recorded);
    }

    fn hear(&mut self, agents: std::ops::Range<u128>) {
        for agent in agents {
            assert!(self.liveness.heard(self.now(), id(agent)));
        }
        self.note();
    }

    /// Time passes in small steps, while `heard` agents heartbeat.
    fn pass(&mut self, time: Duration, heard: std::ops::Range<u128>) {
        let end = self.elapsed + time;
        while self.elapsed < end {
            self.elapsed += (S / 2).min(end - self.elapsed);
            self.hear(heard.clone());
            self.liveness.handle_timeout(self.now());
            self.note();
        }
    }

    fn note(&mut self) {
        while let Some(decision) = self.liveness.poll_decision() {
            self.decided.push(decision);
        }
    }

    fn taken(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.decided)
    }

    fn count(&self, wanted: Vital) -> usize {
        let is = |decision: &&Decision| matches!(decision, Decision::Record { vital, .. } if *vital == wanted);
        self.decided.iter().filter(is).count()
    }
}

fn id(agent: u128) -> AgentId {
    AgentId::from_random(agent)
}

fn record(agent: u128, vital: Vital) -> Decision {
    Decision::Record { id: id(agent), vital }
}

#[test]
fn silence_makes_suspect_then_dead_then_gone() {
    let mut world = World::with(1);
    world.pass(S * 19 / 2, 0..0);
    assert_eq!(world.taken(), []);
    world.pass(S / 2, 0..0);
    assert_eq!(world.taken(), [record(0, Vital::Suspect)]);
    world.pass(S * 9 / 2, 0..0);
    assert_eq!(world.taken(), []);
    world.pass(S / 2, 0..0);
    assert_eq!(world.taken(), [record(0, Vital::Dead)]);
    world.pass(S * 89 / 2, 0..0);
    assert_eq!(world.taken(), []);
    world.pass(S / 2, 0..0);
    assert_eq!(world.taken(), [record(0, Vital::Gone)]);
}

#[test]
fn a_heartbeat_revives_whoever_is_not_gone() {
    for (silence, before) in [(11, Vital::Suspect), (16, Vital::Dead)] {
        let mut world = World::with(1);
        world.pass(S * silence, 0..0);
        assert_eq!(world.taken().last(), Some(&record(0, before)));
        world.hear(0..1);
        assert_eq!(world.taken(), [record(0, Vital::Alive)]);
        world.pass(S * 9, 0..0);
        assert_eq!(world.taken(), []);
        world.pass(S, 0..0);
        assert_eq!(world.taken(), [record(0, Vital::Suspect)]);
    }
}

#[test]
fn who_heartbeats_is_never_suspected() {
    let mut world = World::with(20);
    world.pass(S * 600, 0..20);
    assert_eq!(world.taken(), []);
}

#[test]
fn a_pause_in_which_nobody_listened_is_not_silence() {
    let mut world = World::with(1);
    world.elapsed += S * 3600;
    world.liveness.handle_timeout(world.now());
    world.note();
    assert_eq!(world.taken(), []);
    world.pass(S * 7, 0..0);
    assert_eq!(world.taken(), []);
}

#[test]
fn who_is_released_is_not_judged() {
    let mut world = World::with(1);
    world.liveness.release(id(0));
    world.pass(S * 100, 0..0);
    assert_eq!(world.taken(), []);
    assert!(!world.liveness.heard(world.now(), id(0)));
}

#[test]
fn whoever_is_adopted_has_its_grace_whatever_its_record_says() {
    let mut world = World::new();
    world.adopt(0, Vital::Dead);
    world.adopt(1, Vital::Suspect);
    world.pass(S * 29 / 2, 0..0);
    assert_eq!(world.taken(), []);
    world.pass(S / 2, 0..0);
    assert_eq!(world.taken(), [record(1, Vital::Dead)]);
    world.pass(S * 45, 0..0);
    assert_eq!(world.taken(), [record(0, Vital::Gone), record(1, Vital::Gone)]);
}

#[test]
fn a_record_that_says_something_else_is_decided_again() {
    let mut world = World::with(1);
    world.pass(S * 10, 0..0);
    world.taken();
    world.adopt(0, Vital::Alive);
    world.note();
    assert_eq!(world.taken(), [record(0, Vital::Suspect)]);
}

#[test]
fn a_decision_that_could_not_be_recorded_is_made_again() {
    let mut world = World::with(1);
    world.pass(S * 10, 0..0);
    assert_eq!(world.taken(), [record(0, Vital::Suspect)]);
    world.liveness.undecided(id(0));
    world.pass(S * 3, 0..0);
    assert_eq!(world.taken(), [record(0, Vital::Suspect)]);
}

#[test]
fn a_mass_expiry_kills_nobody_until_heartbeats_return() {
    let mut world = World::with(100);
    world.pass(S * 60, 60..100);
    assert!(world.liveness.is_frozen());
    assert_eq!((world.count(Vital::Suspect), world.count(Vital::Dead)), (60, 0));
    let frozen = Decision::Freeze { suspects: 60, of: 100 };
    assert_eq!(world.taken().iter().filter(|one| **one == frozen).count(), 1);
    // All but ten return. The ten have the time in which a suspect can come back.
    world.pass(S, 10..100);
    assert!(!world.liveness.is_frozen());
    assert!(world.decided.contains(&Decision::Thaw { recovered: true }));
    world.pass(S * 3, 10..100);
    assert_eq!(world.count(Vital::Dead), 0);
    world.pass(S * 2, 10..100);
    assert_eq!(world.count(Vital::Dead), 10);
}

#[test]
fn a_mass_expiry_ends_at_the_limit() {
    let mut world = World::with(100);
    world.pass(S * 309, 60..100);
    assert_eq!(world.count(Vital::Dead), 0);
    world.pass(S * 2, 60..100);
    assert!(world.decided.contains(&Decision::Thaw { recovered: false }));
    assert_eq!(world.count(Vital::Dead), 60);
    // It is over, so the next one is damped again.
    world.taken();
    world.pass(S * 14, 80..100);
    assert!(world.liveness.is_frozen());
}

#[test]
fn a_few_of_many_and_some_of_a_few_die_in_time() {
    for (agents, silent) in [(100, 30), (3, 3), (6, 4)] {
        let mut world = World::with(agents);
        world.pass(S * 16, silent..agents);
        assert_eq!(world.count(Vital::Dead), silent as usize, "{silent} of {agents}");
    }
}

#[test]
fn the_next_look_is_wanted_when_something_is_due_and_before_it_would_be_a_stall() {
    let mut world = World::with(1);
    let stall = Rules::new(15 * S, 300 * S).stall_max;
    assert_eq!(world.liveness.poll_timeout(), world.now() + stall / 2);
    world.pass(S * 19 / 2, 0..0);
    assert_eq!(world.liveness.poll_timeout(), world.now() + S / 2);
}
