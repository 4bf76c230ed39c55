//! Thousands of small worlds: a server with seeded weather, a driver that is sometimes late, and what must always hold.

use std::collections::BTreeMap;
use std::time::Duration;

use hive_lease::{
    Action, Failure, Grant, Input, LeaseId, Lifecycle, Moment, Policy, Reason, Roll, Subject,
    Target, Want,
};

const RUNS: u64 = 5_000;
const FLOOR_MS: u64 = 250;

#[test]
fn in_any_weather_nothing_is_served_past_its_life_and_every_epoch_ends() {
    for seed in 0..RUNS {
        World::new(seed, Weather::storm(seed)).run();
    }
}

#[test]
fn in_fair_weather_service_has_no_gap_and_nothing_is_left_behind() {
    for seed in 0..RUNS {
        let world = World::new(seed, Weather::fair()).run();
        assert_eq!(world.epoch.reason(), None, "seed {seed}");
        assert!(world.server.is_empty(), "seed {seed}: {:?}", world.server);
        assert!(
            world.epoch.report().left.is_empty() && world.epoch.report().entrusted.is_empty(),
            "seed {seed}"
        );
        assert!(world.served_at_stop, "seed {seed}: not served when it was stopped");
    }
}

#[test]
fn what_the_report_does_not_name_is_gone() {
    for seed in 0..RUNS {
        let world = World::new(seed, Weather::storm(seed)).run();
        let report = world.epoch.report();
        for subject in world.server.alive(world.now_ms) {
            let named = report.left.contains(&subject) || report.entrusted.contains(&subject);
            assert!(named, "seed {seed}: {subject:?} is alive and not in {report:?}");
        }
    }
}

/// SplitMix64: the same world for the same seed, on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 32) as f64 / f64::from(u32::MAX)
    }
}

struct Weather {
    refuses: u64,
    stalls: u64,
    loses: u64,
    kills: u64,
    silent: u64,
    latency_ms: u64,
    late_ms: u64,
}

impl Weather {
    fn fair() -> Self {
        Self { refuses: 0, stalls: 0, loses: 0, kills: 0, silent: 0, latency_ms: 20, late_ms: 3 }
    }

    fn storm(seed: u64) -> Self {
        let mut dice = Dice(seed ^ 0x5707);
        let stalls = dice.below(60);
        Self {
            refuses: dice.below(5),
            stalls,
            loses: dice.below(10),
            kills: dice.below(5),
            silent: dice.below(3),
            latency_ms: 1 + dice.below(3000),
            late_ms: dice.below(400),
        }
    }
}

/// What exists at the issuer, by subject: when it ends. The token takes its leases along.
#[derive(Debug, Default)]
struct Server {
    token: Option<u64>,
    leases: BTreeMap<usize, u64>,
}

impl Server {
    fn is_empty(&self) -> bool {
        self.token.is_none() && self.leases.is_empty()
    }

    fn age(&mut self, now_ms: u64) {
        self.token = self.token.filter(|end| *end > now_ms);
        let token = self.token.is_some();
        self.leases.retain(|_, end| token && *end > now_ms);
    }

    fn alive(&self, now_ms: u64) -> Vec<Subject> {
        let token = self.token.filter(|end| *end > now_ms).map(|_| Subject::Token);
        let alive = |(request, end): (&usize, &u64)| {
            (*end > now_ms && token.is_some()).then_some(Subject::Lease(*request))
        };
        self.leases.iter().filter_map(alive).chain(token).collect()
    }
}

struct World {
    seed: u64,
    dice: Dice,
    weather: Weather,
    server: Server,
    epoch: Lifecycle,
    now_ms: u64,
    /// Answers under way: when they arrive.
    answers: Vec<(u64, Input)>,
    ttl_ms: BTreeMap<Subject, u64>,
    /// When each kind of attempt at a subject was made last, if it failed.
    last_attempt: BTreeMap<(Subject, &'static str), u64>,
    wants: usize,
    stop_ms: u64,
    limit_ms: u64,
    served_at_stop: bool,
    /// An operator ended something behind our back: service is then not our fault.
    killed: bool,
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        let mut dice = Dice(seed);
        let wants = dice.below(5) as usize;
        let fair = weather.stalls == 0 && weather.latency_ms == 20;
        let ttl = |dice: &mut Dice| {
            if fair { 5_000 + dice.below(100_000) } else { 1_000 + dice.below(60_000) }
        };
        let subjects = (0..wants).map(Subject::Lease).chain([Subject::Token]);
        let ttl_ms = subjects.map(|subject| (subject, ttl(&mut dice) / 1000 * 1000)).collect();
        let policy =
            Policy::default().renew_at(0.5 + 0.15 * dice.unit()).expect("within the bounds");
        let wanted: Vec<_> =
            (0..wants).map(|_| Want { optional: dice.chance(30), refresh: None }).collect();
        let epoch = Lifecycle::new(policy, wanted, moment(0), moment(10_000));
        let stop_ms = 5_000 + dice.below(120_000);
        let (answers, last_attempt) = (Vec::new(), BTreeMap::new());
        let limit_ms = 500 + dice.below(10_000);
        Self {
            seed,
            dice,
            weather,
            server: Server::default(),
            epoch,
            now_ms: 0,
            answers,
            ttl_ms,
            last_attempt,
            wants,
            stop_ms,
            limit_ms: if fair { 10_000 } else { limit_ms },
            served_at_stop: false,
            killed: false,
        }
    }

