//! A small world: a server that knows the truth, holders that use what they are given, weather, and a rotation.
//!
//! Everything comes out of one seed. What must always hold is checked at every step; a violation names the seed.

mod calls;
pub(crate) mod dice;
mod holders;
pub(crate) mod server;
pub(crate) mod weather;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use hive_lease::{
    Generation, Input, Moment, Policy, Reason, Refresh, Rotation, RotationAction, RotationInput,
    RotationState, Subject, Want,
};

use dice::Dice;
use server::{Life, Micros, Server};
use weather::{SECOND, Weather};

/// In fair weather everything is well again after this long: the longest delay between attempts, and then some.
const RECOVERY: Micros = 700 * SECOND;
const OVERLAPS_MAX: usize = 1;

/// What was seen, to know that the storm is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) adoptions: u64,
    pub(crate) calls: u64,
    pub(crate) cuts: u64,
    pub(crate) events: u64,
    pub(crate) kills: u64,
    pub(crate) lost: u64,
    /// Tokens without a name at the end: their login's answer was lost.
    pub(crate) orphans: u64,
    pub(crate) refreshes: u64,
    pub(crate) renewals: u64,
    pub(crate) retries: u64,
    pub(crate) uses: u64,
    pub(crate) virtual_seconds: u64,
    pub(crate) withdrawals: u64,
    pub(crate) in_flight_max: usize,
    pub(crate) states: BTreeSet<RotationState>,
    pub(crate) reasons: BTreeSet<&'static str>,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.adoptions += other.adoptions;
        self.calls += other.calls;
        self.cuts += other.cuts;
        self.events += other.events;
        self.kills += other.kills;
        self.lost += other.lost;
        self.orphans += other.orphans;
        self.refreshes += other.refreshes;
        self.renewals += other.renewals;
        self.retries += other.retries;
        self.uses += other.uses;
        self.virtual_seconds += other.virtual_seconds;
        self.withdrawals += other.withdrawals;
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
        self.states.extend(other.states);
        self.reasons.extend(other.reasons);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Answer { generation: Generation, input: Input, sent: Micros },
    Carry(calls::Call),
    Change,
    Kill,
    Rotate,
    Stop,
    Tell(RotationInput),
    UseBegins,
    UseEnds(Generation, u64),
}

/// What the driver and the holders know of a generation.
#[derive(Debug, Default)]
struct Epoch {
    token: Option<u64>,
    leases: Vec<Option<u64>>,
    users: BTreeSet<u64>,
    is_draining: bool,
    is_adopted: bool,
    /// An operator ended something of it: that it is used is not the machine's fault.
    is_hurt: bool,
    is_let_go: bool,
}

pub(crate) struct World {
    seed: u64,
    dice: Dice,
    weather: Weather,
    server: Server,
    rotation: Rotation,
    now: Micros,
    events: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    epochs: BTreeMap<Generation, Epoch>,
    lives: Vec<Life>,
    token_life: Life,
    leaseless: Vec<bool>,
    /// The server's seconds are a little shorter or longer than ours, in parts per million.
    drift: i64,
    calm_at: Micros,
    stop_within: Micros,
    is_stopped: bool,
    /// Tokens that nobody knows, or that their own policy does not allow to revoke.
    excused: BTreeSet<u64>,
    attempts: BTreeMap<(Generation, Subject, &'static str), Micros>,
    last_opening: Option<Micros>,
    successes: u64,
    users: u64,
    /// Prints every step, to see how a failure came about.
    pub(crate) is_traced: bool,
    seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let wants: Vec<_> = (0..dice.below(4)).map(|_| want(&mut dice)).collect();
        let leaseless = wants.iter().map(|want| want.refresh.is_some()).collect();
        let lives = wants.iter().map(|_| life(&mut dice)).collect();
        let token_life = life(&mut dice);
        let policy =
            Policy::default().overlap(Duration::from_micros(dice.between(SECOND, 40 * SECOND)));
        let rotation = Rotation::new(policy, wants, dice.next(), moment(0), moment(10 * SECOND));
        let weather = Weather::storm(&mut dice);
        let storm = dice.between(20 * SECOND, 500 * SECOND);
        // Half of them see the storm end before they are stopped.
        let calm_at = if dice.per_mille(500) { storm } else { Micros::MAX };
        let stop_at = if calm_at == storm { storm + RECOVERY } else { storm };
        let stop_within =
            if calm_at == storm { 20 * SECOND } else { dice.between(SECOND, 30 * SECOND) };
        let drift = dice.between(0, 6000) as i64 - 3000;
        let mut world = Self {
            seed,
            dice,
            weather,
            server: Server::default(),
            rotation,
            now: 0,
            events: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            epochs: BTreeMap::new(),
            lives,
            token_life,
            leaseless,
            drift,
            calm_at,
            stop_within,
            is_stopped: false,
            excused: BTreeSet::new(),
            attempts: BTreeMap::new(),
            last_opening: None,
            successes: 0,
            users: 0,
            is_traced: false,
            seen: Seen::default(),
        };
        world.plan(stop_at, Event::Stop);
        world.plan(calm_at.min(60 * SECOND), Event::Change);
        world.plan(0, Event::UseBegins);
        for event in [Event::Kill, Event::Rotate] {
            let at = world.dice.below(2 * storm);
            world.plan(at, event);
        }
        world
    }

