//! A small world around a saga: a queue, workers, a clock and weather, all from one seed.
//!
//! It obeys the saga's commands, keeps its own account of what was really done, and holds the saga
//! against that account after each event.

use std::collections::BTreeMap;

use super::*;
use crate::ticket::{Outcome, OutcomeStatus};

/// splitmix64: small, and the same on every machine.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    pub(super) fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

type Key = (TicketName, Direction);

/// A worker at work.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) ticket: TicketName,
    pub(super) direction: Direction,
    pub(super) claim: u64,
}

pub(super) struct World {
    pub(super) saga: Saga,
    pub(super) now: UnixMillis,
    pub(super) held: Vec<Held>,
    /// Accepted reports: each may arrive again at any time.
    pub(super) reports: Vec<Event>,
    /// Claims that ran out: their workers may still report.
    pub(super) lost: Vec<Held>,
    /// What was really done and undone, in this order.
    pub(super) done: Vec<TicketName>,
    pub(super) undone: Vec<TicketName>,
    queue: BTreeMap<Key, UnixMillis>,
    start: (PlanId, Plan),
    log: Vec<(UnixMillis, Event)>,
    commands: Vec<Command>,
    latest_claim: u64,
    finished: Option<PlanStatus>,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let id = PlanId::parse("world").expect("a good ID");
        let now = UnixMillis(1_000_000);
        let (saga, commands) = Saga::start(id.clone(), plan.clone(), now);
        let mut world = Self {
            saga,
            now,
            held: Vec::new(),
            reports: Vec::new(),
            lost: Vec::new(),
            done: Vec::new(),
            undone: Vec::new(),
            queue: BTreeMap::new(),
            start: (id, plan),
            log: Vec::new(),
            commands: Vec::new(),
            latest_claim: 0,
            finished: None,
        };
        world.obey(commands);
        world
    }

    /// Lets an event happen that must be taken in.
    pub(super) fn happen(&mut self, event: Event) {
        let was = self.saga.status();
        let commands = self.saga.apply(self.now, &event);
        let commands = commands.unwrap_or_else(|refused| panic!("{event:?} refused: {refused}"));
        self.account(&event);
        self.log.push((self.now, event));
        if was != PlanStatus::Running {
            let starts = |command: &Command| {
                matches!(command, Command::Queue { direction: Direction::Forward, .. })
            };
            assert!(!commands.iter().any(starts), "something new starts while unwinding");
        }
        self.obey(commands);
        self.check();
    }

    /// Lets an event happen that must be refused, and asserts that it changes nothing.
    pub(super) fn refuse(&mut self, event: &Event) -> Refused {
        let before = self.saga.clone();
        let refused = self.saga.apply(self.now, event).expect_err("must be refused");
        assert_eq!(self.saga, before, "{event:?} was refused and changed something");
        refused
    }

    /// A worker claims the ticket on the queue that is `n`th of those that may be claimed now.
    pub(super) fn claim(&mut self, n: usize) {
        let ready = self.queue.iter().filter(|(_, not_before)| **not_before <= self.now);
        let ready: Vec<Key> = ready.map(|(key, _)| key.clone()).collect();
        let Some((ticket, direction)) = ready.get(n % ready.len().max(1)).cloned() else {
            // Nobody can do anything before the next back-off ends.
            let next = self.queue.values().min().copied();
            self.now = self.now.max(next.unwrap_or(self.now));
            return;
        };
        if direction == Direction::Forward {
            let needs = &self.start.1.ticket(&ticket).expect("a ticket").needs;
            assert!(needs.iter().all(|need| self.done.contains(need)), "{ticket} starts too early");
        }
        self.latest_claim += 1;
        let claim = self.latest_claim;
        self.queue.remove(&(ticket.clone(), direction));
        self.held.push(Held { ticket: ticket.clone(), direction, claim });
        self.happen(Event::Claimed { ticket, direction, claim, worker: "w".to_owned() });
    }

    /// The `n`th worker at work reports.
    pub(super) fn report(&mut self, n: usize, status: OutcomeStatus) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.remove(n % self.held.len());
        let event = held.ended(status);
        self.reports.push(event.clone());
        self.happen(event);
    }

    /// The claim of the `n`th worker at work runs out.
    pub(super) fn lose(&mut self, n: usize) {
        if self.held.is_empty() {
            return;
        }
        let Held { ticket, direction, claim } = self.held.remove(n % self.held.len());
        self.lost.push(Held { ticket: ticket.clone(), direction, claim });
        self.happen(Event::Lost { ticket, direction, claim });
    }

    /// Holds a plan that is over against what was really done.
    pub(super) fn check_end(&self) {
        let (status, plan) = (self.saga.status(), self.saga.plan());
        assert_eq!(self.finished, Some(status), "finished once, with the status that stays");
        assert!(self.held.is_empty() && self.queue.is_empty(), "somebody is still at work");
        if status == PlanStatus::Done {
            assert_eq!(self.done.len(), plan.tickets().len());
            assert!(self.undone.is_empty());
        }
        let failed = self.saga.tickets().filter(|t| t.state == TicketState::UndoFailed);
        let failed: Vec<&TicketName> = failed.map(|ticket| &ticket.spec.name).collect();
        let can_be_undone =
            |name: &&TicketName| plan.ticket(name).expect("a ticket").can_be_undone();
        let mut lost = self.saga.tickets().filter(|ticket| ticket.state == TicketState::Lost);
        let may_have_acted = lost.any(|ticket| can_be_undone(&&ticket.spec.name));
        assert_eq!(status == PlanStatus::Stuck, may_have_acted || !failed.is_empty());
        let mut expected: Vec<&TicketName> = self.done.iter().filter(can_be_undone).collect();
        expected.reverse();
        expected.retain(|name| status != PlanStatus::Done && !failed.contains(name));
        let undone: Vec<&TicketName> = self.undone.iter().collect();
        assert_eq!(undone, expected, "undone exactly once, in reverse order of completion");
        self.check_replay();
        let story = self.saga.story();
        assert_eq!(story.lines().count(), 1 + plan.tickets().len(), "{story}");
    }

    /// Replays the log, as it would be read back from a store.
    fn check_replay(&self) {
        let (id, plan) = self.start.clone();
        let (mut saga, mut commands) = Saga::start(id, plan, UnixMillis(1_000_000));
        for (at, event) in &self.log {
            let stored = serde_json::to_string(event).expect("an event is JSON");
            let event = serde_json::from_str(&stored).expect("its own JSON");
            commands.extend(saga.apply(*at, &event).expect("taken in before"));
        }
        assert_eq!(saga, self.saga);
        assert_eq!(commands, self.commands);
    }

    /// Keeps the account of what was really done.
    fn account(&mut self, event: &Event) {
        let Event::Ended { ticket, direction, outcome, .. } = event else { return };
        if outcome.status == OutcomeStatus::Done {
            let list = match direction {
                Direction::Forward => &mut self.done,
                Direction::Undo => &mut self.undone,
            };
            assert!(!list.contains(ticket), "{ticket} is done twice");
            list.push(ticket.clone());
        }
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            self.commands.push(command.clone());
            assert_eq!(self.finished, None, "{command:?} after the end");
            match command {
                Command::Finish { status } => self.finished = Some(status),
                Command::Queue { ticket, direction, not_before, .. } => {
                    let twice = self.queue.insert((ticket, direction), not_before);
                    assert_eq!(twice, None, "queued twice");
                }
                Command::Withdraw { ticket, direction } => {
                    let queued = self.queue.remove(&(ticket.clone(), direction)).is_some();
                    let is_held =
                        |held: &Held| (&held.ticket, held.direction) == (&ticket, direction);
                    assert!(queued || self.held.iter().any(is_held), "withdrawn for no reason");
                }
            }
        }
    }

    /// What must hold after every event.
    fn check(&self) {
        let undos = self.held.iter().filter(|held| held.direction == Direction::Undo).count()
            + self.queue.keys().filter(|(_, direction)| *direction == Direction::Undo).count();
        assert!(undos <= 1, "undos are one at a time");
        assert!(
            undos == 0 || self.held.len() + self.queue.len() == 1,
            "nobody works beside an undo"
        );
        let queued = self.saga.outstanding().into_iter().filter_map(|command| match command {
            Command::Queue { ticket, direction, not_before, .. } => {
                Some(((ticket, direction), not_before))
            }
            _ => None,
        });
        assert_eq!(queued.collect::<BTreeMap<_, _>>(), self.queue, "what is outstanding is queued");
        assert_eq!(self.saga.status().is_over(), self.finished.is_some());
    }
}

