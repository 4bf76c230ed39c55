use serde_json::json;

use super::world::World;
use super::*;
use crate::ticket::{Outcome, OutcomeStatus};

const DEPLOY: &str = "kind: DEPLOY, with: { artifact: a, file: f, into: i, release: r }";
const PLAIN: &str = "kind: EXECUTE, with: { command: [c] }";

/// A plan of these tickets: name, needs, and the rest.
fn plan(tickets: &[(&str, &str, &str)]) -> Plan {
    let ticket = |(name, needs, rest): &(&str, &str, &str)| {
        format!("- {{ name: {name}, needs: [{needs}], {rest} }}\n")
    };
    let tickets: String = tickets.iter().map(ticket).collect();
    let source = format!("plan: p\ndeadline: 10m\ntickets:\n{tickets}");
    Plan::parse(&source).unwrap_or_else(|mistakes| panic!("{mistakes}\n{source}"))
}

fn name(text: &str) -> TicketName {
    TicketName::parse(text).expect("a good name")
}

fn outcome(status: OutcomeStatus, message: &str) -> Outcome {
    Outcome { status, outputs: BTreeMap::new(), message: message.to_owned() }
}

fn done() -> Outcome {
    outcome(OutcomeStatus::Done, "")
}

/// Drives a saga by hand. Commands are written `queue a#1@0`, `undo a#1@0`, `withdraw a`, `finish`.
struct Hand {
    saga: Saga,
    now: UnixMillis,
    claims: u64,
}

impl Hand {
    fn start(plan: Plan) -> (Self, Vec<String>) {
        let id = PlanId::parse("p-1").expect("a good ID");
        let (saga, commands) = Saga::start(id, plan, UnixMillis(0));
        (Self { saga, now: UnixMillis(0), claims: 0 }, written(commands))
    }

    fn apply(&mut self, event: &Event) -> Result<Vec<String>, Refused> {
        self.saga.apply(self.now, event).map(written)
    }

    fn claim(&mut self, ticket: &str, direction: Direction) -> u64 {
        self.claims += 1;
        let (claim, worker) = (self.claims, "spiffe://td/ns/x/sa/worker-1".to_owned());
        let event = Event::Claimed { ticket: name(ticket), direction, claim, worker };
        assert_eq!(self.apply(&event), Ok(vec![]));
        claim
    }

    /// Claims and ends.
    fn run(&mut self, ticket: &str, outcome: Outcome) -> Vec<String> {
        self.run_direction(ticket, Direction::Forward, outcome)
    }

    fn undo(&mut self, ticket: &str, outcome: Outcome) -> Vec<String> {
        self.run_direction(ticket, Direction::Undo, outcome)
    }

    fn run_direction(&mut self, ticket: &str, direction: Direction, end: Outcome) -> Vec<String> {
        let claim = self.claim(ticket, direction);
        self.apply(&ended(ticket, direction, claim, end)).expect("its claim is current")
    }

    fn cancel(&mut self) -> Vec<String> {
        let (by, reason) = ("ada".to_owned(), "wrong flag".to_owned());
        self.apply(&Event::CancelRequested { by, reason }).expect("running")
    }

    fn words(&self) -> Vec<String> {
        let words = self.saga.tickets().map(|ticket| format!("{} {}", ticket.state, ticket.detail));
        words.map(|words| words.trim_end().to_owned()).collect()
    }
}

fn ended(ticket: &str, direction: Direction, claim: u64, outcome: Outcome) -> Event {
    Event::Ended { ticket: name(ticket), direction, claim, outcome }
}

fn lost(ticket: &str, claim: u64) -> Event {
    Event::Lost { ticket: name(ticket), direction: Direction::Forward, claim }
}

fn written(commands: Vec<Command>) -> Vec<String> {
    let write = |command| match command {
        Command::Finish { status } => format!("finish {status}"),
        Command::Queue { ticket, direction, attempt, not_before } => {
            let verb = if direction == Direction::Undo { "undo" } else { "queue" };
            format!("{verb} {ticket}#{attempt}@{}", not_before.0)
        }
        Command::Withdraw { ticket, .. } => format!("withdraw {ticket}"),
    };
    commands.into_iter().map(write).collect()
}

