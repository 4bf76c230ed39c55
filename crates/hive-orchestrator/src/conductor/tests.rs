//! The conductor on a store of its own, with the time handed in and workers played by the test.

use super::*;
use hive_plan::{OutcomeStatus, PlanStatus};
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(5);
const ALL: [TicketKind; 8] = TicketKind::ALL;
const WORKER: &str = "spiffe://example.org/ns/neural-hive-execution/sa/worker-agents/w1";
const OTHER: &str = "spiffe://example.org/ns/neural-hive-execution/sa/worker-agents/w2";

const RELEASE: &str = "
plan: release
deadline: 10m
tickets:
  - name: prepare
    kind: EXECUTE
    timeout: 60s
    with: { command: [make], undo: [unmake] }
  - name: check
    kind: EXECUTE
    needs: [prepare]
    attempts: 2
    backoff: 2s
    with: { command: [check] }
";

/// One conductor after the other on the same directory, as the process is killed and started again.
struct World {
    directory: TempDir,
    conductor: Option<Conductor>,
    now: UnixMillis,
}

impl World {
    async fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut world = Self { directory, conductor: None, now: UnixMillis(1_000_000) };
        world.restart().await;
        world
    }

    /// What `kill -9` and a new start do: nothing is closed, nothing is flushed.
    async fn restart(&mut self) {
        drop(self.conductor.take());
        let opened = Conductor::open(self.directory.path(), self.now, TTL).await;
        self.conductor = Some(opened.expect("it recovers"));
    }

    fn conductor(&mut self) -> &mut Conductor {
        self.conductor.as_mut().expect("it was started")
    }

    async fn pass(&mut self, ms: i64) {
        self.now = UnixMillis(self.now.0 + ms);
        let now = self.now;
        self.conductor().tick(now).await.expect("the log can be written");
    }

    async fn submit_as(&mut self, submission_id: &str, source: &str) -> Result<PlanId, Refused> {
        let plan_id = PlanId::parse(&format!("plan-{submission_id}")).expect("a plan ID");
        let submission = Submission {
            plan_id,
            submission_id: submission_id.to_owned(),
            source: source.to_owned(),
            workspace: "/w".to_owned(),
            submitted_by: "spiffe://example.org/op".to_owned(),
            submitted_at: self.now,
        };
        let plan = Plan::parse(source).expect("the plan is well-formed");
        self.conductor().submit(plan, submission).await.expect("the log can be written")
    }

    async fn submit(&mut self) -> PlanId {
        self.submit_as("1", RELEASE).await.expect("it is accepted")
    }

    async fn claim(&mut self) -> Option<HandedOut> {
        let now = self.now;
        self.conductor().claim(now, WORKER, &ALL).await.expect("the log can be written")
    }

    async fn must_claim(&mut self, ticket: &str) -> HandedOut {
        let handed_out = self.claim().await.expect("there is work");
        assert_eq!(handed_out.ticket.to_string().rsplit('/').next(), Some(ticket));
        handed_out
    }

    fn received(&self, worker: &str, work: &HandedOut, status: OutcomeStatus) -> Received {
        let outcome = Outcome { status, outputs: BTreeMap::new(), message: String::new() };
        let (claim, ticket) = (work.claim.number, work.ticket.clone());
        Received { claim, ticket, worker: worker.to_owned(), outcome, envelope: vec![7] }
    }

    async fn report(
        &mut self,
        worker: &str,
        work: &HandedOut,
        status: OutcomeStatus,
    ) -> Result<(), Refused> {
        let (received, now) = (self.received(worker, work, status), self.now);
        self.conductor().report(now, received).await.expect("the log can be written")
    }

    async fn done(&mut self, work: &HandedOut) {
        assert_eq!(self.report(WORKER, work, OutcomeStatus::Done).await, Ok(()));
    }

    async fn view(&mut self, plan: &PlanId) -> PlanView {
        let view = self.conductor().get(plan.as_str()).await.expect("the log can be read");
        view.expect("the plan is known")
    }

    async fn status(&mut self, plan: &PlanId) -> hive_api::orchestrator::PlanStatus {
        self.view(plan).await.status()
    }
}

fn status(status: PlanStatus) -> hive_api::orchestrator::PlanStatus {
    status.into()
}

