//! Replicas, agents, watchers, and the weather between them.

use super::ledger::Ledger;
use super::reference;
use super::watcher::Watcher;
use crate::agent::{Agent, AgentId, Registration, ReplicaId};
use crate::bounds::{self, Refused};
use crate::filter::Filter;
use crate::liveness::Rules;
use crate::replica::{Act, Now, Registering, Replica, Written};
use crate::store::{Change, FeedItem, Revision};
use hive_api::registry::{AgentFilter, AgentTelemetry, RegisterRequest};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

const KINDS: [&str; 4] = ["BUILD", "DEPLOY", "QUERY", "TEST"];
const FOUL_STEPS: usize = 150;
const FAIR_STEPS: usize = 250;
const FAIR_STEP: Duration = Duration::from_secs(1);
/// After this many fair steps, nobody that heartbeats may be doubted any more.
const SETTLED_AFTER: usize = 50;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
const STRANGER: &str = "spiffe://example.org/stranger";
const EVENTS_MAX: usize = 12;

pub(super) struct World {
    random: StdRng,
    start: Instant,
    elapsed: Duration,
    ledger: Ledger,
    seats: Vec<Seat>,
    agents: Vec<Process>,
    watchers: Vec<Watcher>,
    writes: Vec<Write>,
    replicas_started: u32,
    tells: bool,
}

/// A place where a replica runs.
struct Seat {
    replica: Replica,
    /// Tells this replica from those before it.
    generation: u32,
    feed: VecDeque<FeedItem>,
    /// What was put into the feed, and what was folded; `None` before a snapshot is complete.
    told: Revision,
    folded: Option<Revision>,
    cut: bool,
    stalled: bool,
    wall_step_s: i64,
}

/// A process that is, or was, an agent.
struct Process {
    owner: &'static str,
    key: String,
    up: bool,
    kinds: Vec<String>,
    rate: f64,
    seat: usize,
    beat_at: Duration,
    registering: bool,
}

/// A change on its way to the store.
struct Write {
    seat: usize,
    generation: u32,
    id: AgentId,
    change: Change,
    /// The agent that waits for its registration, or the replica whose act it was.
    agent: Option<usize>,
}