impl Held {
    /// The report that this work ended so.
    pub(super) fn ended(&self, status: OutcomeStatus) -> Event {
        let outcome =
            Outcome { status, outputs: BTreeMap::new(), message: format!("claim {}", self.claim) };
        let (ticket, direction, claim) = (self.ticket.clone(), self.direction, self.claim);
        Event::Ended { ticket, direction, claim, outcome }
    }
}

/// A random plan: each ticket may need any before it.
fn random_plan(rng: &mut Rng) -> Plan {
    let mut source = "plan: world\ntickets:\n".to_owned();
    for n in 0..1 + rng.below(8) {
        let needs: Vec<String> =
            (0..n).filter(|_| rng.one_in(3)).map(|n| format!("t{n}")).collect();
        let with = match rng.below(3) {
            0 => "kind: DEPLOY, with: { artifact: a, file: f, into: i, release: r }",
            1 => "kind: EXECUTE, with: { command: [c], undo: [u] }",
            _ => "kind: EXECUTE, with: { command: [c] }",
        };
        source.push_str(&format!(
            "- {{ name: t{n}, needs: [{}], attempts: {}, backoff: {}s, {with} }}\n",
            needs.join(", "),
            1 + rng.below(3),
            rng.below(60),
        ));
    }
    Plan::parse(&source).unwrap_or_else(|mistakes| panic!("{mistakes}\n{source}"))
}

