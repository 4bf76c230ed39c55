//! A plan as a story: one line for the plan, and one for each ticket.

use crate::saga::{PlanStatus, Saga, TicketProgress, TicketState};

/// The longest message that is kept of what a worker or a person says.
const MESSAGE_CHARS_MAX: usize = 300;

/// Tells it.
pub(crate) fn tell(saga: &Saga) -> String {
    let mut story = headline(saga);
    let width = saga.tickets().map(|ticket| ticket.spec.name.as_str().len()).max().unwrap_or(0);
    let last = saga.plan().tickets().len().saturating_sub(1);
    for (position, ticket) in saga.tickets().enumerate() {
        let branch = if position == last { "└─" } else { "├─" };
        let line = format!("{branch} {:width$}  {}", ticket.spec.name, sentence(&ticket));
        story.push('\n');
        story.push_str(line.trim_end());
    }
    story
}

fn headline(saga: &Saga) -> String {
    let (name, status) = (saga.plan().name(), saga.status());
    match (status, saga.reason()) {
        (PlanStatus::Running, _) => {
            let done = saga.tickets().filter(|ticket| ticket.state == TicketState::Done).count();
            format!("plan {name}  {status}  {done} of {} done", saga.plan().tickets().len())
        }
        (_, Some(reason)) => format!("plan {name}  {status}: {reason}"),
        (_, None) => format!("plan {name}  {status}"),
    }
}

fn sentence(ticket: &TicketProgress<'_>) -> String {
    let undo = matches!(
        ticket.state,
        TicketState::UndoFailed | TicketState::Undoing | TicketState::Undone
    );
    let before = if undo { "done → " } else { "" };
    format!("{before}{}  {}", ticket.state, ticket.detail)
}

/// Makes a stranger's text safe for one line of a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let is_visible = |c: &char| !c.is_control() && !is_bidi_control(*c);
    let words = text.split_whitespace().map(|word| word.chars().filter(is_visible).collect());
    let words: Vec<String> = words.filter(|word: &String| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Characters that make what follows read in another order (Unicode TR 9).
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Direction, Event, Outcome, OutcomeStatus, Plan, PlanId, TicketName, UnixMillis};

    const RELEASE: &str = "
plan: release-broken
deadline: 10m
tickets:
  - { name: build, kind: BUILD, with: { source: s, command: [make], artifact: a } }
  - { name: test, kind: TEST, needs: [build], with: { source: s, command: [make] } }
  - { name: validate, kind: VALIDATE, needs: [build], with: { policy: p } }
  - name: deploy
    kind: DEPLOY
    needs: [test, validate]
    with: { artifact: x, file: f, into: i, release: r }
  - { name: verify, kind: EXECUTE, needs: [deploy], attempts: 2, with: { command: [curl] } }
