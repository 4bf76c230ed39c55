//! What is looked at before a plan is stored.

use super::*;
use tonic::Status;

fn request() -> SubmitRequest {
    SubmitRequest {
        plan_yaml: String::new(),
        workspace: "/work".to_owned(),
        submission_id: "1".to_owned(),
    }
}

#[test]
fn a_submission_needs_an_id_and_an_absolute_workspace() {
    assert_eq!(check(&request()), Ok(()));
    let hostile = [
        SubmitRequest { submission_id: String::new(), ..request() },
        SubmitRequest { submission_id: "x".repeat(129), ..request() },
        SubmitRequest { workspace: "work".to_owned(), ..request() },
        SubmitRequest { workspace: "/work\0".to_owned(), ..request() },
        SubmitRequest { workspace: format!("/{}", "w".repeat(4_096)), ..request() },
    ];
    for request in hostile {
        assert!(matches!(check(&request), Err(Refused::Invalid(_))), "{request:?}");
    }
}

#[test]
fn every_mistake_is_listed_with_its_place_and_the_list_fits_into_a_header() {
    let wrong =
        |count| format!("plan: p\ntickets:\n{}", "  - { name: A!, kind: BAKE }\n".repeat(count));
    let few = mistaken(&Plan::parse(&wrong(1)).expect_err("it is wrong")).to_string();
    assert!(few.contains("plan:3:"), "{few}");
    let many = mistaken(&Plan::parse(&wrong(900)).expect_err("it is wrong")).to_string();
    assert!(many.len() < MISTAKES_BYTES_MAX + 64 && many.contains("more"), "{}", many.len());
}

#[test]
fn a_kind_that_nobody_offers_is_a_warning() {
    let warned = warnings(vec![(TicketKind::Build, Ok(true)), (TicketKind::Query, Ok(false))]);
    assert_eq!(warned.len(), 1);
    assert!(warned[0].starts_with("no live worker offers QUERY"), "{}", warned[0]);
}

#[test]
fn a_registry_that_cannot_be_asked_is_one_warning() {
    let down = || Err(Status::unavailable("connection refused"));
    let warned = warnings(vec![(TicketKind::Build, down()), (TicketKind::Test, down())]);
    assert_eq!(warned.len(), 1);
    assert!(warned[0].contains("connection refused"), "{}", warned[0]);
}

#[test]
fn what_can_be_undone_needs_someone_who_compensates() {
    let plan = |with: &str| {
        let text =
            format!("plan: p\ntickets:\n  - {{ name: a, kind: EXECUTE, with: {{ {with} }} }}\n");
        needed_kinds(&Plan::parse(&text).expect("it is well-formed"))
    };
    assert_eq!(plan("command: [x]"), [TicketKind::Execute].into());
    let undoable = plan("command: [x], undo: [y]");
    assert_eq!(undoable, [TicketKind::Compensate, TicketKind::Execute].into());
}

#[test]
fn plan_ids_are_twelve_hexadecimal_digits() {
    let id = random_plan_id().to_string();
    assert!(id.len() == 12 && id.chars().all(|digit| digit.is_ascii_hexdigit()), "{id}");
}
