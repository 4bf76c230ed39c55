//! The orchestrator on real wires: a development authority, mutual TLS, and callers with identities of their own.

use super::*;
use hive_api::names::{self, Party};
use hive_api::orchestrator::plans_client::PlansClient;
use hive_api::orchestrator::tickets_client::TicketsClient;
use hive_api::orchestrator::{
    CancelRequest, ClaimRequest, ClaimResponse, ExtendRequest, GetPlanRequest, ListPlansRequest,
    Outcome, OutcomeStatus, PlanStatus, ReportRequest, SignedEnvelope, SubmitRequest, Ticket,
    TicketKind,
};
use hive_api::{OUTCOME_PAYLOAD, TICKET_PAYLOAD};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_security::connect::{self, Channel};
use hive_security::{Envelope, WorkloadConfig};
use prost::Message;
use tempfile::TempDir;
use tonic::{Code, Response, Status};

const PLAN: &str = "
plan: greet
tickets:
  - { name: greet, kind: EXECUTE, with: { command: [echo, hello] } }
";

/// An orchestrator, and those who call it.
struct Stack {
    authority: Authority,
    directory: TempDir,
    operator: Caller,
    worker: Caller,
    other: Caller,
    stop: CancellationToken,
    served: JoinHandle<Result<(), Error>>,
}

struct Caller {
    workload: Workload,
    plans: PlansClient<Channel>,
    tickets: TicketsClient<Channel>,
}

impl Stack {
    async fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        let socket = directory.path().join("api.sock");
        let authority = Authority::start(AuthorityConfig::new(socket)).await.expect("it starts");
        let caller = async |path: &str| {
            authority.caller(path, ORCHESTRATOR.name).await.expect("an identity")
        };
        let operator = caller(OPERATOR.path).await;
        let worker = caller(&names::worker_path("w1")).await;
        let other = caller(&names::worker_path("w2")).await;
        let entry = Entry::of_process(ORCHESTRATOR.path, std::process::id());
        authority.add_entry(entry).expect("an entry");
        let (ready, announced) = Ready::channel();
        let stop = CancellationToken::new();
        let served = tokio::spawn(run(config(&authority, &directory), ready, stop.clone()));
        let address = format!("https://{}", announced.await.expect("it serves")["address"]);
        let [operator, worker, other] =
            [operator, worker, other].map(|workload| Caller::new(workload, &address));
        Self { authority, directory, operator, worker, other, stop, served }
    }

    async fn submit(&mut self) -> String {
        let request = SubmitRequest {
            plan_yaml: PLAN.to_owned(),
            workspace: "/work".to_owned(),
            submission_id: "1".to_owned(),
        };
        let answer = self.operator.plans.submit(request).await.expect("allowed").into_inner();
        // Nothing listens where the registry should be.
        assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
        assert!(answer.warnings[0].contains("registry"), "{:?}", answer.warnings);
        answer.plan_id
    }
}

impl Caller {
    fn new(workload: Workload, address: &str) -> Self {
        let trust_domain = workload.trust_domain();
        let server = pattern(&trust_domain, ORCHESTRATOR);
        let audience = Audience::of_service(ORCHESTRATOR.name, &trust_domain).expect("a name");
        let channel = connect::channel(&workload, address, server, audience).expect("an address");
        let (plans, tickets) = (PlansClient::new(channel.clone()), TicketsClient::new(channel));
        Self { workload, plans, tickets }
    }

    /// Claims a ticket, and checks that the orchestrator signed it.
    async fn claim(&mut self, wait_ms: u32) -> Option<Ticket> {
        let answer = self.tickets.claim(any(wait_ms)).await.expect("allowed").into_inner();
        let ClaimResponse { ticket, claim_ttl_ms } = answer;
        assert_eq!(claim_ttl_ms, 5_000);
        let SignedEnvelope { payload_type, payload, certificate_chain, signature } = ticket?;
        let envelope = Envelope { payload_type, payload, certificate_chain, signature };
        let from = pattern(&self.workload.trust_domain(), ORCHESTRATOR);
        self.workload.open(&envelope, TICKET_PAYLOAD, &from).expect("the orchestrator signed it");
        Some(Ticket::decode(envelope.payload.as_slice()).expect("it is a ticket"))
    }

