//! What came of it, in words.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::host::Told;
use crate::traffic::Answers;
use crate::vitals::{self, Sample};
use crate::watcher::Seen;

/// Lines of the registry's log that are shown.
const WARNINGS_MAX: usize = 5;

/// A look on the way.
pub(crate) struct Row {
    pub(crate) since: Duration,
    pub(crate) beats_per_second: f64,
    pub(crate) failed: u64,
    pub(crate) cores: f64,
    pub(crate) sample: Sample,
}

/// What is known at the end.
pub(crate) struct Outcome {
    pub(crate) told: Told,
    pub(crate) took: Vec<u32>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) answers: Arc<Answers>,
    /// Rotations of X.509 and of JWT keys that are complete.
    pub(crate) keys: [Arc<AtomicU64>; 2],
    pub(crate) metrics: String,
    pub(crate) log: String,
    pub(crate) connections: u64,
    pub(crate) empty: Sample,
    pub(crate) opened: Sample,
    pub(crate) warm: Vec<Sample>,
    pub(crate) last: Sample,
}

impl Row {
    pub(crate) fn with(&self, seen: &Seen) -> String {
        let seconds = self.since.as_secs();
        format!(
            "{:>3}:{:02}  {:>6.0} heartbeats/s  {:>4} failed  {:>4} suspect  {:>3} dead  {:>3} gone  \
             {:>8.1} MiB  {:>6} files  {:>5.2} cores  load {}",
            seconds / 60,
            seconds % 60,
            self.beats_per_second,
            self.failed,
            count(&seen.suspect),
            count(&seen.dead),
            count(&seen.gone),
            self.sample.resident_mib(),
            self.sample.files,
            self.cores,
            vitals::load(),
        )
    }
}

impl Outcome {
    /// Nobody died falsely, and a death would have been seen.
    pub(crate) fn is_good(&self) -> bool {
        self.deaths() == 0 && self.seen.silent.lock().unwrap().dead_after.is_some()
    }

    /// By the watch, by the agents' own answers, and by the registry's counters.
    fn deaths(&self) -> u64 {
        let watched = count(&self.seen.dead) + count(&self.seen.gone);
        let counted = self.metric("agents_marked_unhealthy_total{agent_type=\"WORKER\"}")
            + self.metric("agents_removed_total{agent_type=\"WORKER\"}");
        watched.max(counted).max(self.told.lost)
    }

    fn metric(&self, name: &str) -> u64 {
        let line = self.metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("there is no {name}")).trim().parse().unwrap()
    }

    fn took_ms(&self, share: f64) -> f64 {
        let place = ((self.took.len() as f64 * share) as usize).min(self.took.len() - 1);
        f64::from(self.took[place]) / 1000.0
    }

    fn calls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { beats, beats_failed, registrations_failed, lost, registered, .. } = self.told;
        writeln!(
            f,
            "heartbeats: {beats} answered, {beats_failed} failed, {lost} not known any more; p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.1} ms, slowest {:.0} ms; \
             {registered} registrations, {registrations_failed} failed",
            self.took_ms(0.5),
            self.took_ms(0.99),
            self.took_ms(0.999),
            self.took_ms(1.0),
        )?;
        let Seen { events, resumed, began_anew, .. } = &*self.seen;
        writeln!(
            f,
            "discover: {} answered, {} not; the watch had {} events, went on {} times, began anew {} times",
            count(&self.answers.found),
            count(&self.answers.failed),
            count(events),
            count(resumed),
            count(began_anew),
        )
    }

    fn identities(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x509, jwt] = self.keys.each_ref().map(|rotations| count(rotations));
        writeln!(
            f,
            "identities: each host had {} X.509-SVIDs and {} JWT-SVIDs or more, of {} and {} keys; \
             this machine opened {} connections",
            self.told.x509_svids,
            self.told.jwt_svids,
            x509 + 1,
            jwt + 1,
            self.connections,
        )
    }

    fn deaths_told(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |after: Option<Duration>| {
            after.map_or_else(
                || "never".to_owned(),
                |after| format!("after {:.1} s", after.as_secs_f64()),
            )
        };
        let silent = *self.seen.silent.lock().unwrap();
        writeln!(
            f,
            "the agent that never heartbeats: suspect {}, dead {}",
            seconds(silent.suspect_after),
            seconds(silent.dead_after)
        )?;
        writeln!(
            f,
            "all others: {} suspect, {} dead, {} gone by the watch, {} dead by the registry's count, {} mass expiries: {} FALSE DEATHS",
            count(&self.seen.suspect),
            count(&self.seen.dead),
            count(&self.seen.gone),
            self.metric("agents_marked_unhealthy_total{agent_type=\"WORKER\"}"),
            self.metric("hive_registry_freezes_total"),
            self.deaths(),
        )
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warm = self.warm.first().unwrap_or(&self.last);
        writeln!(
            f,
            "memory: {:.1} MiB empty, {:.1} with every agent, {:.1} when warm, {:.1} at the end; {:+.1} KiB a minute since warm; \
             {} files when warm, {} at the end; {:.2} cores since warm",
            self.empty.resident_mib(),
            self.opened.resident_mib(),
            warm.resident_mib(),
            self.last.resident_mib(),
            vitals::growth(&self.warm),
            warm.files,
            self.last.files,
            self.last.cores_since(warm),
        )
    }

    fn warnings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_warning = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        let warnings: Vec<&str> = self.log.lines().filter(is_warning).collect();
        writeln!(f, "the registry's log: {} warnings and errors", warnings.len())?;
        warnings.iter().take(WARNINGS_MAX).try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls(f)?;
        self.identities(f)?;
        self.deaths_told(f)?;
        self.memory(f)?;
        self.warnings(f)
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