#[test]
fn a_ticket_is_queued_when_all_it_needs_is_done() {
    let tickets = [("a", "", PLAIN), ("b", "", PLAIN), ("c", "a, b", PLAIN), ("d", "c", PLAIN)];
    let (mut hand, commands) = Hand::start(plan(&tickets));
    assert_eq!(commands, ["queue a#1@0", "queue b#1@0"]);
    assert_eq!(hand.run("b", done()), [""; 0]);
    assert_eq!(hand.words(), ["queued", "done", "waiting for a", "waiting for c"]);
    assert_eq!(hand.run("a", done()), ["queue c#1@0"]);
    assert_eq!(hand.run("c", done()), ["queue d#1@0"]);
    assert_eq!(hand.run("d", done()), ["finish done"]);
    assert_eq!(hand.saga.status(), PlanStatus::Done);
    assert_eq!(hand.saga.ended_at(), Some(UnixMillis(0)));
}

#[test]
fn a_failure_withdraws_what_runs_and_then_undoes_in_reverse_order_of_completion() {
    let tickets = [
        ("a", "", DEPLOY),
        ("b", "", DEPLOY),
        ("c", "", PLAIN),
        ("d", "", DEPLOY),
        ("e", "", PLAIN),
        ("f", "a", PLAIN),
        ("g", "", PLAIN),
    ];
    let (mut hand, _) = Hand::start(plan(&tickets));
    hand.run("b", done());
    hand.run("a", done());
    hand.run("c", done());
    let d = hand.claim("d", Direction::Forward);
    let g = hand.claim("g", Direction::Forward);
    let failed = outcome(OutcomeStatus::Failed, "no disk");
    let withdrawn = ["withdraw d", "withdraw f", "withdraw g"];
    assert_eq!(hand.run("e", failed), withdrawn);
    assert_eq!(hand.saga.status(), PlanStatus::Unwinding);
    assert_eq!(hand.saga.reason().as_deref(), Some("e: no disk"));
    let stopped = ended("g", Direction::Forward, g, outcome(OutcomeStatus::Withdrawn, "stopped"));
    assert_eq!(hand.apply(&stopped), Ok(vec![]));
    // It was too late to stop, so it is done and undone like the others.
    assert_eq!(
        hand.apply(&ended("d", Direction::Forward, d, done())),
        Ok(vec!["undo d#1@0".into()])
    );
    assert_eq!(
        hand.words(),
        [
            "done to be undone",
            "done to be undone",
            "done nothing to undo",
            "undoing queued",
            "failed no disk",
            "never started",
            "withdrawn stopped",
        ]
    );
    assert_eq!(hand.undo("d", done()), ["undo a#1@0"]);
    assert_eq!(hand.undo("a", done()), ["undo b#1@0"]);
    assert_eq!(hand.undo("b", done()), ["finish failed"]);
}

#[test]
fn a_retryable_failure_is_tried_again_after_a_pause_that_doubles_up_to_a_minute() {
    let rest = format!("attempts: 8, backoff: 10s, {PLAIN}");
    let (mut hand, _) = Hand::start(plan(&[("a", "", &rest)]));
    let failed = || outcome(OutcomeStatus::FailedRetryable, "busy");
    for (attempt, not_before) in
        [(2, 10_000), (3, 20_000), (4, 40_000), (5, 60_000), (6, 60_000), (7, 60_000), (8, 60_000)]
    {
        assert_eq!(hand.run("a", failed()), [format!("queue a#{attempt}@{not_before}")]);
    }
    assert_eq!(hand.words(), ["queued attempt 8 of 8, after: busy"]);
    assert_eq!(hand.run("a", failed()), ["finish failed"]);
    assert_eq!(hand.words(), ["failed busy, after 8 attempts"]);
}

#[test]
fn a_worker_that_is_stopped_costs_its_ticket_no_attempt_five_times() {
    let (mut hand, _) = Hand::start(plan(&[("a", "", PLAIN)]));
    let withdrawn = || outcome(OutcomeStatus::Withdrawn, "the worker stops");
    for _ in 0..5 {
        assert_eq!(hand.run("a", withdrawn()), ["queue a#1@0"]);
    }
    assert_eq!(hand.words(), ["queued again, because the worker stops"]);
    assert_eq!(hand.run("a", withdrawn()), ["finish failed"]);
}

#[test]
fn a_lost_ticket_that_may_have_acted_leaves_the_plan_stuck() {
    let (mut hand, _) = Hand::start(plan(&[("a", "", DEPLOY)]));
    let claim = hand.claim("a", Direction::Forward);
    assert_eq!(hand.cancel(), ["withdraw a"]);
    assert_eq!(hand.apply(&lost("a", claim)), Ok(vec!["finish stuck".into()]));
}

