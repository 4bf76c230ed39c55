//! The runner, with an orchestrator, a lender and an executor that do as they are told. Time is paused.

use super::*;
use crate::executors::{Done, Pending};
use hive_security::SecretJson;
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;
use wire::OutcomeStatus as Status;

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, line: impl Into<String>) {
    log.lock().expect("no test panics while it writes").push(line.into());
}

/// Answers from a list, then the last answer for ever.
struct Answers<T>(Mutex<Vec<T>>);

impl<T: Clone> Answers<T> {
    fn new(answers: &[T]) -> Self {
        Self(Mutex::new(answers.iter().rev().cloned().collect()))
    }

    fn next(&self) -> T {
        let mut answers = self.0.lock().expect("no test panics while it answers");
        if answers.len() > 1 { answers.pop() } else { answers.last().cloned() }
            .expect("there is always one")
    }
}

struct FakeDesk {
    log: Log,
    extensions: Answers<Extension>,
    receipts: Answers<Receipt>,
}

impl Desk for FakeDesk {
    async fn extend(&self, _ticket_id: &str, claim: u64) -> Extension {
        assert_eq!(claim, 7);
        self.extensions.next()
    }

    async fn report(&self, outcome: &wire::Outcome) -> Receipt {
        note(&self.log, format!("report {} {}", outcome.status().as_str_name(), outcome.message));
        self.receipts.next()
    }
}

struct FakeLender {
    log: Log,
    refusal: Option<NotLent>,
    fails_after: Option<Duration>,
}

struct FakeLoan {
    log: Log,
    issued: Vec<Issued>,
    fails_after: Option<Duration>,
}

impl Lender for FakeLender {
    type Loan = FakeLoan;

    async fn lend(
        &self,
        role: String,
        requests: Vec<Request>,
        _deadline: Duration,
    ) -> Result<FakeLoan, NotLent> {
        note(&self.log, format!("lend {role}"));
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let issue = |request: Request| Issued {
            name: request.name,
            data: SecretJson::new(serde_json::json!({ "key": "secret" })),
        };
        let issued = requests.into_iter().map(issue).collect();
        Ok(FakeLoan { log: Arc::clone(&self.log), issued, fails_after: self.fails_after })
    }
}

impl Loan for FakeLoan {
    fn issued(&self) -> &[Issued] {
        &self.issued
    }

    fn skipped(&self) -> &[String] {
        &[]
    }

    fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        let after = self.fails_after;
        async move {
            match after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
            "the lease ran out".to_owned()
        }
    }

    async fn close(self, _deadline: Duration) -> Result<(), String> {
        note(&self.log, "close");
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Behaviour {
    Done,
    Panic,
    /// Waits until it is told to stop.
    Stop,
    /// Does not even stop when it is told to.
    Stubborn,
}

struct FakeExecutor {
    log: Log,
    behaviour: Behaviour,
    started: Mutex<Option<oneshot::Sender<PathBuf>>>,
}

impl Executor for FakeExecutor {
    fn kind(&self) -> TicketKind {
        TicketKind::Deploy
    }

    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(async move {
            let file = work.credentials.directory().map(|directory| directory.join("key"));
            note(
                &self.log,
                format!("execute, credential there: {}", file.as_deref().is_some_and(Path::exists)),
            );
            if let Some(started) = self.started.lock().expect("nobody panics here").take() {
                started.send(file.unwrap_or_default()).expect("somebody waits");
            }
            match self.behaviour {
                Behaviour::Done => {
                    return Ok(Done { message: "well".to_owned(), ..Done::default() });
                }
                Behaviour::Panic => panic!("an executor that panics is what this test is about"),
                Behaviour::Stop => work.stop.cancelled().await,
                Behaviour::Stubborn => std::future::pending().await,
            }
            Err(Failure::Stopped)
        })
    }

    fn undo<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(async move {
            note(&self.log, format!("undo {} of {:?}", work.ticket_id, work.outputs));
            Ok(Done::default())
        })
    }
}

