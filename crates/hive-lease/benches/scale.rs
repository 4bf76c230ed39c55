//! Ten thousand leases in one process: what a renewal costs, what a lease holds, and how renewals spread after a joint start.
//!
//! `cargo bench -p hive-lease --bench scale`. One login token, leases of an hour, an issuer that answers after 20 ms.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use hive_lease::{
    Action, Generation, Grant, Input, LeaseId, Moment, Policy, Roll, Rotation, RotationAction,
    RotationInput, Want,
};

const LEASES: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3600);
const ANSWER: Duration = Duration::from_millis(20);
const HOURS: u64 = 10;

fn main() {
    let mut made = None;
    let info = allocation_counter::measure(|| made = Some(Stand::started()));
    let mut stand = made.unwrap();
    let ids = LEASES * (lease_id(0).len());
    println!(
        "{LEASES} leases served; the machine holds {} bytes in {} allocations: {:.0} bytes a lease, {:.0} of them its id",
        info.bytes_current,
        info.count_current,
        info.bytes_current as f64 / LEASES as f64,
        ids as f64 / LEASES as f64
    );
    let opened = stand.now;
    let mut spent = Duration::ZERO;
    let info = allocation_counter::measure(|| spent = stand.live(opened + HOUR * HOURS as u32));
    let renewals = stand.renewals.len();
    println!(
        "{HOURS} virtual hours: {renewals} renewals in {:.3} s on a processor: {:.2} us each, {:.1} allocations each",
        spent.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / renewals as f64,
        info.count_total as f64 / renewals as f64
    );
    println!(
        "at this rate {:.5} % of one core",
        100.0 * spent.as_secs_f64() / (HOURS as f64 * 3600.0)
    );
    histogram(&stand.renewals, opened);
    let begun = on_cpu();
    let now = Moment::after(stand.now);
    stand.rotation.handle(now, RotationInput::Stop { by: now + HOUR });
    stand.live(stand.now + HOUR);
    assert!(stand.rotation.is_done());
    println!(
        "{LEASES} leases given back in {:.3} s on a processor",
        (on_cpu() - begun).as_secs_f64()
    );
}

/// Renewals per second, in buckets of a minute.
fn histogram(renewals: &[Duration], opened: Duration) {
    let seconds = |at: &Duration| (*at - opened).as_secs();
    let mut each = vec![0_u32; (HOURS * 3600 + 60) as usize];
    renewals.iter().for_each(|at| each[seconds(at) as usize] += 1);
    for (name, hours) in [("first", 0..1), ("second", 1..2), ("last", HOURS - 1..HOURS)] {
        let range = (hours.start * 3600) as usize..(hours.end * 3600) as usize;
        let peak = each[range.clone()].iter().max().unwrap();
        let mean = f64::from(each[range.clone()].iter().sum::<u32>()) / 3600.0;
        println!(
            "{name} hour: mean {mean:.2} renewals a second, peak {peak}, {:.1} times the mean",
            f64::from(*peak) / mean
        );
        for (bucket, minutes) in each[range].chunks(300).enumerate() {
            let total: u32 = minutes.iter().sum();
            let rate = f64::from(total) / 300.0;
            println!(
                "  {:>2} min {rate:>6.2}/s {}",
                bucket * 5,
                "#".repeat((rate * 2.0).round() as usize)
            );
        }
    }
}

struct Stand {
    rotation: Rotation,
    now: Duration,
    answers: BinaryHeap<Reverse<(Duration, u64)>>,
    pending: std::collections::HashMap<u64, (Generation, Input)>,
    sequence: u64,
    renewals: Vec<Duration>,
}

impl Stand {
    fn started() -> Self {
        let (zero, wants) = (Moment::after(Duration::ZERO), vec![Want::default(); LEASES]);
        let rotation = Rotation::new(Policy::default(), wants, 42, zero, zero + HOUR);
        let mut stand = Self {
            rotation,
            now: Duration::ZERO,
            answers: BinaryHeap::new(),
            pending: std::collections::HashMap::new(),
            sequence: 0,
            renewals: Vec::new(),
        };
        while stand.rotation.serving(Moment::after(stand.now)).is_none() {
            stand.step(HOUR);
        }
        stand
    }

    /// Says how long the machine took for it.
    fn live(&mut self, until: Duration) -> Duration {
        self.renewals.reserve(400_000);
        let begun = on_cpu();
        while self.now < until && !self.rotation.is_done() {
            self.step(until);
        }
        on_cpu() - begun
    }

    fn step(&mut self, until: Duration) {
        while let Some(action) = self.rotation.poll_action() {
            self.perform(action);
        }
        let timeout = self.rotation.poll_timeout().map(Moment::since_origin);
        let answer = self.answers.peek().map(|Reverse((at, _))| *at);
        self.now = [timeout, answer].into_iter().flatten().min().unwrap_or(until);
        let now = Moment::after(self.now);
        if answer != Some(self.now) {
            return self.rotation.handle_timeout(now);
        }
        let Reverse((_, number)) = self.answers.pop().unwrap();
        let (generation, input) = self.pending.remove(&number).unwrap();
        self.rotation.handle(now, RotationInput::Epoch { generation, input });
    }

    fn perform(&mut self, action: RotationAction) {
        let now = Moment::after(self.now);
        match action {
            RotationAction::Epoch { generation, action } => {
                self.sequence += 1;
                self.answers.push(Reverse((self.now + ANSWER, self.sequence)));
                let input = self.answer(action);
                self.pending.insert(self.sequence, (generation, input));
            }
            RotationAction::Probe { generation } => {
                let roll = Roll::new(0.5);
                self.rotation
                    .handle(now, RotationInput::Probed { generation, outcome: Ok(()), roll });
            }
            RotationAction::Adopt { generation } => {
                self.rotation.handle(now, RotationInput::Adopted { generation });
            }
            RotationAction::Cut { generation } | RotationAction::Drain { generation, .. } => {
                self.rotation.handle(now, RotationInput::Drained { generation });
            }
            RotationAction::Ended { .. } => {}
            RotationAction::Withdraw { reason } => panic!("{reason}"),
        }
    }

    fn answer(&mut self, action: Action) -> Input {
        let (sent, grant) = (Moment::after(self.now), Grant { ttl: HOUR, renewable: true });
        match action {
            Action::Login => Input::LoggedIn { sent, grant },
            Action::Issue { request } => Input::Issued {
                request,
                sent,
                lease: Some((LeaseId::new(lease_id(request)), grant)),
            },
            Action::Renew { target, .. } => {
                self.renewals.push(self.now);
                Input::Renewed { subject: target.subject(), sent, grant }
            }
            Action::Revoke { target } => Input::Revoked { subject: target.subject() },
            other => panic!("{other:?}"),
        }
    }
}

/// How long this thread has run, not counting when it had to wait for others.
fn on_cpu() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
}

/// As long as Vault's.
fn lease_id(request: usize) -> String {
    format!("database/creds/app/{request:024}")
}