#[test]
fn a_failure_for_good_is_not_tried_again() {
    let rest = format!("attempts: 5, {PLAIN}");
    let (mut hand, _) = Hand::start(plan(&[("a", "", &rest)]));
    assert_eq!(hand.run("a", outcome(OutcomeStatus::Failed, "")), ["finish failed"]);
    assert_eq!(hand.words(), ["failed no reason given"]);
}

#[test]
fn a_lost_claim_costs_no_attempt_five_times() {
    let (mut hand, _) = Hand::start(plan(&[("a", "", PLAIN)]));
    for _ in 0..5 {
        let claim = hand.claim("a", Direction::Forward);
        assert_eq!(hand.apply(&lost("a", claim)), Ok(vec!["queue a#1@0".into()]));
    }
    assert_eq!(hand.words(), ["queued again, because its worker fell silent"]);
    let claim = hand.claim("a", Direction::Forward);
    assert_eq!(hand.apply(&lost("a", claim)), Ok(vec!["finish failed".into()]));
    assert_eq!(hand.words(), ["lost 6 workers fell silent over it"]);
    assert_eq!(hand.saga.reason().as_deref(), Some("a: 6 workers fell silent over it"));
}

#[test]
fn a_claim_that_is_lost_while_the_plan_unwinds_is_not_queued_again() {
    let (mut hand, _) = Hand::start(plan(&[("a", "", DEPLOY), ("b", "", PLAIN)]));
    hand.run("a", done());
    let claim = hand.claim("b", Direction::Forward);
    assert_eq!(hand.cancel(), ["withdraw b"]);
    assert_eq!(hand.words()[1], "running on worker-1, told to stop");
    assert_eq!(hand.apply(&lost("b", claim)), Ok(vec!["undo a#1@0".into()]));
    assert_eq!(hand.words()[1], "lost its worker fell silent; how far it came is not known");
    assert_eq!(hand.undo("a", done()), ["finish cancelled"]);
}

#[test]
fn an_undo_is_tried_three_times_and_then_the_others_still_are_undone() {
    let (mut hand, _) =
        Hand::start(plan(&[("a", "", DEPLOY), ("b", "", DEPLOY), ("c", "", PLAIN)]));
    hand.run("a", done());
    hand.run("b", done());
    assert_eq!(hand.run("c", outcome(OutcomeStatus::Failed, "broken")), ["undo b#1@0"]);
    let busy = || outcome(OutcomeStatus::FailedRetryable, "busy");
    assert_eq!(hand.undo("b", busy()), ["undo b#2@1000"]);
    assert_eq!(hand.undo("b", busy()), ["undo b#3@2000"]);
    assert_eq!(hand.undo("b", busy()), ["undo a#1@0"]);
    assert_eq!(hand.undo("a", done()), ["finish stuck"]);
    assert_eq!(hand.words(), ["undone", "undo failed busy, after 3 attempts", "failed broken"]);
    assert_eq!(hand.saga.reason().as_deref(), Some("c: broken; not undone: b"));
}

#[test]
fn only_a_command_that_says_how_is_undone() {
    let with_undo = "kind: EXECUTE, with: { command: [c], undo: [u] }";
    let tickets = [("a", "", with_undo), ("b", "", PLAIN), ("c", "", PLAIN)];
    let (mut hand, _) = Hand::start(plan(&tickets));
    hand.run("a", done());
    hand.run("b", done());
    assert_eq!(hand.cancel(), ["withdraw c", "undo a#1@0"]);
    assert_eq!(hand.undo("a", done()), ["finish cancelled"]);
    assert_eq!(hand.words(), ["undone", "done nothing to undo", "never started"]);
}

#[test]
fn the_deadline_counts_from_the_start() {
    let (mut hand, _) = Hand::start(plan(&[("a", "", PLAIN)]));
    assert_eq!(hand.saga.deadline(), UnixMillis(600_000));
    let commands = hand.apply(&Event::DeadlinePassed);
    assert_eq!(commands, Ok(vec!["withdraw a".into(), "finish failed".into()]));
    assert_eq!(hand.saga.reason().as_deref(), Some("not done within 10m"));
}