    fn run(mut self) -> Self {
        let mut stopped = false;
        let mut steps = 0;
        while !self.epoch.is_done() {
            steps += 1;
            assert!(steps < 20_000, "seed {}: a busy loop at {} ms", self.seed, self.now_ms);
            while let Some(action) = self.epoch.poll_action() {
                self.perform(&action);
            }
            self.check();
            self.advance(stopped);
            if !stopped && self.now_ms >= self.stop_ms {
                stopped = true;
                self.served_at_stop = self.epoch.is_serving(moment(self.now_ms));
                let by = moment(self.now_ms + self.limit_ms);
                self.epoch.handle(moment(self.now_ms), Input::Stop { by });
            }
        }
        let overdue = self.stop_ms + self.limit_ms + self.weather.late_ms + 10_001;
        assert!(self.now_ms <= overdue, "seed {}: done only at {} ms", self.seed, self.now_ms);
        self.server.age(self.now_ms);
        self
    }

    /// To the next thing that happens; the driver may oversleep.
    fn advance(&mut self, stopped: bool) {
        let timeout =
            self.epoch.poll_timeout().map(|at| at.since_origin().as_micros().div_ceil(1000) as u64);
        let answer = self.answers.iter().map(|(at, _)| *at).min();
        let stop = (!stopped).then_some(self.stop_ms);
        let next = [timeout, answer, stop].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| panic!("seed {}: nothing ever happens", self.seed));
        let late = self.dice.below(self.weather.late_ms + 1);
        self.now_ms = self.now_ms.max(next + late);
        self.server.age(self.now_ms);
        if self.dice.below(1000) < self.weather.kills {
            self.kill();
        }
        let now = self.now_ms;
        let (due, rest) =
            std::mem::take(&mut self.answers).into_iter().partition(|(at, _)| *at <= now);
        self.answers = rest;
        for (_, input) in due {
            let _: &Input = &input;
            self.epoch.handle(moment(now), input);
        }
        self.epoch.handle_timeout(moment(now));
    }

    fn kill(&mut self) {
        self.killed = true;
        match self.server.leases.keys().next().copied() {
            Some(request) if self.dice.chance(70) => drop(self.server.leases.remove(&request)),
            _ => self.server = Server::default(),
        }
    }

    fn check(&self) {
        if self.killed || !self.epoch.is_serving(moment(self.now_ms)) {
            return;
        }
        assert!(
            self.server.token.is_some(),
            "seed {}: served without a token at {} ms",
            self.seed,
            self.now_ms
        );
        let expiry = self.epoch.hard_expiry().expect("something is held");
        let earliest = self
            .server
            .leases
            .values()
            .chain(&self.server.token)
            .min()
            .copied()
            .unwrap_or_default();
        assert!(
            expiry < moment(earliest),
            "seed {}: trusted beyond the server's own promise",
            self.seed
        );
    }

    fn perform(&mut self, action: &Action) {
        let sent = self.now_ms;
        let (subject, kind) = match action {
            Action::Issue { request } => (Subject::Lease(*request), "issue"),
            Action::Refresh { request } => (Subject::Lease(*request), "refresh"),
            Action::Login => (Subject::Token, "login"),
            Action::Renew { target, .. } => (target.subject(), "renew"),
            Action::Revoke { target } => (target.subject(), "revoke"),
            Action::Serve | Action::Withdraw => return,
        };
        self.check_floor(subject, kind);
        if *action == (Action::Revoke { target: Target::Token }) {
            let busy = self
                .answers
                .iter()
                .any(|(_, input)| !matches!(about(input), Some(Subject::Token) | None));
            assert!(!busy, "seed {}: the token was revoked while a lease was in use", self.seed);
        }
        let input = self.outcome(action, subject);
        let delay = 1 + self.dice.below(self.weather.latency_ms);
        if !self.dice.chance(self.weather.silent) {
            self.answers.push((sent + delay, input));
        }
    }

    fn check_floor(&mut self, subject: Subject, kind: &'static str) {
        if let Some(last) = self.last_attempt.insert((subject, kind), self.now_ms) {
            let gap = self.now_ms - last;
            assert!(
                gap >= FLOOR_MS,
                "seed {}: {kind} of {subject:?} again after {gap} ms",
                self.seed
            );
        }
    }

    fn outcome(&mut self, action: &Action, subject: Subject) -> Input {
        let roll = Roll::new(self.dice.unit());
        let fail = |failure| Input::Failed { subject, failure, roll };
        if self.dice.chance(self.weather.refuses) {
            return fail(if self.dice.chance(50) { Failure::Denied } else { Failure::Absent });
        }
        if self.dice.chance(self.weather.stalls) {
            let wait = self.dice.chance(20).then(|| Duration::from_millis(self.dice.below(5000)));
            return fail(Failure::Transient { wait });
        }
        let lost = self.dice.chance(self.weather.loses);
        let done = self.carry_out(action, subject);
        match done {
            _ if lost => fail(Failure::Uncertain),
            Some(input) => input,
            None => fail(Failure::Gone),
        }
    }

    fn carry_out(&mut self, action: &Action, subject: Subject) -> Option<Input> {
        let sent = moment(self.now_ms);
        let ttl_ms = self.ttl_ms[&subject];
        let grant = Grant { ttl: Duration::from_millis(ttl_ms), renewable: true };
        let end = self.now_ms + ttl_ms;
        Some(match action {
            Action::Login => {
                self.server.token = Some(end);
                Input::LoggedIn { sent, grant }
            }
            Action::Issue { request } => {
                self.server.token?;
                self.server.leases.insert(*request, end);
                let id = LeaseId::new(format!("lease/{request}"));
                Input::Issued { request: *request, sent, lease: Some((id, grant)) }
            }
            Action::Renew { target: Target::Token, .. } => {
                *self.server.token.as_mut()? = end;
                Input::Renewed { subject, sent, grant }
            }
            Action::Renew { target: Target::Lease { request, .. }, .. } => {
                *self.server.leases.get_mut(request)? = end;
                Input::Renewed { subject, sent, grant }
            }
            Action::Revoke { target: Target::Token } => {
                self.server.token.take()?;
                self.server.leases.clear();
                Input::Revoked { subject }
            }
            Action::Revoke { target: Target::Lease { request, .. } } => {
                assert!(*request < self.wants);
                self.server.leases.remove(request)?;
                Input::Revoked { subject }
            }
            Action::Refresh { .. } | Action::Serve | Action::Withdraw => return None,
        })
    }
}