/// How rough the weather is: one in so many.
struct Weather {
    failure: usize,
    loss: usize,
    stop: usize,
}

fn random_status(rng: &mut Rng, weather: &Weather) -> OutcomeStatus {
    if !rng.one_in(weather.failure) {
        return OutcomeStatus::Done;
    }
    match rng.below(4) {
        0 => OutcomeStatus::Failed,
        1 => OutcomeStatus::Withdrawn,
        _ => OutcomeStatus::FailedRetryable,
    }
}

/// Something that must be refused: a report that is repeated, late or made up, a claim of what is
/// not on the queue.
fn nonsense(world: &mut World, rng: &mut Rng) {
    let n = rng.below(1_000);
    if let Some(report) = world.reports.get(n % world.reports.len().max(1)).cloned() {
        assert!(matches!(world.refuse(&report), Refused::AlreadyEnded { .. }));
    }
    if let Some(late) = world.lost.get(n % world.lost.len().max(1)).cloned() {
        let refused = world.refuse(&late.ended(OutcomeStatus::Done));
        assert!(matches!(refused, Refused::StaleClaim { .. }));
    }
    if let Some(mut held) = world.held.get(n % world.held.len().max(1)).cloned() {
        let Held { ticket, direction, claim } = held.clone();
        let again = Event::Claimed { ticket, direction, claim: claim + 1, worker: "x".to_owned() };
        assert!(matches!(world.refuse(&again), Refused::NotQueued { .. }));
        held.claim += 1_000_000;
        let refused = world.refuse(&held.ended(OutcomeStatus::Done));
        assert!(matches!(refused, Refused::UnknownClaim { .. }));
    }
}

fn step(world: &mut World, rng: &mut Rng, weather: &Weather) {
    world.now.0 += i64::try_from(rng.below(2_000)).expect("small");
    let n = rng.below(1_000);
    if rng.one_in(weather.stop) && world.saga.status() == PlanStatus::Running {
        world.happen(match rng.one_in(2) {
            true => Event::DeadlinePassed,
            false => Event::CancelRequested { by: "me".to_owned(), reason: String::new() },
        });
    } else if rng.one_in(2) {
        world.claim(n);
    } else if rng.one_in(weather.loss) {
        world.lose(n);
    } else {
        world.report(n, random_status(rng, weather));
    }
    nonsense(world, rng);
}

fn live(seed: u64) -> PlanStatus {
    let mut rng = Rng(seed);
    let mut world = World::new(random_plan(&mut rng));
    let weather =
        Weather { failure: 2 + rng.below(20), loss: 2 + rng.below(20), stop: 20 + rng.below(200) };
    for _ in 0..10_000 {
        if world.saga.status().is_over() {
            world.check_end();
            nonsense(&mut world, &mut rng);
            assert_eq!(world.refuse(&Event::DeadlinePassed), Refused::Over);
            return world.saga.status();
        }
        step(&mut world, &mut rng, &weather);
    }
    panic!("the plan does not end:\n{}", world.saga.story());
}

#[test]
fn in_any_weather_a_plan_ends_and_what_was_done_is_undone_exactly_once() {
    let mut ends = BTreeMap::new();
    for seed in 0..3_000 {
        let end = std::panic::catch_unwind(|| live(seed));
        let status = end.unwrap_or_else(|_| panic!("seed {seed}"));
        *ends.entry(status.as_str()).or_insert(0) += 1;
    }
    // Weather that never leads to some end would prove nothing about it.
    for status in ["cancelled", "done", "failed", "stuck"] {
        assert!(ends.get(status).is_some_and(|count| *count > 60), "{ends:?}");
    }
}
