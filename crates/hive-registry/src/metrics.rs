//! What the registry counts, in the text format of Prometheus. Names are the predecessor's where it had one.

use crate::agent::Standing;
use crate::census::Counts;
use crate::store::StoreError;
use hive_api::registry::{AgentStatus, AgentType};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper bounds of the buckets of durations, in seconds.
const SECONDS: [f64; 8] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0];
/// Upper bounds of the buckets of numbers of agents.
const AGENTS: [f64; 8] = [0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0];
const TYPES: [AgentType; 5] = [
    AgentType::Analyst,
    AgentType::Guard,
    AgentType::Scout,
    AgentType::Unspecified,
    AgentType::Worker,
];

/// The methods of the contract.
const METHODS: [&str; 13] = [
    "Attend",
    "Deliver",
    "Deregister",
    "DiscoverAgents",
    "DiscoverMany",
    "GetAgent",
    "Heartbeat",
    "HeartbeatMany",
    "ImportAgents",
    "ListAgents",
    "NotifyAgent",
    "Register",
    "WatchAgents",
];

/// The counters of one registry. They only grow.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    registered: ByType,
    deregistered: ByType,
    died: ByType,
    removed: ByType,
    /// By type, then by status; refused ones have no type.
    beats: [[AtomicU64; 4]; 5],
    beats_refused: AtomicU64,
    beat_seconds: Histogram,
    looks: AtomicU64,
    calls: [Call; METHODS.len()],
    candidates: Histogram,
    discoveries: ByType,
    discovery_seconds: Histogram,
    matched: Histogram,
    store_seconds: Histogram,
    store_ok: AtomicU64,
    store_conflict: AtomicU64,
    store_error: AtomicU64,
    freezes: AtomicU64,
    feed_cuts: AtomicU64,
    pub(crate) watches: Gauge,
    watches_slow: AtomicU64,
    notified: AtomicU64,
    not_notified: AtomicU64,
}

/// How often a method was called, and how often that failed before anything was answered.
#[derive(Debug, Default)]
struct Call {
    success: AtomicU64,
    error: AtomicU64,
}

/// A counter for each type of agents.
#[derive(Debug, Default)]
struct ByType([AtomicU64; 5]);

impl ByType {
    fn add(&self, agent_type: AgentType) {
        self.0[place(agent_type)].fetch_add(1, Ordering::Relaxed);
    }
}

fn place(agent_type: AgentType) -> usize {
    TYPES.iter().position(|known| *known == agent_type).unwrap_or_default()
}

/// What goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; 8],
    count: AtomicU64,
    /// In millionths, so that it can be one number.
    sum_millionths: AtomicU64,
}

