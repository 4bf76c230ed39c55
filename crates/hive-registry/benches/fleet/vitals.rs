//! What a process weighs, as `/proc` shows it.

use std::time::{Duration, Instant};

/// The kernel's ticks, in which it counts processors' time.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) resident_kib: f64,
    pub(crate) files: usize,
    busy: Duration,
}

impl Sample {
    pub(crate) fn of(pid: u32) -> Self {
        let status = read(&format!("/proc/{pid}/status"));
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self {
            at: Instant::now(),
            resident_kib: resident.split_whitespace().next().unwrap().parse().unwrap(),
            files,
            busy: busy(pid),
        }
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        self.resident_kib / 1024.0
    }

    /// The processors' time that it has used since then.
    pub(crate) fn busy_since(&self, earlier: &Self) -> Duration {
        self.busy - earlier.busy
    }

    /// Processors that were busy with it since then, on average.
    pub(crate) fn cores_since(&self, earlier: &Self) -> f64 {
        self.busy_since(earlier).as_secs_f64() / (self.at - earlier.at).as_secs_f64()
    }
}

/// The slope of the line that fits best, in KiB a minute.
pub(crate) fn growth(samples: &[Sample]) -> f64 {
    let Some(first) = samples.first() else { return f64::NAN };
    let minutes = |sample: &Sample| (sample.at - first.at).as_secs_f64() / 60.0;
    let count = samples.len() as f64;
    let mean_x = samples.iter().map(minutes).sum::<f64>() / count;
    let mean_y = samples.iter().map(|sample| sample.resident_kib).sum::<f64>() / count;
    let spread: f64 = samples.iter().map(|sample| (minutes(sample) - mean_x).powi(2)).sum();
    let together = |sample: &Sample| (minutes(sample) - mean_x) * (sample.resident_kib - mean_y);
    samples.iter().map(together).sum::<f64>() / spread
}

/// How many have been runnable on this machine, in the last minute.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split_whitespace().next().unwrap().to_owned()
}

/// TCP connections that this machine has opened so far, whoever did.
pub(crate) fn connections_opened() -> u64 {
    let counters = read("/proc/net/snmp");
    let mut tcp = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let place = names.split(' ').position(|name| name == "ActiveOpens").unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

fn busy(pid: u32) -> Duration {
    let stat = read(&format!("/proc/{pid}/stat"));
    // The name of the program may contain anything, and ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<f64>().unwrap();
    Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}