struct World {
    log: Log,
    runner: Runner<FakeDesk, FakeLender>,
    assignment: Assignment,
    drain: CancellationToken,
    started: oneshot::Receiver<PathBuf>,
    _directory: TempDir,
}

fn world(behaviour: Behaviour) -> World {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (log, (sender, started)) = (Log::default(), oneshot::channel());
    let executor =
        FakeExecutor { log: Arc::clone(&log), behaviour, started: Mutex::new(Some(sender)) };
    let executors: Vec<Box<dyn Executor>> = vec![Box::new(executor)];
    let desk = FakeDesk {
        log: Arc::clone(&log),
        extensions: Answers::new(&[Extension::Alive]),
        receipts: Answers::new(&[Receipt::Accepted]),
    };
    let runner = Runner {
        desk,
        lender: FakeLender { log: Arc::clone(&log), refusal: None, fails_after: None },
        executors: Arc::new(executors.into()),
        safe: Safe::open(directory.path(), None).expect("a safe"),
        tickets_dir: directory.path().to_owned(),
    };
    let assignment = assignment(directory.path());
    World {
        log,
        runner,
        assignment,
        drain: CancellationToken::new(),
        started,
        _directory: directory,
    }
}

fn assignment(workspace: &Path) -> Assignment {
    let credential = wire::Credential {
        name: "key".to_owned(),
        path: "secret/data/key".to_owned(),
        optional: false,
    };
    let ticket = wire::Ticket {
        ticket_id: "p1/deploy".to_owned(),
        plan_id: "p1".to_owned(),
        claim: 7,
        deadline_ms: now_ms() + 30_000,
        timeout_ms: 30_000,
        workspace: workspace.display().to_string(),
        parameters_json: "{}".to_owned(),
        credentials: vec![credential],
        ..Default::default()
    };
    Assignment {
        ticket,
        kind: TicketKind::Deploy,
        undoes: false,
        claim_ttl: Duration::from_secs(3),
    }
}

impl World {
    async fn run(&mut self) -> Option<Status> {
        self.runner.run(&self.assignment, &self.drain).await
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().expect("no test panics while it writes").clone()
    }

    /// Where the credential was, which must be gone, as must the ticket's directory.
    fn assert_nothing_is_left(&mut self) {
        let credential = self.started.try_recv().expect("it was executed");
        assert!(!credential.as_os_str().is_empty() && !credential.exists());
        assert!(!self.runner.tickets_dir.join("p1.deploy.7").exists());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.runner.safe.clone().remove();
    }
}

const LENT: [&str; 3] = ["lend ticket-deploy", "execute, credential there: true", "close"];