#[test]
fn a_plan_cannot_be_stopped_twice() {
    let (mut hand, _) = Hand::start(plan(&[("a", "", DEPLOY), ("b", "", PLAIN)]));
    hand.run("a", done());
    hand.cancel();
    assert_eq!(hand.apply(&Event::DeadlinePassed), Err(Refused::AlreadyUnwinding));
    hand.undo("a", done());
    assert_eq!(hand.apply(&Event::DeadlinePassed), Err(Refused::Over));
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let rest = format!("attempts: 2, {PLAIN}");
    let (mut hand, _) = Hand::start(plan(&[("a", "", &rest), ("b", "a", PLAIN)]));
    let forward = Direction::Forward;
    let claimed = |ticket: &str, direction, claim| Event::Claimed {
        ticket: name(ticket),
        direction,
        claim,
        worker: "w".to_owned(),
    };
    let first = hand.claim("a", forward);
    let retry = outcome(OutcomeStatus::FailedRetryable, "");
    let first_report = ended("a", forward, first, retry);
    hand.apply(&first_report).expect("current");
    let second = hand.claim("a", forward);
    hand.apply(&lost("a", second)).expect("current");
    let before = hand.saga.clone();
    let a = || name("a");
    for (event, expected) in [
        (claimed("x", forward, 9), Refused::UnknownTicket { ticket: name("x") }),
        (claimed("a", Direction::Undo, 9), Refused::UnknownTicket { ticket: a() }),
        (claimed("b", forward, 9), Refused::NotQueued { ticket: name("b") }),
        (claimed("a", forward, second), Refused::StaleClaim { ticket: a(), claim: second }),
        (first_report, Refused::AlreadyEnded { ticket: a(), claim: first }),
        (lost("a", first), Refused::AlreadyEnded { ticket: a(), claim: first }),
        (lost("a", second), Refused::StaleClaim { ticket: a(), claim: second }),
        (ended("a", forward, second, done()), Refused::StaleClaim { ticket: a(), claim: second }),
        (ended("a", forward, 9, done()), Refused::UnknownClaim { ticket: a(), claim: 9 }),
    ] {
        assert_eq!(hand.apply(&event), Err(expected), "{event:?}");
        assert_eq!(hand.saga, before, "{event:?}");
    }
}

#[test]
fn outputs_reach_the_parameters_of_those_that_need_them() {
    let build = "kind: BUILD, with: { source: s, command: [c], artifact: a }";
    let rest = "kind: EXECUTE, with: { command: [run, 'x ${a.artifact} $${y}'] }";
    let (mut hand, _) = Hand::start(plan(&[("a", "", build), ("b", "a", rest)]));
    let outputs = BTreeMap::from([("artifact".to_owned(), "sha256:0a".to_owned())]);
    assert_eq!(hand.run("a", Outcome { outputs: outputs.clone(), ..done() }), ["queue b#1@0"]);
    assert_eq!(hand.saga.outputs(&name("a")), &outputs);
    let parameters = hand.saga.parameters(&name("b"));
    assert_eq!(Value::Object(parameters), json!({ "command": ["run", "x sha256:0a ${y}"] }));
    assert!(hand.saga.parameters(&name("nobody")).is_empty());
    assert!(hand.saga.outputs(&name("nobody")).is_empty());
}

#[test]
fn a_ticket_that_keeps_back_an_output_stops_the_plan_and_is_undone() {
    let rest = "kind: EXECUTE, with: { command: ['${a.program}'] }";
    let (mut hand, _) = Hand::start(plan(&[("a", "", DEPLOY), ("b", "a", rest)]));
    assert_eq!(hand.run("a", done()), ["undo a#1@0"]);
    let reason = "a: done, but without `program`, which other tickets refer to";
    assert_eq!(hand.saga.reason().as_deref(), Some(reason));
    assert_eq!(hand.undo("a", done()), ["finish failed"]);
}

#[test]
fn what_is_outstanding_can_be_asked_for_at_any_time() {
    let (mut hand, commands) = Hand::start(plan(&[("a", "", DEPLOY), ("b", "", PLAIN)]));
    assert_eq!(written(hand.saga.outstanding()), commands);
    let claim = hand.claim("b", Direction::Forward);
    assert_eq!(written(hand.saga.outstanding()), ["queue a#1@0"]);
    hand.run("a", done());
    hand.cancel();
    assert_eq!(written(hand.saga.outstanding()), ["withdraw b"]);
    hand.apply(&lost("b", claim)).expect("current");
    assert_eq!(written(hand.saga.outstanding()), ["undo a#1@0"]);
    hand.undo("a", done());
    assert_eq!(written(hand.saga.outstanding()), ["finish cancelled"]);
}