impl Histogram {
    fn record(&self, bounds: &[f64; 8], value: f64) {
        if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_millionths.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn registered(&self, agent_type: AgentType) {
        self.registered.add(agent_type);
    }

    pub(crate) fn deregistered(&self, agent_type: AgentType) {
        self.deregistered.add(agent_type);
    }

    pub(crate) fn died(&self, agent_type: AgentType) {
        self.died.add(agent_type);
    }

    pub(crate) fn removed(&self, agent_type: AgentType) {
        self.removed.add(agent_type);
    }

    /// A heartbeat was taken, or refused.
    pub(crate) fn beat(&self, began: Instant, heard: Option<(AgentType, Standing)>) {
        let counter = match heard {
            Some((agent_type, standing)) => {
                &self.beats[place(agent_type)][standing.status() as usize]
            }
            None => &self.beats_refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.beat_seconds.record(&SECONDS, began.elapsed().as_secs_f64());
    }

    /// Silence was looked at.
    pub(crate) fn looked(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// A method was called, and answered, or refused before that.
    pub(crate) fn called(&self, method: &str, refused: bool) {
        let Some(at) = METHODS.iter().position(|known| *known == method) else { return };
        let call = &self.calls[at];
        let counter = if refused { &call.error } else { &call.success };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn discovered(
        &self,
        wanted: Option<AgentType>,
        began: Instant,
        candidates: usize,
        found: usize,
    ) {
        self.candidates.record(&AGENTS, candidates as f64);
        self.discoveries.add(wanted.unwrap_or_default());
        self.discovery_seconds.record(&SECONDS, began.elapsed().as_secs_f64());
        self.matched.record(&AGENTS, found as f64);
    }

    pub(crate) fn frozen(&self) {
        self.freezes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn feed_cut(&self) {
        self.feed_cuts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn slow_watch(&self) {
        self.watches_slow.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn notified(&self, reached: bool) {
        let counter = if reached { &self.notified } else { &self.not_notified };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and times one call to the store.
    pub(crate) async fn timed_store<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let answer = call.await;
        let counter = match &answer {
            Ok(_) => &self.store_ok,
            Err(StoreError::Conflict) => &self.store_conflict,
            Err(_) => &self.store_error,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.store_seconds.record(&SECONDS, began.elapsed().as_secs_f64());
        answer
    }

    /// All of it, with the agents that there are at this moment. An agent's lease is `lease` long.
    pub(crate) fn render(&self, agents: &Counts, frozen: bool, lease: Duration) -> String {
        let mut text = String::new();
        // A String takes whatever is written to it.
        _ = self.write(&mut text, agents, frozen, lease);
        text
    }

    fn write(&self, f: &mut String, agents: &Counts, frozen: bool, lease: Duration) -> fmt::Result {
        active(f, agents, lease)?;
        by_type(
            f,
            "agents_registered_total",
            "Agents that were registered anew.",
            &self.registered,
        )?;
        by_type(f, "agents_deregistered_total", "Agents that left.", &self.deregistered)?;
        by_type(
            f,
            "agents_marked_unhealthy_total",
            "Agents that fell silent and died.",
            &self.died,
        )?;
        by_type(f, "agents_removed_total", "Dead agents that were forgotten.", &self.removed)?;
        by_type(
            f,
            "discovery_requests_total",
            "Questions for agents, by type.",
            &self.discoveries,
        )?;
        self.heartbeats(f)?;
        histogram(f, "discovery_duration_seconds", &SECONDS, &self.discovery_seconds)?;
        histogram(f, "heartbeat_latency_seconds", &SECONDS, &self.beat_seconds)?;
        histogram(f, "matching_candidates_evaluated", &AGENTS, &self.candidates)?;
        histogram(f, "agents_matched", &AGENTS, &self.matched)?;
        plain(f, "health_checks_total", "counter", count(&self.looks))?;
        self.operations(f)?;
        histogram(f, "etcd_operation_duration_seconds", &SECONDS, &self.store_seconds)?;
        let store = [
            ("success", &self.store_ok),
            ("conflict", &self.store_conflict),
            ("error", &self.store_error),
        ];
        labelled(
            f,
            "etcd_operations_total",
            "Writes to the store, whichever it is.",
            "status",
            &store,
        )?;
        let notified = [("reached", &self.notified), ("not_reached", &self.not_notified)];
        labelled(f, "hive_registry_notifications_total", "Notifications.", "status", &notified)?;
        plain(f, "hive_registry_freezes_total", "counter", count(&self.freezes))?;
        plain(f, "hive_registry_frozen", "gauge", u64::from(frozen))?;
        plain(f, "hive_registry_feed_cuts_total", "counter", count(&self.feed_cuts))?;
        plain(f, "hive_registry_watches", "gauge", count(&self.watches.0))?;
        plain(f, "hive_registry_watches_slow_total", "counter", count(&self.watches_slow))
    }

    fn heartbeats(&self, f: &mut String) -> fmt::Result {
        let name = "heartbeats_received_total";
        writeln!(f, "# TYPE {name} counter")?;
        for (agent_type, beats) in TYPES.iter().zip(&self.beats) {
            for status in [AgentStatus::Healthy, AgentStatus::Unhealthy, AgentStatus::Degraded] {
                let (kind, word) = (agent_type.as_str_name(), status.as_str_name());
                let beats = count(&beats[status as usize]);
                writeln!(f, "{name}{{agent_type=\"{kind}\",status=\"{word}\"}} {beats}")?;
            }
        }
        let refused = count(&self.beats_refused);
        writeln!(f, "{name}{{agent_type=\"\",status=\"refused\"}} {refused}")
    }

    fn operations(&self, f: &mut String) -> fmt::Result {
        let name = "registry_operations_total";
        writeln!(f, "# HELP {name} Calls that were let through.\n# TYPE {name} counter")?;
        for (method, call) in METHODS.iter().zip(&self.calls) {
            for (status, counter) in [("success", &call.success), ("error", &call.error)] {
                let labels = format!("operation=\"{method}\",status=\"{status}\"");
                writeln!(f, "{name}{{{labels}}} {}", count(counter))?;
            }
        }
        Ok(())
    }
}

/// How many agents there are, and when the first of them would be dead.
fn active(f: &mut String, agents: &Counts, lease: Duration) -> fmt::Result {
    writeln!(f, "# TYPE agents_active gauge")?;
    for ((agent_type, status), count) in &agents.agents {
        let (kind, word) = (agent_type.as_str_name(), status.as_str_name());
        writeln!(f, "agents_active{{agent_type=\"{kind}\",status=\"{word}\"}} {count}")?;
    }
    let Some(oldest) = agents.heard_first else { return Ok(()) };
    let expiry = oldest as f64 + lease.as_secs_f64();
    let name = "hive_registry_next_expiry_timestamp_seconds";
    writeln!(f, "# HELP {name} When the first live agent dies unless it is heard.")?;
    writeln!(f, "# TYPE {name} gauge\n{name} {expiry}")
}

fn by_type(f: &mut String, name: &str, help: &str, counters: &ByType) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} counter")?;
    for (agent_type, counter) in TYPES.iter().zip(&counters.0) {
        writeln!(f, "{name}{{agent_type=\"{}\"}} {}", agent_type.as_str_name(), count(counter))?;
    }
    Ok(())
}

fn labelled(
    f: &mut String,
    name: &str,
    help: &str,
    label: &str,
    counters: &[(&str, &AtomicU64)],
) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} counter")?;
    for (value, counter) in counters {
        writeln!(f, "{name}{{{label}=\"{value}\"}} {}", count(counter))?;
    }
    Ok(())
}

fn histogram(f: &mut String, name: &str, bounds: &[f64; 8], histogram: &Histogram) -> fmt::Result {
    writeln!(f, "# TYPE {name} histogram")?;
    let mut below = 0;
    for (bound, bucket) in bounds.iter().zip(&histogram.buckets) {
        below += count(bucket);
        writeln!(f, "{name}_bucket{{le=\"{bound}\"}} {below}")?;
    }
    let all = count(&histogram.count);
    let sum = count(&histogram.sum_millionths) as f64 / 1e6;
    writeln!(f, "{name}_bucket{{le=\"+Inf\"}} {all}\n{name}_sum {sum}\n{name}_count {all}")
}

fn plain(f: &mut String, name: &str, kind: &str, value: u64) -> fmt::Result {
    writeln!(f, "# TYPE {name} {kind}\n{name} {value}")
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