#[tokio::test(start_paused = true)]
async fn what_was_borrowed_is_given_back_before_the_outcome_is_reported() {
    let mut world = world(Behaviour::Done);
    assert_eq!(world.run().await, Some(Status::Done));
    assert_eq!(world.log(), [LENT.as_slice(), &["report DONE well"]].concat());
    world.assert_nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_asks_for_nothing_borrows_nothing() {
    let mut world = world(Behaviour::Done);
    world.assignment.ticket.credentials.clear();
    assert_eq!(world.run().await, Some(Status::Done));
    assert_eq!(world.log(), ["execute, credential there: false", "report DONE well"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_stops_the_work_and_nothing_is_reported() {
    let mut world = world(Behaviour::Stop);
    let lost = Extension::Lost("claimed by another".to_owned());
    world.runner.desk.extensions = Answers::new(&[Extension::Alive, lost]);
    assert_eq!(world.run().await, None);
    assert_eq!(world.log(), LENT);
    world.assert_nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn a_stop_by_the_orchestrator_is_reported_as_withdrawn() {
    let mut world = world(Behaviour::Stop);
    let stop = Extension::Stop("cancelled by ada".to_owned());
    world.runner.desk.extensions = Answers::new(&[Extension::Unreachable("away".to_owned()), stop]);
    assert_eq!(world.run().await, Some(Status::Withdrawn));
    assert_eq!(world.log(), [LENT.as_slice(), &["report WITHDRAWN cancelled by ada"]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_withdraws_its_tickets() {
    let mut world = world(Behaviour::Stop);
    world.drain.cancel();
    assert_eq!(world.run().await, Some(Status::Withdrawn));
    assert_eq!(
        world.log().last().map(String::as_str),
        Some("report WITHDRAWN its worker is stopping")
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_work_is_stopped_and_may_be_tried_again() {
    for behaviour in [Behaviour::Stop, Behaviour::Stubborn] {
        let mut world = world(behaviour);
        assert_eq!(world.run().await, Some(Status::FailedRetryable));
        assert_eq!(
            world.log(),
            [LENT.as_slice(), &["report FAILED_RETRYABLE timed out after 30s"]].concat()
        );
        world.assert_nothing_is_left();
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_outcome_and_leaves_nothing_behind() {
    let mut world = world(Behaviour::Panic);
    assert_eq!(world.run().await, Some(Status::FailedRetryable));
    let log = world.log();
    assert_eq!(log[..3], LENT);
    assert!(log[3].starts_with("report FAILED_RETRYABLE its executor panicked"), "{log:?}");
    world.assert_nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn work_ends_when_its_credentials_do() {
    let mut world = world(Behaviour::Stop);
    world.runner.lender.fails_after = Some(Duration::from_secs(2));
    assert_eq!(world.run().await, Some(Status::FailedRetryable));
    let reported = "report FAILED_RETRYABLE its credentials could not be kept: the lease ran out";
    assert_eq!(world.log(), [LENT.as_slice(), &[reported]].concat());
}

#[tokio::test(start_paused = true)]
async fn without_its_credentials_a_ticket_is_never_executed() {
    let mut world = world(Behaviour::Done);
    world.runner.lender.refusal =
        Some(NotLent { reason: "refused".to_owned(), is_transient: false });
    assert_eq!(world.run().await, Some(Status::Failed));
    assert_eq!(
        world.log(),
        ["lend ticket-deploy", "report FAILED its credentials were not issued: refused"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_reported_until_somebody_answers() {
    let mut world = world(Behaviour::Done);
    let away = Receipt::Unreachable("away".to_owned());
    world.runner.desk.receipts = Answers::new(&[away.clone(), away, Receipt::Accepted]);
    assert_eq!(world.run().await, Some(Status::Done));
    assert_eq!(world.log().iter().filter(|line| line.starts_with("report")).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_was_refused_is_not_sent_again() {
    let mut world = world(Behaviour::Done);
    world.runner.desk.receipts = Answers::new(&[Receipt::Refused("stale claim".to_owned())]);
    assert_eq!(world.run().await, None);
    assert_eq!(world.log().iter().filter(|line| line.starts_with("report")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_undo_knows_the_ticket_that_it_undoes() {
    let mut world = world(Behaviour::Done);
    world.assignment.undoes = true;
    world.assignment.ticket.ticket_id = "p1/deploy~undo".to_owned();
    world.assignment.ticket.outputs = [("previous".to_owned(), "r1".to_owned())].into();
    assert_eq!(world.run().await, Some(Status::Done));
    // It borrowed nothing, because this executor's undo needs nothing.
    assert_eq!(world.log(), [r#"undo p1/deploy of {"previous": "r1"}"#, "report DONE "]);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_no_name_or_a_workspace_that_is_nowhere_fails_the_ticket() {
    let mut world = world(Behaviour::Done);
    world.assignment.ticket.ticket_id = "../../etc".to_owned();
    assert_eq!(world.run().await, Some(Status::FailedRetryable));
    world.assignment.ticket.workspace = "/does/not/exist".to_owned();
    assert_eq!(world.run().await, Some(Status::Failed));
    assert!(world.log().iter().all(|line| line.starts_with("report")), "{:?}", world.log());
}