#[test]
fn the_log_is_stable_json() {
    let outputs = BTreeMap::from([("file".to_owned(), "hello".to_owned())]);
    let (ticket, direction) = (name("a"), Direction::Forward);
    let cases = [
        (
            Event::Claimed { ticket: ticket.clone(), direction, claim: 7, worker: "w".to_owned() },
            json!({"event": "claimed", "ticket": "a", "direction": "forward", "claim": 7, "worker": "w"}),
        ),
        (
            Event::Lost { ticket: ticket.clone(), direction: Direction::Undo, claim: 7 },
            json!({"event": "lost", "ticket": "a", "direction": "undo", "claim": 7}),
        ),
        (
            Event::Ended { ticket, direction, claim: 7, outcome: Outcome { outputs, ..done() } },
            json!({"event": "ended", "ticket": "a", "direction": "forward", "claim": 7,
                   "outcome": {"status": "done", "outputs": {"file": "hello"}}}),
        ),
        (
            Event::CancelRequested { by: "ada".to_owned(), reason: "no".to_owned() },
            json!({"event": "cancel_requested", "by": "ada", "reason": "no"}),
        ),
        (Event::DeadlinePassed, json!({"event": "deadline_passed"})),
    ];
    for (event, expected) in cases {
        assert_eq!(serde_json::to_value(&event).expect("JSON"), expected);
        assert_eq!(serde_json::from_value::<Event>(expected).expect("an event"), event);
    }
    let statuses = ["done", "failed", "failed_retryable", "withdrawn"];
    for status in statuses {
        let read: OutcomeStatus = serde_json::from_value(json!(status)).expect("a status");
        assert_eq!(serde_json::to_value(read).expect("JSON"), json!(status));
    }
}

/// A few shapes of plans, all of whose tickets can be undone.
fn shapes() -> Vec<(&'static str, Plan)> {
    let of = |tickets: &[(&str, &str)]| {
        let tickets: Vec<_> = tickets.iter().map(|(name, needs)| (*name, *needs, DEPLOY)).collect();
        plan(&tickets)
    };
    vec![
        ("one", of(&[("a", "")])),
        ("line", of(&[("a", ""), ("b", "a"), ("c", "b"), ("d", "c")])),
        ("diamond", of(&[("a", ""), ("b", "a"), ("c", "a"), ("d", "b, c")])),
        ("fan", of(&[("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "a, b, c, d")])),
        ("islands", of(&[("a", ""), ("b", "a"), ("c", ""), ("d", "c")])),
    ]
}

/// Runs a plan in which one ticket ends so in one direction, and every report arrives twice.
fn run_with(plan: &Plan, cause: Option<&TicketName>, undo: Option<&TicketName>) -> World {
    let mut world = World::new(plan.clone());
    for _ in 0..1_000 {
        if world.saga.status().is_over() {
            break;
        }
        world.claim(0);
        let Some(held) = world.held.first().cloned() else { continue };
        let culprit = if held.direction == Direction::Undo { undo } else { cause };
        let failed = culprit == Some(&held.ticket);
        world.report(0, if failed { OutcomeStatus::Failed } else { OutcomeStatus::Done });
        let repeated = world.reports.last().cloned().expect("just reported");
        assert!(matches!(world.refuse(&repeated), Refused::AlreadyEnded { .. }));
    }
    world.check_end();
    world
}

#[test]
fn whichever_ticket_fails_everything_before_it_is_undone() {
    for (shape, plan) in shapes() {
        assert_eq!(run_with(&plan, None, None).saga.status(), PlanStatus::Done, "{shape}");
        for culprit in plan.tickets() {
            let world = run_with(&plan, Some(&culprit.name), None);
            assert_eq!(world.saga.status(), PlanStatus::Failed, "{shape}: {}", culprit.name);
            assert_eq!(world.undone.len(), world.done.len(), "{shape}: {}", culprit.name);
        }
    }
}

#[test]
fn whichever_undo_fails_the_others_still_are_undone() {
    for (shape, plan) in shapes() {
        let names: Vec<_> = plan.tickets().iter().map(|ticket| &ticket.name).collect();
        for (cause, undo) in names.iter().flat_map(|a| names.iter().map(move |b| (*a, *b))) {
            let world = run_with(&plan, Some(cause), Some(undo));
            let was_done = world.done.contains(undo);
            let expected = if was_done { PlanStatus::Stuck } else { PlanStatus::Failed };
            assert_eq!(world.saga.status(), expected, "{shape}: {cause}, undo of {undo}");
            assert_eq!(world.undone.len() + usize::from(was_done), world.done.len());
        }
    }
}
