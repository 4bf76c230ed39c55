//! What a worker has done so far: what the registry tells those who choose between workers.

use hive_api::orchestrator::OutcomeStatus;
use hive_api::registry::AgentTelemetry;
use std::sync::{Mutex, PoisonError};

/// Counts outcomes since the start.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    done: u64,
    failed: u64,
    took_ms: u64,
    last_at_ms: i64,
}

impl Tally {
    /// Counts what was done and what failed. Withdrawn and lost tickets say nothing about the worker.
    pub(crate) fn count(&self, status: Option<OutcomeStatus>, took_ms: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Some(OutcomeStatus::Done) => counts.done += 1,
            Some(OutcomeStatus::Failed | OutcomeStatus::FailedRetryable) => counts.failed += 1,
            _ => return,
        }
        counts.took_ms = counts.took_ms.saturating_add(took_ms);
        counts.last_at_ms = crate::runner::now_ms();
    }

    pub(crate) fn telemetry(&self) -> AgentTelemetry {
        let counts = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total = counts.done + counts.failed;
        let share = |part: u64| if total == 0 { 1.0 } else { part as f64 / total as f64 };
        AgentTelemetry {
            success_rate: share(counts.done),
            avg_duration_ms: counts.took_ms.checked_div(total).map_or(0, count),
            total_executions: count(total),
            failed_executions: count(counts.failed),
            last_execution_at: counts.last_at_ms / 1000,
        }
    }
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_by_itself_is_counted() {
        let tally = Tally::default();
        for status in [
            Some(OutcomeStatus::Done),
            Some(OutcomeStatus::Failed),
            Some(OutcomeStatus::Withdrawn),
            None,
        ] {
            tally.count(status, 10);
        }
        let telemetry = tally.telemetry();
        assert_eq!((telemetry.total_executions, telemetry.failed_executions), (2, 1));
        assert_eq!((telemetry.success_rate, telemetry.avg_duration_ms), (0.5, 10));
    }
}
