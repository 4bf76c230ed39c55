//! What becomes of tickets and outcomes on the wire.

use super::*;
use crate::store::Claim;
use hive_plan::{Plan, PlanId, UnixMillis};

const DEPLOY: &str = "
plan: release
tickets:
  - name: verify
    kind: EXECUTE
    timeout: 30s
    with: { command: [verify], undo: [forget] }
    credentials:
      - { name: key, path: secret/data/release }
";

fn handed_out(direction: Direction) -> HandedOut {
    let plan = Plan::parse(DEPLOY).expect("it is well-formed");
    let spec = plan.tickets()[0].clone();
    let plan_id = PlanId::parse("p1").expect("a plan ID");
    HandedOut {
        ticket: TicketId::new(plan_id, spec.name.clone(), direction),
        plan_name: "release".to_owned(),
        workspace: "/w".to_owned(),
        parameters: spec.parameters.clone(),
        spec,
        attempt: 2,
        claim: Claim {
            number: 9,
            worker: "spiffe://example.org/w1".to_owned(),
            deadline: UnixMillis(31_000),
            stop: None,
        },
        issued_at: UnixMillis(1_000),
        outputs: [("release".to_owned(), "/r".to_owned())].into(),
    }
}

fn outcome() -> Outcome {
    let status = hive_api::orchestrator::OutcomeStatus::Done.into();
    Outcome { ticket_id: "p1/verify".to_owned(), claim: 9, status, ..Outcome::default() }
}

fn signer() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/w1").expect("a SPIFFE ID")
}

#[test]
fn a_ticket_says_who_may_do_what_until_when() {
    let ticket = ticket(handed_out(Direction::Forward));
    assert_eq!((ticket.kind(), ticket.undoes()), (TicketKind::Execute, TicketKind::Unspecified));
    assert_eq!((ticket.ticket_id.as_str(), ticket.claim, ticket.attempt), ("p1/verify", 9, 2));
    assert_eq!(
        (ticket.issued_at_ms, ticket.deadline_ms, ticket.timeout_ms),
        (1_000, 31_000, 30_000)
    );
    assert_eq!(ticket.claimed_by, "spiffe://example.org/w1");
    assert_eq!(ticket.parameters_json, r#"{"command":["verify"],"undo":["forget"]}"#);
    assert_eq!(ticket.credentials[0].path, "secret/data/release");
}

#[test]
fn an_undo_says_what_it_undoes_and_what_was_put_out() {
    let ticket = ticket(handed_out(Direction::Undo));
    assert_eq!((ticket.kind(), ticket.undoes()), (TicketKind::Compensate, TicketKind::Execute));
    assert_eq!(ticket.ticket_id, "p1/verify~undo");
    assert_eq!(ticket.outputs["release"], "/r");
}

#[test]
fn an_outcome_is_kept_under_the_name_of_its_signer() {
    let kept = received(&signer(), &outcome(), vec![1]).expect("it is well-formed");
    assert_eq!((kept.claim, kept.worker), (9, signer().to_string()));
    assert_eq!(kept.ticket.to_string(), "p1/verify");
}

#[test]
fn an_outcome_without_meaning_or_bounds_is_refused() {
    let large = [("log".to_owned(), "x".repeat(OUTPUT_BYTES_MAX))].into();
    let hostile = [
        Outcome { status: 0, ..outcome() },
        Outcome { ticket_id: "p1".to_owned(), ..outcome() },
        Outcome { outputs: large, ..outcome() },
    ];
    for outcome in hostile {
        let refused = received(&signer(), &outcome, Vec::new());
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
}

#[test]
fn a_long_message_is_cut_where_a_character_ends() {
    let long = Outcome { message: "é".repeat(MESSAGE_CHARS_MAX + 1), ..outcome() };
    let kept = received(&signer(), &long, Vec::new()).expect("it is well-formed");
    assert_eq!(kept.outcome.message.chars().count(), MESSAGE_CHARS_MAX + 1);
    assert!(kept.outcome.message.ends_with('…'));
}

#[test]
fn a_claim_names_kinds_that_exist() {
    let claim = |kinds: &[i32]| kinds_of(kinds);
    assert!(claim(&[TicketKind::Build.into()]).is_ok());
    for hostile in [&[][..], &[0], &[99], &[1; 9]] {
        assert!(claim(hostile).is_err(), "{hostile:?}");
    }
}

fn kinds_of(kinds: &[i32]) -> Result<Vec<hive_plan::TicketKind>, Refused> {
    super::kinds(&ClaimRequest { kinds: kinds.to_vec(), wait_ms: 0 })
}