    /// Lives the whole life of the rotation, and says what was seen.
    pub(crate) fn run(mut self) -> Seen {
        self.perform();
        while !self.rotation.is_done() {
            self.seen.events += 1;
            assert!(self.seen.events < 100_000, "{}: it never ends", self.at());
            self.advance();
            self.check();
        }
        self.check_end();
        self.seen.virtual_seconds = self.now / SECOND;
        self.seen
    }

    /// To the next thing that happens. The driver may oversleep.
    fn advance(&mut self) {
        let timeout = self.rotation.poll_timeout().map(micros);
        if let Some(timeout) = timeout {
            assert!(timeout > self.now, "{}: it wants to be woken in the past", self.at());
        }
        let event = self.events.peek().map(|Reverse((at, ..))| *at);
        let next = [timeout, event].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| panic!("{}: nothing ever happens", self.at()));
        let late = self.dice.below(self.weather.late + 1);
        self.now = self.now.max(next + late);
        self.server.age(self.server_now());
        while let Some(event) = self.due() {
            self.happen(event);
        }
        self.wake();
    }

    fn due(&mut self) -> Option<Event> {
        let Reverse((at, _, slot)) = *self.events.peek()?;
        if at > self.now {
            return None;
        }
        self.events.pop();
        self.free.push(slot);
        self.slots[slot].take()
    }

    fn plan(&mut self, at: Micros, event: Event) {
        self.sequence += 1;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(event);
        self.events.push(Reverse((at, self.sequence, slot)));
    }

    fn wake(&mut self) {
        self.rotation.handle_timeout(moment(self.now));
        self.perform();
    }

    fn happen(&mut self, event: Event) {
        self.trace(&event);
        match event {
            Event::Answer { generation, input, sent } => self.answered(generation, input, sent),
            Event::Carry(call) => self.carry(&call),
            Event::Change => self.change(),
            Event::Kill => self.kill(),
            Event::Rotate => self.tell(RotationInput::Rotate),
            Event::Stop => {
                self.check_recovered();
                self.is_stopped = true;
                let by = moment(self.now + self.stop_within);
                self.tell(RotationInput::Stop { by });
            }
            Event::Tell(input) => self.told(input),
            Event::UseBegins => self.use_begins(),
            Event::UseEnds(generation, user) => self.use_ends(generation, user),
        }
    }

    fn tell(&mut self, input: RotationInput) {
        self.rotation.handle(moment(self.now), input);
        self.perform();
    }

    /// New weather, and perhaps the last.
    fn change(&mut self) {
        if self.now >= self.calm_at {
            self.weather = Weather::fair();
            return;
        }
        self.weather = Weather::storm(&mut self.dice);
        // A machine that is suspended, or a process that is stopped: time passes, and nobody is there.
        if self.dice.per_mille(100) {
            self.now += self.dice.below(90 * SECOND);
            self.server.age(self.server_now());
            self.wake();
        }
        let next = (self.now + self.dice.between(SECOND, 200 * SECOND))
            .min(self.calm_at.max(self.now + 1));
        self.plan(next, Event::Change);
    }

    fn perform(&mut self) {
        while let Some(action) = self.rotation.poll_action() {
            self.trace(&action);
            match action {
                RotationAction::Epoch { generation, action } => self.call(generation, action),
                other => self.holders(&other),
            }
        }
        let in_flight = self.rotation.in_flight();
        assert!(in_flight <= 16, "{}: {in_flight} calls at once", self.at());
        self.seen.in_flight_max = self.seen.in_flight_max.max(in_flight);
        self.seen.states.insert(self.rotation.state());
    }

    /// An operator ends something at the server.
    fn kill(&mut self) {
        if self.now >= self.calm_at {
            return;
        }
        self.seen.kills += 1;
        let lease = self.server.leases.iter().next().map(|(id, lease)| (*id, lease.token));
        let token = match lease.filter(|_| self.dice.per_mille(600)) {
            Some((lease, token)) => {
                self.server.revoke_lease(token, lease);
                Some(token)
            }
            None => {
                let token = self.server.tokens.keys().next_back().copied();
                token.inspect(|token| self.server.revoke_token(*token))
            }
        };
        for epoch in self.epochs.values_mut().filter(|epoch| epoch.token == token) {
            epoch.is_hurt = true;
        }
        let next = self.now + self.dice.between(5 * SECOND, 400 * SECOND);
        self.plan(next, Event::Kill);
    }

    /// The server's clock runs a little faster or slower.
    fn server_now(&self) -> Micros {
        let skew = (self.now as i64 / 1_000_000) * self.drift;
        self.now.saturating_add_signed(skew)
    }

    fn trace(&self, what: &dyn std::fmt::Debug) {
        if self.is_traced {
            eprintln!("{} {what:?}", self.at());
        }
    }

    fn at(&self) -> String {
        format!("seed {} at {:.3} s", self.seed, self.now as f64 / SECOND as f64)
    }
}