fn about(input: &Input) -> Option<Subject> {
    match input {
        Input::Failed { subject, .. }
        | Input::Renewed { subject, .. }
        | Input::Revoked { subject } => Some(*subject),
        Input::Issued { request, .. } | Input::Refreshed { request, .. } => {
            Some(Subject::Lease(*request))
        }
        Input::LoggedIn { .. } => Some(Subject::Token),
        Input::Stop { .. } => None,
    }
}

fn moment(ms: u64) -> Moment {
    Moment::after(Duration::from_millis(ms))
}

#[test]
fn the_storm_reaches_every_way_to_end() {
    let reasons: Vec<_> = (0..RUNS)
        .filter_map(|seed| World::new(seed, Weather::storm(seed)).run().epoch.reason())
        .collect();
    let seen = |matches: fn(&Reason) -> bool| reasons.iter().any(matches);
    assert!(seen(|reason| matches!(reason, Reason::Denied(_))), "no refused renewal");
    assert!(seen(|reason| matches!(reason, Reason::Expired(_))), "no expiry");
    assert!(seen(|reason| matches!(reason, Reason::Gone(_))), "no revocation by an operator");
    assert!(seen(|reason| matches!(reason, Reason::Missing(_))), "no missing credential");
    assert!(seen(|reason| matches!(reason, Reason::Refused(_))), "no refusal");
    assert!(seen(|reason| matches!(reason, Reason::TooLate)), "no late opening");
    assert!(seen(|reason| matches!(reason, Reason::Uncertain(_))), "no lost answer");
}
