//! Whether an agent is alive and well: a function of its last sign of life, its telemetry and the time handed in.
//!
//! Nothing is stored, so nothing can be stale: a silent agent is unhealthy in the very answer that a caller reads.

use crate::registration::Agent;
use hive_api::registry::AgentStatus;
use std::time::{Duration, Instant};

/// A silent agent is forgotten after this many heartbeat time-outs: long enough to see that it fell silent.
const TIMEOUTS_UNTIL_GONE: u32 = 4;
/// Below this share of successes an agent is avoided, and below the second it is not used.
const DEGRADED_BELOW: f64 = 0.5;
const UNHEALTHY_BELOW: f64 = 0.3;

/// One moment on both clocks: a wall clock that jumps must not expire a fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For measuring silence.
    pub(crate) monotonic: Instant,
    /// For telling callers, in seconds since the epoch.
    pub(crate) wall_s: i64,
}

/// How an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Healthy,
    Degraded,
    Unhealthy,
    /// Silent for so long that it counts as removed.
    Gone,
}

impl Standing {
    /// Whether work may be given to it.
    pub(crate) fn is_discoverable(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }

    /// The word on the wire.
    pub(crate) fn status(self) -> AgentStatus {
        match self {
            Self::Degraded => AgentStatus::Degraded,
            Self::Healthy => AgentStatus::Healthy,
            Self::Gone | Self::Unhealthy => AgentStatus::Unhealthy,
        }
    }
}

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    timeout: Duration,
}

impl Liveness {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// How `agent` stands at `now`. Silence outweighs any telemetry.
    pub(crate) fn standing(self, now: Now, agent: &Agent) -> Standing {
        let silence = now.monotonic.saturating_duration_since(agent.seen.monotonic);
        if silence >= self.timeout * TIMEOUTS_UNTIL_GONE {
            Standing::Gone
        } else if silence >= self.timeout {
            Standing::Unhealthy
        } else {
            by_success(agent.success_rate())
        }
    }
}

fn by_success(rate: f64) -> Standing {
    if rate < UNHEALTHY_BELOW {
        Standing::Unhealthy
    } else if rate < DEGRADED_BELOW {
        Standing::Degraded
    } else {
        Standing::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_decides_between_healthy_degraded_and_unhealthy() {
        let table = [
            (1.0, Standing::Healthy),
            (0.5, Standing::Healthy),
            (0.49, Standing::Degraded),
            (0.3, Standing::Degraded),
            (0.29, Standing::Unhealthy),
            (0.0, Standing::Unhealthy),
        ];
        for (rate, standing) in table {
            assert_eq!(by_success(rate), standing, "{rate}");
        }
    }

    #[test]
    fn only_the_living_and_useful_are_discoverable() {
        let discoverable = [Standing::Healthy, Standing::Degraded];
        assert!(discoverable.into_iter().all(Standing::is_discoverable));
        let others = [Standing::Unhealthy, Standing::Gone];
        assert!(!others.into_iter().any(Standing::is_discoverable));
    }
}
