//! From what happened to what is reported.

use super::Assignment;
use super::halt::Cause;
use crate::executors::{Failure, Verdict};
use hive_api::orchestrator as wire;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use wire::OutcomeStatus as Status;

/// One sentence for people; a command that prints a novel in one line does not get all of it into the log.
const MESSAGE_CHARS: usize = 600;

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// When the ticket must have ended, on the clock that does not jump.
pub(super) fn deadline(ticket: &wire::Ticket) -> Instant {
    let left = u64::try_from(ticket.deadline_ms.saturating_sub(now_ms())).unwrap_or(0);
    Instant::now() + Duration::from_millis(left)
}

/// The ID of the ticket whose work this is: an undo has that of its ticket with `~undo` behind it.
pub(super) fn forward_id(ticket_id: &str) -> &str {
    ticket_id.strip_suffix("~undo").unwrap_or(ticket_id)
}

pub(super) fn of(
    assignment: &Assignment,
    verdict: Verdict,
    cause: Option<&Cause>,
    notes: &[String],
    started_at_ms: i64,
) -> wire::Outcome {
    let ticket = &assignment.ticket;
    let (status, outputs, message) = match verdict {
        Ok(done) => (Status::Done, done.outputs, done.message),
        Err(failure) => {
            let (status, message) = failed(failure, cause, ticket.timeout_ms);
            (status, Default::default(), message)
        }
    };
    let sentence =
        std::iter::once(message).chain(notes.iter().cloned()).filter(|part| !part.is_empty());
    let message = sentence.collect::<Vec<_>>().join("; ");
    wire::Outcome {
        ticket_id: ticket.ticket_id.clone(),
        claim: ticket.claim,
        status: status.into(),
        outputs: outputs.into_iter().collect(),
        message: message.chars().take(MESSAGE_CHARS).collect(),
        started_at_ms,
        ended_at_ms: now_ms(),
    }
}

fn failed(failure: Failure, cause: Option<&Cause>, timeout_ms: u64) -> (Status, String) {
    match (failure, cause) {
        (Failure::Final(reason), _) => (Status::Failed, reason),
        (Failure::Retryable(reason), _) => (Status::FailedRetryable, reason),
        (Failure::TimedOut(line), _) => (Status::FailedRetryable, timed_out(timeout_ms, line)),
        (Failure::Stopped, Some(Cause::Deadline)) => {
            (Status::FailedRetryable, timed_out(timeout_ms, None))
        }
        (Failure::Stopped, Some(Cause::LoanFailed(reason))) => {
            (Status::FailedRetryable, format!("its credentials could not be kept: {reason}"))
        }
        (Failure::Stopped, Some(Cause::Withdrawn(reason))) => (Status::Withdrawn, reason.clone()),
        (Failure::Stopped, Some(Cause::Draining)) => {
            (Status::Withdrawn, "its worker is stopping".to_owned())
        }
        (Failure::Stopped, Some(Cause::Lost) | None) => {
            (Status::Withdrawn, "its claim was lost".to_owned())
        }
    }
}

fn timed_out(timeout_ms: u64, line: Option<String>) -> String {
    let after = match timeout_ms {
        ms if ms > 0 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    };
    match line {
        Some(line) => format!("timed out after {after}: {line}"),
        None => format!("timed out after {after}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_reported_as_what_caused_it() {
        let table = [
            (Cause::Deadline, Status::FailedRetryable, "timed out after 30s"),
            (
                Cause::LoanFailed("x".to_owned()),
                Status::FailedRetryable,
                "its credentials could not be kept: x",
            ),
            (Cause::Withdrawn("cancelled".to_owned()), Status::Withdrawn, "cancelled"),
            (Cause::Draining, Status::Withdrawn, "its worker is stopping"),
        ];
        for (cause, status, message) in table {
            let reported = failed(Failure::Stopped, Some(&cause), 30_000);
            assert_eq!(reported, (status, message.to_owned()), "{cause:?}");
        }
    }

    #[test]
    fn a_timeout_says_how_long_it_was_and_what_was_said_last() {
        assert_eq!(
            timed_out(120_000, Some("Compiling".to_owned())),
            "timed out after 2m: Compiling"
        );
        assert_eq!(timed_out(1_500, None), "timed out after 1500ms");
    }
}