";

    fn start() -> Saga {
        let plan = Plan::parse(RELEASE).expect("a good plan");
        Saga::start(PlanId::parse("release-1").expect("a good ID"), plan, UnixMillis(0)).0
    }

    /// Claims with the next number, which is returned.
    fn claim(saga: &mut Saga, ticket: &str, direction: Direction) -> u64 {
        let latest = saga.tickets().filter_map(|ticket| ticket.claim).max();
        let attempts: u32 = saga.tickets().map(|ticket| ticket.attempt).sum();
        let claim = latest.unwrap_or(0) + u64::from(attempts) + 1;
        let ticket = TicketName::parse(ticket).expect("a good name");
        let worker = "spiffe://td/ns/x/sa/worker-agents/worker-1".to_owned();
        let event = Event::Claimed { ticket, direction, claim, worker };
        saga.apply(UnixMillis(1), &event).expect("queued");
        claim
    }

    fn run(saga: &mut Saga, ticket: &str, direction: Direction, failure: Option<(bool, &str)>) {
        let claim = claim(saga, ticket, direction);
        let (status, message) = match failure {
            None => (OutcomeStatus::Done, "all is well"),
            Some((true, message)) => (OutcomeStatus::FailedRetryable, message),
            Some((false, message)) => (OutcomeStatus::Failed, message),
        };
        let outcome = Outcome { status, outputs: BTreeMap::new(), message: message.to_owned() };
        let ticket = TicketName::parse(ticket).expect("a good name");
        let event = Event::Ended { ticket, direction, claim, outcome };
        saga.apply(UnixMillis(2), &event).expect("current");
    }

    fn forward(saga: &mut Saga, tickets: &[&str]) {
        for ticket in tickets {
            run(saga, ticket, Direction::Forward, None);
        }
    }

    #[test]
    fn a_failed_plan_says_what_was_done_undone_and_failed() {
        let mut saga = start();
        forward(&mut saga, &["build", "test", "validate", "deploy"]);
        let failure = (false, "exited with status 1");
        run(&mut saga, "verify", Direction::Forward, Some(failure));
        run(&mut saga, "deploy", Direction::Undo, None);
        let expected = "\
plan release-broken  failed: verify: exited with status 1
├─ build     done  nothing to undo
├─ test      done  nothing to undo
├─ validate  done  nothing to undo
├─ deploy    done → undone
└─ verify    failed  exited with status 1";
        assert_eq!(saga.story(), expected);
    }

    #[test]
    fn a_running_plan_says_how_far_it_is() {
        let mut saga = start();
        let queued = "\
plan release-broken  running  0 of 5 done
├─ build     queued
├─ test      waiting  for build
├─ validate  waiting  for build
├─ deploy    waiting  for test, validate
└─ verify    waiting  for deploy";
        assert_eq!(saga.story(), queued);
        forward(&mut saga, &["build"]);
        claim(&mut saga, "test", Direction::Forward);
        let running = "\
plan release-broken  running  1 of 5 done
├─ build     done
├─ test      running  on worker-1
├─ validate  queued
├─ deploy    waiting  for test, validate
└─ verify    waiting  for deploy";
        assert_eq!(saga.story(), running);
    }

    #[test]
    fn a_done_plan_says_so_and_no_more() {
        let mut saga = start();
        forward(&mut saga, &["build", "test", "validate", "deploy", "verify"]);
        let expected = "\
plan release-broken  done
├─ build     done
├─ test      done
├─ validate  done
├─ deploy    done
└─ verify    done";
        assert_eq!(saga.story(), expected);
    }

    #[test]
    fn a_retry_and_an_undo_that_fails_are_told() {
        let mut saga = start();
        forward(&mut saga, &["build", "test", "validate", "deploy"]);
        run(&mut saga, "verify", Direction::Forward, Some((true, "no answer")));
        let retry = "└─ verify    queued  attempt 2 of 2, after: no answer";
        assert_eq!(saga.story().lines().last(), Some(retry));
        run(&mut saga, "verify", Direction::Forward, Some((true, "no answer")));
        run(&mut saga, "deploy", Direction::Undo, Some((true, "no\n\tdisk")));
        claim(&mut saga, "deploy", Direction::Undo);
        let undoing = "\
plan release-broken  unwinding: verify: no answer
├─ build     done  nothing to undo
├─ test      done  nothing to undo
├─ validate  done  nothing to undo
├─ deploy    done → undoing  on worker-1, attempt 2 of 3, after: no disk
└─ verify    failed  no answer, after 2 attempts";
        assert_eq!(saga.story(), undoing);
    }

    #[test]
    fn a_stuck_plan_says_what_is_left_behind() {
        let mut saga = start();
        forward(&mut saga, &["build", "test", "validate", "deploy"]);
        run(&mut saga, "verify", Direction::Forward, Some((false, "no answer")));
        run(&mut saga, "deploy", Direction::Undo, Some((false, "the link is gone")));
        let expected = "\
plan release-broken  stuck: verify: no answer; not undone: deploy
├─ build     done  nothing to undo
├─ test      done  nothing to undo
├─ validate  done  nothing to undo
├─ deploy    done → undo failed  the link is gone
└─ verify    failed  no answer";
        assert_eq!(saga.story(), expected);
    }

    #[test]
    fn a_cancelled_plan_says_by_whom_and_what_never_started() {
        let mut saga = start();
        forward(&mut saga, &["build"]);
        claim(&mut saga, "test", Direction::Forward);
        let (by, reason) = ("ada".to_owned(), "wrong\u{1b}[31m flag".to_owned());
        saga.apply(UnixMillis(3), &Event::CancelRequested { by, reason }).expect("running");
        let expected = "\
plan release-broken  unwinding: wrong[31m flag (by ada)
├─ build     done  nothing to undo
├─ test      running  on worker-1, told to stop
├─ validate  never started
├─ deploy    never started
└─ verify    never started";
        assert_eq!(saga.story(), expected);
    }

    #[test]
    fn a_strangers_text_stays_on_its_line() {
        for (text, expected) in [
            ("  two\r\n lines\t", "two lines"),
            ("\u{202e}evil\u{7}", "evil"),
            ("\u{0}", ""),
            ("é ü", "é ü"),
        ] {
            assert_eq!(one_line(text), expected, "{text:?}");
        }
        assert_eq!(one_line(&"é".repeat(1_000)).chars().count(), MESSAGE_CHARS_MAX + 1);
    }
}