#[tokio::test]
async fn a_plan_is_carried_to_its_end() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    let prepare = world.must_claim("prepare").await;
    assert_eq!((prepare.attempt, prepare.claim.number), (1, 1));
    assert_eq!(prepare.claim.deadline, UnixMillis(world.now.0 + 60_000));
    assert!(world.claim().await.is_none(), "check needs prepare");
    world.done(&prepare).await;
    let check = world.must_claim("check").await;
    assert_eq!(check.claim.number, 2);
    world.done(&check).await;
    let view = world.view(&plan).await;
    assert_eq!((view.status(), view.over, view.revision), (status(PlanStatus::Done), true, 4));
    assert_eq!(world.conductor().next_timer(UnixMillis(0)), None);
}

#[tokio::test]
async fn killed_after_every_step_it_continues_where_the_log_ends() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    world.restart().await;
    let prepare = world.must_claim("prepare").await;
    world.restart().await;
    assert!(world.claim().await.is_none(), "what is claimed stays claimed");
    world.done(&prepare).await;
    world.restart().await;
    let check = world.must_claim("check").await;
    assert_eq!(check.claim.number, 2, "the fencing number goes on");
    assert_eq!(world.report(WORKER, &check, OutcomeStatus::Failed).await, Ok(()));
    world.restart().await;
    let undo = world.must_claim("prepare~undo").await;
    world.restart().await;
    world.done(&undo).await;
    let before = world.view(&plan).await;
    assert_eq!(before.status(), status(PlanStatus::Failed));
    world.restart().await;
    assert_eq!(world.view(&plan).await, before);
    assert!(world.claim().await.is_none());
}

#[tokio::test]
async fn a_repeated_outcome_is_applied_once() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    let prepare = world.must_claim("prepare").await;
    world.done(&prepare).await;
    let revision = world.view(&plan).await.revision;
    world.done(&prepare).await;
    world.restart().await;
    world.done(&prepare).await;
    assert_eq!(world.view(&plan).await.revision, revision);
    let differs = world.report(WORKER, &prepare, OutcomeStatus::Failed).await;
    assert_eq!(differs, Err(Refused::OtherOutcome { claim: 1 }));
    let stranger = world.report(OTHER, &prepare, OutcomeStatus::Done).await;
    assert!(matches!(stranger, Err(Refused::NotTheClaimant { .. })), "{stranger:?}");
}

#[tokio::test]
async fn a_claim_that_runs_out_is_lost_and_its_late_outcome_refused() {
    let mut world = World::new().await;
    world.submit().await;
    let late = world.must_claim("prepare").await;
    world.pass(4_999).await;
    assert!(world.claim().await.is_none());
    world.pass(1).await;
    let again = world.must_claim("prepare").await;
    assert_eq!((again.attempt, again.claim.number), (1, 2), "a loss takes no attempt");
    let stale = world.report(WORKER, &late, OutcomeStatus::Done).await;
    assert!(matches!(stale, Err(Refused::Stale { claim: 1, .. })), "{stale:?}");
    world.done(&again).await;
}

#[tokio::test]
async fn extending_keeps_a_claim_and_a_restart_takes_none_away() {
    let mut world = World::new().await;
    world.submit().await;
    let prepare = world.must_claim("prepare").await;
    let (ticket, claim) = (prepare.ticket.clone(), prepare.claim.number);
    for _ in 0..3 {
        world.pass(4_000).await;
        let now = world.now;
        assert_eq!(world.conductor().extend(now, WORKER, &ticket, claim), Ok(None));
    }
    world.now = UnixMillis(world.now.0 + 40_000); // down for a while
    world.restart().await;
    world.pass(4_999).await;
    world.done(&prepare).await;
}