/// What must hold.
impl World {
    fn check(&self) {
        let now = moment(self.now);
        if let Some(timeout) = self.rotation.poll_timeout() {
            assert!(timeout > now, "{}: it spins", self.at());
        }
        if let Some(serving) = self.rotation.serving(now) {
            self.check_alive(serving);
        }
        for (generation, epoch) in &self.epochs {
            if !epoch.users.is_empty() {
                self.check_alive(*generation);
            }
        }
        let in_use =
            self.epochs.values().filter(|epoch| epoch.is_adopted && !epoch.is_let_go).count();
        assert!(in_use <= 1 + OVERLAPS_MAX, "{}: {in_use} generations are in use", self.at());
    }

    /// Never used after its end, by the server's truth.
    fn check_alive(&self, generation: Generation) {
        let epoch = &self.epochs[&generation];
        if epoch.is_hurt {
            return;
        }
        let token = epoch.token.is_some_and(|token| self.server.tokens.contains_key(&token));
        assert!(token, "{}: {generation} is used without a token", self.at());
        for lease in epoch.leases.iter().flatten() {
            let is_there = self.server.leases.contains_key(lease);
            assert!(is_there, "{}: {generation} is used without lease {lease}", self.at());
        }
    }

    /// Always progress when the server is well.
    fn check_recovered(&self) {
        if self.calm_at == Micros::MAX {
            return;
        }
        let serving = self.rotation.serving(moment(self.now));
        assert!(serving.is_some(), "{}: not served: {:?}", self.at(), self.rotation.state());
    }

    /// Nothing is left that could have been ended.
    fn check_end(&mut self) {
        // What ends in a moment anyway is not left: its last second was cut from the promise, and clocks differ.
        let soon = self.server_now() + 3 * SECOND / 2;
        self.server.tokens.retain(|_, token| token.ends > soon + token.life.ttl / 100);
        self.server.age(self.server_now());
        let left = self.server.tokens.keys().filter(|token| !self.excused.contains(token)).count();
        self.seen.orphans = (self.server.tokens.len() - left) as u64;
        if self.calm_at != Micros::MAX {
            assert_eq!(left, 0, "{}: tokens are left: {:?}", self.at(), self.server.tokens);
            let leases = self.server.leases.values();
            let left: Vec<_> =
                leases.filter(|lease| !self.excused.contains(&lease.token)).collect();
            assert!(left.is_empty(), "{}: leases are left: {left:?}", self.at());
        } else if left > 0 {
            let report = self.rotation.report();
            assert!(
                report.left.contains(&Subject::Token),
                "{}: {left} tokens are left and not named",
                self.at()
            );
        }
    }

    fn note(&mut self, reason: Reason) {
        self.seen.reasons.insert(match reason {
            Reason::Denied(_) => "denied",
            Reason::Expired(_) => "expired",
            Reason::Gone(_) => "gone",
            Reason::MaxTtl(_) => "max ttl",
            Reason::Missing(_) => "missing",
            Reason::Refused(_) => "refused",
            Reason::TooLate => "too late",
            Reason::Uncertain(_) => "uncertain",
            Reason::Unusable => "unusable",
            _ => "other",
        });
    }
}

fn want(dice: &mut Dice) -> Want {
    let refresh = dice.per_mille(200).then(|| Refresh {
        every: Duration::from_micros(dice.between(5 * SECOND, 300 * SECOND)),
        stale_after: Duration::from_micros(dice.between(400 * SECOND, 3600 * SECOND)),
    });
    Want { optional: dice.per_mille(200), refresh }
}

/// Mostly minutes, sometimes seconds, sometimes a day; mostly renewable, and mostly up to an end.
fn life(dice: &mut Dice) -> Life {
    let seconds = match dice.below(20) {
        0 => dice.between(8, 30),
        1..7 => dice.between(30, 200),
        19 => dice.between(3600, 86_400),
        _ => dice.between(200, 3600),
    };
    let ttl = seconds * SECOND;
    let max = if dice.per_mille(400) { 0 } else { dice.between(ttl, 6 * ttl) };
    Life { ttl, max, renewable: dice.per_mille(800) }
}

pub(crate) fn moment(micros: Micros) -> Moment {
    Moment::after(Duration::from_micros(micros))
}

fn micros(moment: Moment) -> Micros {
    u64::try_from(moment.since_origin().as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}