    fn outcome(&self, ticket: &Ticket, status: OutcomeStatus) -> ReportRequest {
        let outcome = Outcome {
            ticket_id: ticket.ticket_id.clone(),
            claim: ticket.claim,
            status: status.into(),
            ..Outcome::default()
        };
        let signed = self.workload.sign(OUTCOME_PAYLOAD, &outcome.encode_to_vec());
        let Envelope { payload_type, payload, certificate_chain, signature } =
            signed.expect("it has a key");
        let outcome = SignedEnvelope { payload_type, payload, certificate_chain, signature };
        ReportRequest { outcome: Some(outcome) }
    }

    async fn report(&mut self, request: ReportRequest) -> Code {
        code(self.tickets.report(request).await)
    }
}

fn config(authority: &Authority, directory: &TempDir) -> Config {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    Config {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        workload: WorkloadConfig::new(authority.endpoint(), ATTACH_DEADLINE),
        registry: format!("https://{}", closed.expect("a free port")),
        data_dir: directory.path().join("data"),
        claim_ttl: Duration::from_secs(5),
    }
}

fn pattern(trust_domain: &TrustDomain, party: Party) -> IdPattern {
    IdPattern::in_trust_domain(trust_domain, party.path).expect("a pattern")
}

fn any(wait_ms: u32) -> ClaimRequest {
    ClaimRequest { kinds: vec![TicketKind::Execute.into(), TicketKind::Build.into()], wait_ms }
}

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_plan_goes_from_submission_to_its_end_with_everything_signed() {
    let mut stack = Stack::start().await;
    let plan_id = stack.submit().await;
    let watch = GetPlanRequest { plan_id: plan_id[..4].to_owned() };
    let mut views = stack.operator.plans.watch(watch).await.expect("allowed").into_inner();
    let ticket = stack.worker.claim(20_000).await.expect("there is work");
    assert_eq!(ticket.ticket_id, format!("{plan_id}/greet"));
    assert_eq!(ticket.parameters_json, r#"{"command":["echo","hello"]}"#);
    let extend = ExtendRequest { ticket_id: ticket.ticket_id.clone(), claim: ticket.claim };
    let extended = stack.worker.tickets.extend(extend).await.expect("it is its own").into_inner();
    assert!(!extended.stop);
    let done = stack.worker.outcome(&ticket, OutcomeStatus::Done);
    assert_eq!(stack.worker.report(done.clone()).await, Code::Ok);
    assert_eq!(stack.worker.report(done).await, Code::Ok, "once more changes nothing");
    let failed = stack.worker.outcome(&ticket, OutcomeStatus::Failed);
    assert_eq!(stack.worker.report(failed).await, Code::FailedPrecondition);
    let mut last = None;
    while let Some(view) = views.message().await.expect("it is not cut off") {
        last = Some(view);
    }
    let last = last.expect("there is a view");
    assert_eq!((last.status(), last.over), (PlanStatus::PlanDone, true));
    let list = stack.operator.plans.list(ListPlansRequest { limit: 0 }).await.expect("allowed");
    assert_eq!(list.into_inner().plans.len(), 1);
}

#[tokio::test]
async fn nobody_reports_for_another() {
    let mut stack = Stack::start().await;
    stack.submit().await;
    let ticket = stack.worker.claim(20_000).await.expect("there is work");
    let forged = stack.other.outcome(&ticket, OutcomeStatus::Done);
    assert_eq!(stack.other.report(forged.clone()).await, Code::PermissionDenied);
    let passed_on = stack.worker.tickets.report(forged).await.expect_err("it is another's");
    assert!(passed_on.message().contains("is signed by"), "{passed_on}");
    let mut changed = stack.worker.outcome(&ticket, OutcomeStatus::Done);
    changed.outcome.as_mut().expect("it was put there").payload.push(0);
    assert_eq!(stack.worker.report(changed).await, Code::PermissionDenied);
    let extend = ExtendRequest { ticket_id: ticket.ticket_id.clone(), claim: ticket.claim };
    assert_eq!(code(stack.other.tickets.extend(extend).await), Code::PermissionDenied);
    let own = stack.worker.outcome(&ticket, OutcomeStatus::Done);
    assert_eq!(stack.worker.report(own).await, Code::Ok);
}

#[tokio::test]
async fn each_caller_may_do_what_the_policy_says_and_no_more() {
    let mut stack = Stack::start().await;
    let plan_id = stack.submit().await;
    let get = GetPlanRequest { plan_id: plan_id.clone() };
    assert_eq!(code(stack.worker.plans.get(get.clone()).await), Code::PermissionDenied);
    let cancel = CancelRequest { plan_id, reason: "no".to_owned() };
    assert_eq!(code(stack.worker.plans.cancel(cancel.clone()).await), Code::PermissionDenied);
    assert_eq!(code(stack.operator.tickets.claim(any(0)).await), Code::PermissionDenied);
    assert_eq!(code(stack.operator.plans.get(get).await), Code::Ok);
    let cancelled = stack.operator.plans.cancel(cancel).await.expect("allowed").into_inner();
    assert_eq!(cancelled.status(), PlanStatus::PlanCancelled);
}

#[tokio::test]
async fn a_plan_with_mistakes_is_refused_with_all_of_them() {
    let mut stack = Stack::start().await;
    let request = SubmitRequest {
        plan_yaml: "plan: p\ntickets:\n  - { name: a, kind: BAKE }\n  - { name: b, kind: FRY }\n"
            .to_owned(),
        workspace: "/work".to_owned(),
        submission_id: "1".to_owned(),
    };
    let refused = stack.operator.plans.submit(request).await.expect_err("it has mistakes");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let text = refused.message();
    assert!(text.contains("plan:3:") && text.contains("plan:4:"), "{text}");
}

#[tokio::test]
async fn a_stop_ends_what_waits_and_a_second_start_knows_everything() {
    let mut stack = Stack::start().await;
    let plan_id = stack.submit().await;
    let ticket = stack.worker.claim(20_000).await.expect("there is work");
    let second = run(
        config(&stack.authority, &stack.directory),
        Ready::channel().0,
        CancellationToken::new(),
    );
    let refused = second.await.expect_err("the store is in use");
    assert!(refused.to_string().contains("another orchestrator uses"), "{refused}");

    let mut idle = stack.other.tickets.clone();
    let mut waiting = Box::pin(idle.claim(any(20_000)));
    tokio::select! {
        biased;
        answered = &mut waiting => panic!("there is no work, but: {answered:?}"),
        // A second call behind it on the same connection: once that is answered, the first one waits.
        answered = stack.other.claim(0) => assert_eq!(answered, None),
    }
    let watch = GetPlanRequest { plan_id: plan_id.clone() };
    let mut views = stack.operator.plans.watch(watch).await.expect("allowed").into_inner();
    assert!(views.message().await.expect("the plan as it is").is_some());
    stack.stop.cancel();
    assert_eq!(code(waiting.await), Code::Unavailable);
    let cut_off = views.message().await.expect_err("the plan is not over");
    assert_eq!(cut_off.code(), Code::Unavailable);
    assert!(stack.served.await.expect("no panic").is_ok());

    let (ready, announced) = Ready::channel();
    let stop = CancellationToken::new();
    let again = config(&stack.authority, &stack.directory);
    let served = tokio::spawn(run(again, ready, stop.clone()));
    let address = format!("https://{}", announced.await.expect("it serves")["address"]);
    let mut worker = Caller::new(stack.worker.workload, &address);
    let done = worker.outcome(&ticket, OutcomeStatus::Done);
    assert_eq!(worker.report(done).await, Code::Ok);
    let mut operator = Caller::new(stack.operator.workload, &address);
    let view = operator.plans.get(GetPlanRequest { plan_id }).await.expect("allowed");
    assert_eq!(view.into_inner().status(), PlanStatus::PlanDone);
    stop.cancel();
    assert!(served.await.expect("no panic").is_ok());
}