#[tokio::test]
async fn only_the_claimant_may_extend_or_report() {
    let mut world = World::new().await;
    world.submit().await;
    let prepare = world.must_claim("prepare").await;
    let now = world.now;
    let extended = world.conductor().extend(now, OTHER, &prepare.ticket, 1);
    assert!(matches!(extended, Err(Refused::NotTheClaimant { .. })), "{extended:?}");
    let reported = world.report(OTHER, &prepare, OutcomeStatus::Done).await;
    assert!(matches!(reported, Err(Refused::NotTheClaimant { .. })), "{reported:?}");
    let unknown = world.conductor().extend(now, WORKER, &prepare.ticket, 9);
    assert!(matches!(unknown, Err(Refused::Stale { claim: 9, .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_failed_attempt_waits_for_its_back_off() {
    let mut world = World::new().await;
    world.submit().await;
    let prepare = world.must_claim("prepare").await;
    world.done(&prepare).await;
    let check = world.must_claim("check").await;
    assert_eq!(world.report(WORKER, &check, OutcomeStatus::FailedRetryable).await, Ok(()));
    let now = world.now;
    assert!(world.claim().await.is_none());
    assert_eq!(world.conductor().next_timer(now), Some(UnixMillis(now.0 + 2_000)));
    world.pass(2_000).await;
    assert_eq!(world.must_claim("check").await.attempt, 2);
}

#[tokio::test]
async fn a_cancelled_plan_stops_its_workers_and_is_undone() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    let prepare = world.must_claim("prepare").await;
    world.done(&prepare).await;
    let check = world.must_claim("check").await;
    for _ in 0..2 {
        let now = world.now;
        let view = world.conductor().cancel(now, "plan-", "op", "a mistake").await;
        let view = view.expect("the log can be written").expect("cancelling twice is fine");
        assert_eq!(view.status(), status(PlanStatus::Unwinding));
    }
    world.restart().await;
    let now = world.now;
    let stop = world.conductor().extend(now, WORKER, &check.ticket, check.claim.number);
    assert_eq!(stop, Ok(Some("the plan was cancelled by op: a mistake".to_owned())));
    assert_eq!(world.report(WORKER, &check, OutcomeStatus::Withdrawn).await, Ok(()));
    let undo = world.must_claim("prepare~undo").await;
    world.done(&undo).await;
    assert_eq!(world.status(&plan).await, status(PlanStatus::Cancelled));
    let now = world.now;
    let over = world.conductor().cancel(now, "plan-1", "op", "again").await;
    assert!(over.expect("the log can be written").is_ok_and(|view| view.over));
}

#[tokio::test]
async fn the_deadline_of_a_plan_stops_it() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    let now = world.now;
    assert_eq!(world.conductor().next_timer(now), Some(UnixMillis(now.0 + 600_000)));
    world.pass(600_000).await;
    assert_eq!(world.status(&plan).await, status(PlanStatus::Failed));
    assert!(world.claim().await.is_none());
}

#[tokio::test]
async fn a_submission_makes_one_plan_however_often_it_is_sent() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    world.restart().await;
    assert_eq!(world.submit_as("1", RELEASE).await, Ok(plan));
    let other = RELEASE.replace("release", "other");
    let reused = world.submit_as("1", &other).await;
    assert_eq!(reused, Err(Refused::SubmissionReused("1".to_owned())));
    assert_eq!(world.conductor().list(10).await.expect("the log can be read").len(), 1);
}

#[tokio::test]
async fn a_plan_is_found_by_a_prefix_that_only_it_has() {
    let mut world = World::new().await;
    world.submit().await;
    world.submit_as("2", RELEASE).await.expect("it is accepted");
    let get = world.conductor().get("plan-2").await.expect("the log can be read");
    assert!(get.is_ok_and(|view| view.plan_id == "plan-2"));
    let ambiguous = world.conductor().get("plan").await.expect("the log can be read");
    assert!(matches!(ambiguous, Err(Refused::Ambiguous { .. })), "{ambiguous:?}");
    for nobody in ["plan-3", "", "../etc", "%"] {
        let unknown = world.conductor().get(nobody).await.expect("the log can be read");
        assert!(matches!(unknown, Err(Refused::UnknownPlan(_))), "{unknown:?}");
    }
}

#[tokio::test]
async fn a_watch_sees_the_last_view() {
    let mut world = World::new().await;
    world.submit().await;
    let mut views = world.conductor().watch("plan-1").await.expect("readable").expect("known");
    assert_eq!(views.borrow_and_update().revision, 0);
    for ticket in ["prepare", "check"] {
        let work = world.must_claim(ticket).await;
        world.done(&work).await;
    }
    assert!(views.borrow().over);
    let late = world.conductor().watch("plan-1").await.expect("readable").expect("known");
    assert_eq!(*late.borrow(), *views.borrow());
}

#[tokio::test]
async fn an_event_that_cannot_be_stored_ends_the_conductor_and_leaves_no_trace() {
    let mut world = World::new().await;
    let plan = world.submit().await;
    let prepare = world.must_claim("prepare").await;
    break_the_log(world.directory.path(), "ALTER TABLE outcomes RENAME TO elsewhere").await;
    let received = world.received(WORKER, &prepare, OutcomeStatus::Done);
    let now = world.now;
    let ended = world.conductor().report(now, received).await;
    assert!(matches!(ended, Err(Error::Store(_))), "{ended:?}");
    break_the_log(world.directory.path(), "ALTER TABLE elsewhere RENAME TO outcomes").await;
    world.restart().await;
    assert_eq!(world.view(&plan).await.revision, 1);
    world.done(&prepare).await;
    assert_eq!(world.view(&plan).await.revision, 2);
}

async fn break_the_log(directory: &Path, statement: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let file = directory.join("orchestrator.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.expect("it can be opened");
    sqlx::raw_sql(statement).execute(&mut connection).await.expect("it can be changed");
    connection.close().await.expect("it can be closed");
}

mod through_the_task {
    use super::*;
    use tokio_util::sync::CancellationToken;

    async fn start(directory: &TempDir) -> (Handle, CancellationToken) {
        let (clock, stop) = (Clock::start(), CancellationToken::new());
        let conductor = Conductor::open(directory.path(), clock.now(), TTL).await;
        let (handle, task) = Handle::new(conductor.expect("it opens"), clock, stop.clone());
        tokio::spawn(task);
        (handle, stop)
    }

    async fn submit(handle: &Handle) {
        let submission = Submission {
            plan_id: PlanId::parse("p1").expect("a plan ID"),
            submission_id: "1".to_owned(),
            source: RELEASE.to_owned(),
            workspace: "/w".to_owned(),
            submitted_by: "op".to_owned(),
            submitted_at: handle.now(),
        };
        let plan = Plan::parse(RELEASE).expect("it is well-formed");
        handle.submit(plan, submission).await.expect("it is accepted");
    }

    #[tokio::test]
    async fn a_claim_that_waits_is_woken_by_work() {
        let directory = TempDir::new().expect("a directory");
        let (handle, _stop) = start(&directory).await;
        let waiting = handle.clone();
        let claim = async move {
            waiting.claim(WORKER.to_owned(), ALL.to_vec(), Duration::from_secs(20)).await
        };
        let claim = tokio::spawn(claim);
        submit(&handle).await;
        let handed_out = claim.await.expect("no panic").expect("not refused");
        assert!(handed_out.is_some_and(|work| work.ticket.ticket.as_str() == "prepare"));
    }

    #[tokio::test]
    async fn whoever_stopped_waiting_takes_no_work_away() {
        let directory = TempDir::new().expect("a directory");
        let (handle, _stop) = start(&directory).await;
        let ask = |wait| handle.claim(OTHER.to_owned(), ALL.to_vec(), wait);
        assert!(ask(Duration::ZERO).await.is_ok_and(|work| work.is_none()));
        assert!(ask(Duration::from_millis(1)).await.is_ok_and(|work| work.is_none()));
        submit(&handle).await;
        let work = handle.claim(WORKER.to_owned(), ALL.to_vec(), Duration::ZERO).await;
        assert!(work.is_ok_and(|work| work.is_some_and(|work| work.claim.number == 1)));
    }

    #[tokio::test]
    async fn a_stopped_conductor_says_so_and_lets_go_of_its_store() {
        let directory = TempDir::new().expect("a directory");
        let (clock, stop) = (Clock::start(), CancellationToken::new());
        let conductor =
            Conductor::open(directory.path(), clock.now(), TTL).await.expect("it opens");
        let (handle, task) = Handle::new(conductor, clock, stop.clone());
        stop.cancel();
        assert!(task.await.is_ok());
        assert_eq!(handle.list(1).await, Err(Refused::Stopping));
        assert!(Conductor::open(directory.path(), clock.now(), TTL).await.is_ok());
    }
}
