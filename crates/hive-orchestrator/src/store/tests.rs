//! The store on files of its own.

use super::*;
use hive_plan::{Direction, OutcomeStatus, TicketName};
use tempfile::TempDir;

fn at(ms: i64) -> UnixMillis {
    UnixMillis(ms)
}

fn submission() -> Submission {
    Submission {
        plan_id: PlanId::parse("aaaa1111").expect("a plan ID"),
        submission_id: "s1".to_owned(),
        source: "plan: p\n".to_owned(),
        workspace: "/w".to_owned(),
        submitted_by: "spiffe://example.org/op".to_owned(),
        submitted_at: at(5),
    }
}

fn work(claim: Option<Claim>) -> Work {
    let name = TicketName::parse("build").expect("a name");
    let ticket = TicketId::new(submission().plan_id, name, Direction::Undo);
    Work { ticket, kind: TicketKind::Compensate, attempt: 2, not_before: at(9), claim }
}

fn claim() -> Claim {
    let worker = "spiffe://example.org/w1".to_owned();
    Claim { number: 3, worker, deadline: at(99), stop: Some("enough".to_owned()) }
}

fn received() -> Received {
    let outputs = [("release".to_owned(), "/r".to_owned())].into();
    Received {
        claim: 3,
        ticket: work(None).ticket,
        worker: claim().worker,
        outcome: Outcome { status: OutcomeStatus::Done, outputs, message: "fine".to_owned() },
        envelope: vec![1, 2, 3],
    }
}

fn summary(revision: u64) -> Summary {
    Summary { status: PlanStatus::Running, revision, over: None }
}

async fn open(directory: &TempDir) -> Store {
    Store::open(directory.path()).await.expect("it can be opened")
}

/// Stores the submission, with the outstanding work given.
async fn submit(store: &mut Store, changes: &[Change]) {
    let submission = submission();
    let step = Step {
        plan_id: &submission.plan_id,
        at: at(5),
        event: None,
        submission: Some((&submission, "p")),
        summary: &summary(0),
        changes,
        received: None,
        last_claim: None,
    };
    store.commit(step).await.expect("it can be stored");
}

fn step<'a>(summary: &'a Summary, event: &'a Event, plan_id: &'a PlanId) -> Step<'a> {
    Step {
        plan_id,
        at: at(7),
        event: Some(event),
        submission: None,
        summary,
        changes: &[],
        received: None,
        last_claim: None,
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_the_process_vanished() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory).await;
    submit(&mut store, &[Change::Put(work(None))]).await;
    let (plan_id, received, held) = (submission().plan_id, received(), work(Some(claim())));
    let after = summary(1);
    let step = Step {
        changes: &[Change::Put(held.clone())],
        received: Some(&received),
        last_claim: Some(3),
        ..step(&after, &Event::DeadlinePassed, &plan_id)
    };
    store.commit(step).await.expect("it can be stored");
    drop(store); // no orderly close

    let mut store = open(&directory).await;
    let running = store.running().await.expect("it can be read");
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].submission, submission());
    assert_eq!(running[0].events, [(at(7), Event::DeadlinePassed)]);
    assert_eq!(store.work().await.expect("it can be read"), [held]);
    assert_eq!(store.last_claim().await.expect("it can be read"), 3);
    assert_eq!(store.received(3).await.expect("it can be read"), Some(received));
    assert_eq!(store.received(4).await.expect("it can be read"), None);
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_of_itself() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory).await;
    submit(&mut store, &[]).await;
    let (plan_id, after) = (submission().plan_id, summary(1));
    let first = step(&after, &Event::DeadlinePassed, &plan_id);
    store.commit(first).await.expect("it can be stored");
    let changes = [Change::Put(work(None))];
    let same_place = Step {
        changes: &changes,
        last_claim: Some(9),
        ..step(&after, &Event::DeadlinePassed, &plan_id)
    };
    assert!(store.commit(same_place).await.is_err());
    assert_eq!(store.work().await.expect("it can be read"), []);
    assert_eq!(store.last_claim().await.expect("it can be read"), 0);
}

#[tokio::test]
async fn the_fencing_number_never_shrinks() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory).await;
    submit(&mut store, &[]).await;
    let plan_id = submission().plan_id;
    for (revision, claim) in [(1, 5), (2, 4)] {
        let summary = summary(revision);
        let step =
            Step { last_claim: Some(claim), ..step(&summary, &Event::DeadlinePassed, &plan_id) };
        store.commit(step).await.expect("it can be stored");
    }
    assert_eq!(store.last_claim().await.expect("it can be read"), 5);
}

#[tokio::test]
async fn a_store_is_opened_once() {
    let directory = TempDir::new().expect("a directory");
    let store = open(&directory).await;
    let second = Store::open(directory.path()).await.expect_err("it is in use");
    assert!(second.to_string().contains("another orchestrator uses"), "{second}");
    store.close().await.expect("it can be closed");
    open(&directory).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("it can be written");
    let error = Store::open(&file).await.expect_err("a file is no directory");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_prefix_finds_the_plans_that_begin_with_it() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory).await;
    submit(&mut store, &[]).await;
    for (prefix, found) in [("a", 1), ("aaaa1111", 1), ("aaaa11112", 0), ("b", 0)] {
        let prefix = PlanId::parse(prefix).expect("a plan ID");
        assert_eq!(store.matching(&prefix).await.expect("it can be read").len(), found, "{prefix}");
    }
    assert_eq!(store.latest(5).await.expect("it can be read"), [submission().plan_id]);
    assert_eq!(store.submitted("s1").await.expect("it can be read"), Some(submission()));
    assert_eq!(store.submitted("s2").await.expect("it can be read"), None);
}

#[tokio::test]
async fn a_plan_that_is_over_keeps_its_last_view_and_is_not_recovered() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory).await;
    submit(&mut store, &[]).await;
    let plan_id = submission().plan_id;
    assert_eq!(store.view(&plan_id).await.expect("it can be read"), None);
    let over = Summary { status: PlanStatus::Failed, revision: 1, over: Some((at(8), vec![4, 2])) };
    let last = step(&over, &Event::DeadlinePassed, &plan_id);
    store.commit(last).await.expect("it can be stored");
    assert_eq!(store.view(&plan_id).await.expect("it can be read"), Some(vec![4, 2]));
    assert!(store.running().await.expect("it can be read").is_empty());
}
