//! All connections are cut at once, while the registry is short of processor time.
//!
//! A storm ends when every agent has heartbeaten again, or after three minutes. What is told of it are counts and shares, for how
//! long it takes depends on the machine: who came back, how many heartbeats failed and connections were opened for that, what
//! processor time the registry used for each who came back, how its handshakes ended, and who was told dead.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::vitals::Sample;

pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// After a storm, until the next one: a few heartbeats of everybody.
pub(crate) const CALM: Duration = Duration::from_secs(20);
const LASTS_MAX: Duration = Duration::from_secs(180);
/// What the registry counts of its handshakes.
const HANDSHAKES: &str = "hive_tls_handshakes_total{status=";

/// What can be known from outside at one moment.
pub(crate) struct Look {
    pub(crate) sample: Sample,
    /// That this machine has opened, whoever did.
    pub(crate) connections: u64,
    pub(crate) dead: u64,
    pub(crate) metrics: String,
}

pub(crate) struct Storm {
    agents: u64,
    began: Instant,
    back: u64,
    failed: u64,
    /// When half, nine in ten and all of them were back.
    shares: [(f64, Option<Duration>); 3],
    connections: u64,
    busy: Duration,
    dead: u64,
    handshakes: Vec<(String, u64)>,
}

/// Keeps one processor busy until its input ends.
pub(crate) fn hog() {
    std::thread::spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    _ = std::io::stdin().read(&mut [0]);
}

impl Storm {
    pub(crate) fn of(agents: u64) -> Self {
        Self {
            agents,
            began: Instant::now(),
            back: 0,
            failed: 0,
            shares: [0.5, 0.9, 1.0].map(|share| (share, None)),
            connections: 0,
            busy: Duration::ZERO,
            dead: 0,
            handshakes: Vec::new(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.back < self.agents && self.began.elapsed() < LASTS_MAX
    }

    pub(crate) fn note(&mut self, back: u64, failed: u64) {
        (self.back, self.failed) = (back, failed);
        for (share, reached) in &mut self.shares {
            if back as f64 >= self.agents as f64 * *share {
                reached.get_or_insert(self.began.elapsed());
            }
        }
    }

    pub(crate) fn end(&mut self, before: &Look, after: &Look) {
        self.connections = after.connections - before.connections;
        self.busy = after.sample.busy_since(&before.sample);
        self.dead = after.dead - before.dead;
        let earlier = handshakes(&before.metrics);
        let later = handshakes(&after.metrics).into_iter().zip(earlier);
        self.handshakes = later.map(|((status, now), (_, then))| (status, now - then)).collect();
    }
}

/// How many ended how.
fn handshakes(metrics: &str) -> Vec<(String, u64)> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(HANDSHAKES));
    let counts = lines.filter_map(|line| line.split_once("} "));
    counts.map(|(status, count)| (status.to_owned(), count.parse().unwrap())).collect()
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agents, back, failed, connections, dead, .. } = self;
        write!(f, "{back} of {agents} came back")?;
        for (share, reached) in &self.shares {
            let percent = share * 100.0;
            match reached {
                Some(after) => write!(f, ", {percent:.0} % after {:.1} s", after.as_secs_f64())?,
                None => write!(f, ", {percent:.0} % never")?,
            }
        }
        let each = self.busy.as_secs_f64() * 1000.0 / (*back).max(1) as f64;
        write!(f, "; {failed} heartbeats failed, {connections} connections opened, ")?;
        write!(f, "{each:.2} ms of processor for each, {dead} told dead")?;
        self.handshakes.iter().try_for_each(|(status, count)| write!(f, ", {count} {status}"))
    }
}