impl World {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            start: Instant::now(),
            elapsed: Duration::ZERO,
            ledger: Ledger::default(),
            seats: Vec::new(),
            agents: Vec::new(),
            watchers: Vec::new(),
            writes: Vec::new(),
            replicas_started: 0,
            tells,
        };
        for _ in 0..world.random.random_range(1..=3) {
            let seat = world.new_seat();
            world.seats.push(seat);
        }
        world.tell_replicas();
        for number in 0..world.random.random_range(1..=12) {
            world.add_agent(number);
        }
        for _ in 0..4 {
            let (filter, seat) = (world.any_filter(), world.any_seat());
            world.watchers.push(Watcher::new(filter, seat));
        }
        world
    }

    /// Foul weather, then fair, and then all must be well.
    pub(super) fn live(&mut self) {
        for _ in 0..FOUL_STEPS {
            self.trouble();
            let time = Duration::from_millis(self.random.random_range(50..1_500));
            self.step(time, true);
        }
        self.clear_up();
        for step in 0..FAIR_STEPS {
            self.step(FAIR_STEP, false);
            if step > SETTLED_AFTER {
                self.nobody_alive_is_doubted();
            }
        }
        self.everybody_agrees();
    }

    fn step(&mut self, time: Duration, foul: bool) {
        self.elapsed += time;
        (0..self.agents.len()).for_each(|agent| self.beat(agent));
        for seat in 0..self.seats.len() {
            self.tick(seat);
        }
        self.deliver_writes(foul);
        for seat in 0..self.seats.len() {
            self.deliver_feed(seat, foul);
        }
        for watcher in 0..self.watchers.len() {
            if !foul || self.random.random_bool(0.5) {
                self.read(watcher);
            }
        }
        if self.random.random_bool(0.2) {
            self.a_directory_is_as_in_the_reference();
        }
    }

    fn trouble(&mut self) {
        let (seat, agent) = (self.any_seat(), self.any_agent());
        match self.random.random_range(0..30) {
            0 => self.seats[seat].cut = true,
            1..=3 => self.seats.iter_mut().for_each(|seat| seat.cut = false),
            4 => self.seats[seat].stalled = true,
            5..=7 => self.seats.iter_mut().for_each(|seat| seat.stalled = false),
            8 => self.seats[seat].wall_step_s = self.random.random_range(-7_200..7_200),
            9 => self.restart(seat),
            10 => {
                let keep = self.random.random_range(0..20);
                self.ledger.compact(keep);
            }
            11 | 12 => self.agents[agent].up = false,
            13 => self.agents.iter_mut().for_each(|agent| agent.up = false),
            14..=17 => self.agents[agent].up = true,
            18 => self.agents.iter_mut().for_each(|agent| agent.up = true),
            19 => self.agents[agent].seat = seat,
            20 => self.agents[agent].rate = self.random.random_range(0.0..=1.0),
            21 => self.agents[agent].kinds = self.any_kinds(),
            22 => self.deregister(agent),
            23 => self.forge(agent),
            24 => {
                let watcher = self.random.random_range(0..self.watchers.len());
                self.watchers[watcher].reconnect(seat);
            }
            25 => self.elapsed += Duration::from_secs(self.random.random_range(1..100)),
            _ => {}
        }
    }

    fn clear_up(&mut self) {
        for seat in &mut self.seats {
            (seat.cut, seat.stalled) = (false, false);
        }
        self.note(|| "the weather is fair".to_owned());
    }

    fn new_seat(&mut self) -> Seat {
        self.replicas_started += 1;
        let me = ReplicaId::new(&format!("r{}", self.replicas_started));
        self.ledger.replicas.insert(me.clone());
        let rules = Rules::new(Duration::from_secs(15), Duration::from_secs(60));
        Seat {
            replica: Replica::new(self.start + self.elapsed, me, rules, EVENTS_MAX),
            generation: self.replicas_started,
            feed: VecDeque::new(),
            told: Revision(0),
            folded: None,
            cut: false,
            stalled: false,
            wall_step_s: 0,
        }
    }

    fn restart(&mut self, seat: usize) {
        self.note(|| format!("replica at seat {seat} restarts"));
        let old = ReplicaId::new(&format!("r{}", self.seats[seat].generation));
        self.ledger.replicas.remove(&old);
        self.seats[seat] = self.new_seat();
        self.tell_replicas();
        let generation = self.seats[seat].generation;
        for write in self.writes.iter().filter(|write| write.seat == seat) {
            // The call broke; the agent will call again.
            if let Some(agent) = write.agent {
                self.agents[agent].registering = false;
            }
        }
        self.writes.retain(|write| write.seat != seat || write.generation == generation);
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.seat == seat) {
            watcher.reconnect(seat);
        }
    }

    fn tell_replicas(&mut self) {
        for seat in &mut self.seats {
            seat.feed.push_back(FeedItem::Replicas(self.ledger.replicas.clone()));
        }
    }

    fn add_agent(&mut self, number: u32) {
        let owner = *["spiffe://example.org/a", "spiffe://example.org/b"]
            .choose(&mut self.random)
            .expect("there are two");
        let process = Process {
            owner,
            key: format!("pod-{number}"),
            up: true,
            kinds: self.any_kinds(),
            rate: 1.0,
            seat: self.any_seat(),
            beat_at: Duration::ZERO,
            registering: false,
        };
        self.agents.push(process);
    }

    fn any_seat(&mut self) -> usize {
        self.random.random_range(0..self.seats.len())
    }

    fn any_agent(&mut self) -> usize {
        self.random.random_range(0..self.agents.len())
    }

    fn any_kinds(&mut self) -> Vec<String> {
        let count = self.random.random_range(1..=3);
        KINDS.choose_multiple(&mut self.random, count).map(ToString::to_string).collect()
    }

    fn any_filter(&mut self) -> Filter {
        let status = self.random.random_range(0..=3);
        let capabilities = if self.random.random_bool(0.5) { self.any_kinds() } else { Vec::new() };
        let filter = AgentFilter { status, capabilities, ..AgentFilter::default() };
        Filter::read(Some(filter), HashMap::new()).expect("it is valid")
    }

    fn now(&self, seat: usize) -> Now {
        let wall_s = 1_000_000 + self.elapsed.as_secs() as i64 + self.seats[seat].wall_step_s;
        Now { monotonic: self.start + self.elapsed, wall_s }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>9.3} {}", self.elapsed.as_secs_f64(), what());
        }
    }

    fn id(&self, agent: usize) -> AgentId {
        AgentId::of_instance(self.agents[agent].owner, &self.agents[agent].key)
    }

    /// What an agent does: it heartbeats, and registers when nobody knows it or it can do something else now.
    fn beat(&mut self, agent: usize) {
        let (id, process) = (self.id(agent), &self.agents[agent]);
        let (seat, owner) = (process.seat, process.owner);
        let reached = self.seats[seat].folded.is_some() && !self.seats[seat].stalled;
        if !process.up || process.registering || process.beat_at > self.elapsed || !reached {
            return;
        }
        let telemetry = AgentTelemetry {
            success_rate: process.rate,
            total_executions: 10,
            ..AgentTelemetry::default()
        };
        let registration = registration(process);
        let now = self.now(seat);
        self.agents[agent].beat_at = self.elapsed + HEARTBEAT_EVERY;
        let replica = &mut self.seats[seat].replica;
        let known = replica.directory().agent(id);
        let known = known.filter(|known| known.agent.registration == registration);
        if let Some(before) = known.map(|known| known.agent.standing) {
            let heard = replica.heartbeat(now, owner, id, Some(telemetry));
            let stands = reference::stands(before, telemetry.success_rate);
            assert_eq!(heard.map(|(_, standing)| standing), Ok(stands));
            return;
        }
        let registering = replica.register(now, owner, id, registration, Some(telemetry));
        match registering.expect("there is room") {
            Registering::Same { .. } => panic!("the record says something else"),
            Registering::Write { change, .. } => {
                self.agents[agent].registering = true;
                self.send(seat, id, change, Some(agent));
            }
        }
    }

    fn deregister(&mut self, agent: usize) {
        let (id, seat, owner) = (self.id(agent), self.agents[agent].seat, self.agents[agent].owner);
        self.agents[agent].up = false;
        if let Ok(change) = self.seats[seat].replica.deregister(owner, id) {
            self.note(|| format!("{id} deregisters"));
            self.send(seat, id, change, None);
        }
    }

    /// Somebody else says what only the owner may say.
    fn forge(&mut self, agent: usize) {
        let (id, seat) = (self.id(agent), self.agents[agent].seat);
        let now = self.now(seat);
        let replica = &mut self.seats[seat].replica;
        let is_refused = |refused: &Refused| {
            matches!(refused, Refused::NotTheOwner { .. } | Refused::Unknown(_))
        };
        assert!(replica.heartbeat(now, STRANGER, id, None).is_err_and(|r| is_refused(&r)));
        assert!(replica.deregister(STRANGER, id).is_err_and(|r| is_refused(&r)));
    }

    fn send(&mut self, seat: usize, id: AgentId, change: Change, agent: Option<usize>) {
        let generation = self.seats[seat].generation;
        self.writes.push(Write { seat, generation, id, change, agent });
    }

    fn tick(&mut self, seat: usize) {
        if self.seats[seat].stalled {
            return;
        }
        let now = self.now(seat);
        let replica = &mut self.seats[seat].replica;
        replica.handle_timeout(now);
        let mut acts = Vec::new();
        while let Some(act) = replica.poll_act() {
            acts.push(act);
        }
        for act in acts {
            match act {
                Act::Write { id, change, vital } => {
                    self.note(|| format!("seat {seat} decides: {id} {vital:?}"));
                    self.send(seat, id, change, None);
                }
                other => self.note(|| format!("seat {seat} decides: {other:?}")),
            }
        }
    }

    /// Some writes reach the store, in any order; in foul weather, some are lost, or are made and not confirmed.
    fn deliver_writes(&mut self, foul: bool) {
        let mut waiting = Vec::new();
        while !self.writes.is_empty() {
            let at = self.random.random_range(0..self.writes.len());
            let write = self.writes.swap_remove(at);
            if foul && self.random.random_bool(0.3) {
                waiting.push(write);
                continue;
            }
            let luck = if foul { self.random.random_range(0..10) } else { 9 };
            let applied = luck != 0 && self.ledger.apply(&write.change);
            let answered = luck > 1;
            self.note(|| format!("write of {}: applied {applied}, answered {answered}", write.id));
            match write.agent {
                Some(agent) => self.agents[agent].registering = false,
                None if self.seats[write.seat].generation == write.generation => {
                    let what = match (answered, applied) {
                        (false, _) => Written::Unknown,
                        (true, false) => Written::Conflict,
                        (true, true) => Written::Made,
                    };
                    self.seats[write.seat].replica.written(write.id, what);
                }
                None => {}
            }
        }
        self.writes = waiting;
    }

    /// The store's feed, as far as it comes.
    fn deliver_feed(&mut self, seat: usize, foul: bool) {
        let now = self.now(seat);
        let count = if foul { self.random.random_range(0..8) } else { usize::MAX };
        let at = &mut self.seats[seat];
        if at.cut {
            // What was under way is lost; it is followed again from what was folded.
            at.feed.clear();
            at.told = at.folded.unwrap_or_default();
            return;
        }
        let more = at.folded.and_then(|_| self.ledger.after(at.told));
        match more {
            Some(items) => {
                if at.feed.is_empty() && !items.is_empty() {
                    at.feed.push_back(FeedItem::Replicas(self.ledger.replicas.clone()));
                }
                at.feed.extend(items);
                at.told = self.ledger.latest;
            }
            None if at.folded.is_some() || !at.feed.iter().any(is_sync) => {
                at.replica.begin_snapshot();
                at.folded = None;
                at.feed = self.ledger.snapshot();
                at.told = self.ledger.latest;
            }
            None => {}
        }
        for _ in 0..count {
            let Some(item) = at.feed.pop_front() else { return };
            at.folded = match &item {
                FeedItem::InSync { revision } => Some(*revision),
                item => at.folded.map(|folded| item.revision().unwrap_or(folded)),
            };
            at.replica.fold(now, item).expect("it was written by us");
        }
    }

    fn read(&mut self, watcher: usize) {
        let max = self.random.random_range(1..10);
        let watcher = &mut self.watchers[watcher];
        let seat = &self.seats[watcher.seat];
        if seat.folded.is_some() {
            watcher.read(&seat.replica, &self.ledger, max);
        }
    }

    /// Every replica offers and counts what a look at each agent would.
    fn a_directory_is_as_in_the_reference(&mut self) {
        let (seat, filter) = (self.any_seat(), self.any_filter());
        let (limit, chance) = (self.random.random_range(1..6), self.random.random());
        let directory = self.seats[seat].replica.directory();
        assert_eq!(directory.counts(), reference::counts(directory));
        let expected = reference::offered(directory, &filter);
        let found = |limit| {
            let best = directory.discover(&filter, limit, chance).best;
            assert!(best.iter().all(|known| known.agent.standing.is_discoverable()));
            best.into_iter().map(reference::rank).collect::<Vec<_>>()
        };
        assert_eq!(found(usize::MAX), expected);
        assert_eq!(found(limit), expected[..limit.min(expected.len())]);
    }

    fn record(&self, agent: usize) -> Option<Agent> {
        let (value, _) = self.ledger.records.get(&self.id(agent))?;
        Some(Agent::decode(value).expect("it was written by us"))
    }

    fn nobody_alive_is_doubted(&self) {
        for agent in (0..self.agents.len()).filter(|agent| self.agents[*agent].up) {
            let record = self.record(agent).expect("whoever heartbeats is registered");
            let stands = reference::stands(record.standing, self.agents[agent].rate);
            assert_eq!(record.standing, stands, "{}", record.id);
        }
    }

    fn everybody_agrees(&self) {
        let up = self.agents.iter().filter(|agent| agent.up).count();
        assert_eq!(self.ledger.records.len(), up, "whoever is silent is forgotten");
        for seat in &self.seats {
            let directory = seat.replica.directory();
            assert_eq!(directory.len(), self.ledger.records.len());
            for (id, (value, revision)) in &self.ledger.records {
                let known = directory.agent(*id).expect("the store has it");
                assert_eq!((known.agent.encode(), known.revision), (value.clone(), *revision));
            }
        }
        for watcher in &self.watchers {
            assert_eq!(watcher.view, watcher.expected(&self.ledger));
        }
    }
}

fn is_sync(item: &FeedItem) -> bool {
    matches!(item, FeedItem::InSync { .. })
}

fn registration(process: &Process) -> Registration {
    let request = RegisterRequest {
        agent_type: 1,
        capabilities: process.kinds.clone(),
        instance_key: process.key.clone(),
        ..RegisterRequest::default()
    };
    bounds::registration(request).expect("it is within bounds")
}
