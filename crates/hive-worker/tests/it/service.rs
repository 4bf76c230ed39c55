//! A whole worker, with a real authority, a real vault, PostgreSQL where it is installed, and an orchestrator that the test
//! holds in its hands. There is no registry: the worker works all the same.

use crate::world::eventually;
use hive_api::names::{ORCHESTRATOR, WORKERS, worker_path};
use hive_api::orchestrator as wire;
use hive_api::orchestrator::tickets_server::{Tickets, TicketsServer};
use hive_api::{OUTCOME_PAYLOAD, TICKET_PAYLOAD};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::postgres::{self, Postgres, Programs};
use hive_dev::vault::{Database, DatabaseRole, JwtRole, Sensitive, Setup, Vault};
use hive_dev::witness::Witness;
use hive_runtime::ready::Ready;
use hive_security::serve::{self, Authenticate, MethodPolicy};
use hive_security::{Audience, Envelope, IdPattern, Upkeep, Workload, WorkloadConfig};
use hive_worker::Config;
use hive_worker::config::LedgerAddress;
use hive_worker::sandbox::{Confinement, Launcher, Toolchain};
use prost::Message;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Row};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(30);

/// What came of a ticket, and the vault's audit log at that moment.
struct Reported {
    outcome: wire::Outcome,
    audit: String,
}

/// Hands out what the test puts in, and hands on what the worker reports.
struct Desk {
    tickets: Mutex<mpsc::Receiver<(wire::Ticket, Workload)>>,
    reported: mpsc::Sender<Reported>,
    workload: Workload,
    audit: PathBuf,
}

#[tonic::async_trait]
impl Tickets for Desk {
    async fn claim(
        &self,
        request: Request<wire::ClaimRequest>,
    ) -> Result<Response<wire::ClaimResponse>, Status> {
        let worker = serve::peer(&request)?.spiffe_id.to_string();
        let next =
            timeout(Duration::from_millis(200), async { self.tickets.lock().await.recv().await })
                .await;
        let Ok(Some((mut ticket, signer))) = next else {
            return Ok(Response::new(wire::ClaimResponse::default()));
        };
        ticket.claimed_by = worker;
        let signed = signer.sign(TICKET_PAYLOAD, &ticket.encode_to_vec()).unwrap();
        let ticket = wire::SignedEnvelope {
            payload_type: signed.payload_type,
            payload: signed.payload,
            certificate_chain: signed.certificate_chain,
            signature: signed.signature,
        };
        Ok(Response::new(wire::ClaimResponse { ticket: Some(ticket), claim_ttl_ms: 3_000 }))
    }

    async fn extend(
        &self,
        _request: Request<wire::ExtendRequest>,
    ) -> Result<Response<wire::ExtendResponse>, Status> {
        Ok(Response::new(wire::ExtendResponse::default()))
    }

    async fn report(
        &self,
        request: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        let signed = request.into_inner().outcome.unwrap();
        let envelope = Envelope {
            payload_type: signed.payload_type,
            payload: signed.payload,
            certificate_chain: signed.certificate_chain,
            signature: signed.signature,
        };
        let workers = pattern(&self.workload, WORKERS.path);
        self.workload
            .open(&envelope, OUTCOME_PAYLOAD, &workers)
            .expect("the worker signs its outcome");
        let outcome = wire::Outcome::decode(envelope.payload.as_slice()).unwrap();
        let audit = std::fs::read_to_string(&self.audit).unwrap_or_default();
        self.reported.send(Reported { outcome, audit }).await.unwrap();
        Ok(Response::new(wire::ReportResponse {}))
    }
}

fn pattern(workload: &Workload, path: &str) -> IdPattern {
    IdPattern::in_trust_domain(&workload.trust_domain(), path).unwrap()
}

struct Stack {
    directory: TempDir,
    orchestrator: Workload,
    worker: Workload,
    tickets: mpsc::Sender<(wire::Ticket, Workload)>,
    reported: mpsc::Receiver<Reported>,
    postgres: Option<Postgres>,
    vault: Vault,
    stop: CancellationToken,
    running: JoinHandle<Result<(), hive_worker::Error>>,
    serving: JoinHandle<()>,
    _authority: Authority,
    _upkeep: [Upkeep; 2],
}

impl Stack {
    async fn start(with_postgres: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::start(AuthorityConfig::new(directory.path().join("api.sock")))
            .await
            .unwrap();
        // This process is the orchestrator first, and the worker from then on: whoever has attached keeps what it got.
        let (orchestrator, first) = attach_as(&authority, ORCHESTRATOR.path).await;
        authority
            .add_entry(Entry::of_process(worker_path("worker-1"), std::process::id()))
            .unwrap();
        let (worker, second) = attach(&authority).await;
        let postgres = if with_postgres {
            start_postgres(&directory.path().join("postgres")).await
        } else {
            None
        };
        let vault = start_vault(directory.path(), &authority, postgres.as_ref()).await;
        let (tickets, queue) = mpsc::channel(8);
        let (reports, reported) = mpsc::channel(8);
        let desk = Desk {
            tickets: Mutex::new(queue),
            reported: reports,
            workload: orchestrator.clone(),
            audit: directory.path().join("audit.jsonl"),
        };
        let (address, serving) = serve(desk).await;
        let config = config(directory.path(), &authority, &vault, &address, postgres.as_ref());
        let stop = CancellationToken::new();
        let (ready, _) = Ready::channel();
        let running = tokio::spawn(hive_worker::run(config, ready, stop.clone()));
        Self {
            directory,
            orchestrator,
            worker,
            tickets,
            reported,
            postgres,
            vault,
            stop,
            running,
            serving,
            _authority: authority,
            _upkeep: [first, second],
        }
    }

    async fn submit(&self, ticket: wire::Ticket, signer: &Workload) {
        self.tickets.send((ticket, signer.clone())).await.unwrap();
    }

    async fn outcome(&mut self) -> Reported {
        timeout(PATIENCE, self.reported.recv())
            .await
            .expect("within 30 s")
            .expect("the desk is open")
    }

    fn ticket(&self, kind: wire::TicketKind, parameters: &Value) -> wire::Ticket {
        wire::Ticket {
            ticket_id: "p1/it".to_owned(),
            plan_id: "p1".to_owned(),
            plan_name: "release".to_owned(),
            kind: kind.into(),
            claim: 1,
            deadline_ms: hive_worker::runner::now_ms() + 60_000,
            timeout_ms: 60_000,
            workspace: self.directory.path().display().to_string(),
            parameters_json: parameters.to_string(),
            ..Default::default()
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.running)
            .await
            .expect("it drains")
            .unwrap()
            .expect("it ends well");
        let left: Vec<_> =
            std::fs::read_dir(self.directory.path().join("data/tickets")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        self.serving.abort();
        self.vault.stop().await.unwrap();
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
    }
}

async fn attach_as(authority: &Authority, path: &str) -> (Workload, Upkeep) {
    let entry = authority.add_entry(Entry::of_process(path, std::process::id())).unwrap();
    let attached = attach(authority).await;
    // JWT-SVIDs are fetched when they are needed, but a server needs none.
    assert!(authority.remove_entry(entry));
    attached
}

async fn attach(authority: &Authority) -> (Workload, Upkeep) {
    let config = WorkloadConfig::new(authority.endpoint(), PATIENCE);
    Workload::attach(config).await.unwrap()
}

async fn serve(desk: Desk) -> (String, JoinHandle<()>) {
    let workload = desk.workload.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let audience = Audience::of_service(ORCHESTRATOR.name, &workload.trust_domain()).unwrap();
    let policy = MethodPolicy::new()
        .allow("/neural_hive.orchestrator.v1.Tickets/*", pattern(&workload, WORKERS.path));
    let server = tonic::transport::Server::builder()
        .layer(Authenticate::new(&workload, audience, policy))
        .add_service(TicketsServer::from_arc(Arc::new(desk)))
        .serve_with_incoming(serve::incoming(listener, &workload).unwrap());
    (address, tokio::spawn(async move { server.await.unwrap() }))
}

fn config(
    directory: &Path,
    authority: &Authority,
    vault: &Vault,
    orchestrator: &str,
    postgres: Option<&Postgres>,
) -> Config {
    let ledger = postgres.map(|postgres| LedgerAddress {
        host: postgres.host.clone(),
        port: postgres.port,
        database: postgres.database.clone(),
    });
    Config {
        name: "worker-1".to_owned(),
        slots: 1,
        workload: WorkloadConfig::new(authority.endpoint(), PATIENCE),
        vault: hive_security::vault::VaultConfig::at(&vault.address),
        orchestrator_addr: orchestrator.to_owned(),
        // Nobody listens there.
        registry_addr: "https://127.0.0.1:1".to_owned(),
        data_dir: directory.join("data"),
        artifacts_dir: directory.join("artifacts"),
        runtime_dir: None,
        ledger,
        confinement: Confinement::Landlock,
        launcher: Launcher::new(env!("CARGO_BIN_EXE_hive-sandbox-exec"), []),
        toolchain: Toolchain::default(),
    }
}

async fn start_postgres(directory: &Path) -> Option<Postgres> {
    let Some(programs) = Programs::find() else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "PostgreSQL is required where CI=true"
        );
        eprintln!("skipped: the ledger (PostgreSQL is not installed)");
        return None;
    };
    // PostgreSQL runs as another user when this is root, and must be able to reach its directory.
    let parent = directory.parent().unwrap();
    std::fs::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = postgres::Config { programs, directory: directory.to_owned(), launcher: None };
    Some(Postgres::start(config).await.unwrap())
}

async fn start_vault(
    directory: &Path,
    authority: &Authority,
    postgres: Option<&Postgres>,
) -> Vault {
    let rules = json!([
        { "path": "secret/data/release", "capabilities": ["read"] },
        { "path": "database/creds/releases", "capabilities": ["read"] },
        { "path": "sys/leases/revoke", "capabilities": ["update"] },
    ]);
    let role = JwtRole {
        bound_audiences: vec![format!("vault.{}", authority.trust_domain())],
        bound_claims_sub_glob: authority.spiffe_id(&worker_path("worker-1")).unwrap(),
        token_policies: vec!["deploy".to_owned()],
        token_ttl_s: 60,
        token_max_ttl_s: 600,
    };
    let release = json!({ "key": "a key for a test" }).as_object().unwrap().clone();
    let setup = Setup {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        jwks_url: Some(authority.keys_url()),
        policies: [("deploy".to_owned(), serde_json::from_value(rules).unwrap())].into(),
        jwt_roles: [("ticket-deploy".to_owned(), role)].into(),
        kv: [("secret".to_owned(), [("release".to_owned(), Sensitive::new(release))].into())]
            .into(),
        database: postgres.map(database),
        audit_path: Some(directory.join("audit.jsonl")),
        danger_root_token: None,
    };
    Vault::start(setup, Witness::none()).await.unwrap()
}

fn database(postgres: &Postgres) -> Database {
    let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE writers";
    let role = DatabaseRole {
        creation_statements: vec![create.to_owned()],
        revocation_statements: Vec::new(),
        default_ttl_s: 60,
        max_ttl_s: 600,
    };
    let table = "CREATE TABLE releases (ticket_id text PRIMARY KEY, plan_id text, release text, digest text, deployed_by text)";
    Database {
        setup_statements: [
            table,
            "CREATE ROLE writers NOLOGIN",
            "GRANT SELECT, INSERT ON releases TO writers",
        ]
        .map(str::to_owned)
        .into(),
        roles: BTreeMap::from([("releases".to_owned(), role)]),
        ..Database::within(postgres)
    }
}

async fn rows(postgres: &Postgres, query: &'static str) -> Vec<String> {
    let root = postgres.server().username(&postgres.username);
    let mut connection = root.password(postgres.password.expose_secret()).connect().await.unwrap();
    let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

fn deploy(stack: &Stack) -> wire::Ticket {
    let artifacts =
        hive_worker::artifacts::Artifacts::open(&stack.directory.path().join("artifacts")).unwrap();
    let digest = artifacts.store("hello", &mut b"program".as_slice()).unwrap().digest.to_string();
    let parameters = json!({
        "artifact": digest, "file": "hello", "into": "releases", "release": "hello-1",
        "seal": "signing-key", "ledger": "database",
    });
    let credential = |name: &str, path: &str, optional| wire::Credential {
        name: name.to_owned(),
        path: path.to_owned(),
        optional,
    };
    wire::Ticket {
        credentials: vec![
            credential("signing-key", "secret/data/release", false),
            credential("database", "database/creds/releases", true),
        ],
        ..stack.ticket(wire::TicketKind::Deploy, &parameters)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_executed_with_credentials_that_are_gone_when_its_outcome_comes() {
    let mut stack = Stack::start(true).await;
    stack.submit(deploy(&stack), &stack.orchestrator).await;
    let first = stack.outcome().await;
    assert_eq!(first.outcome.status(), wire::OutcomeStatus::Done, "{:?}", first.outcome);
    assert!(
        first.audit.contains("auth/token/revoke-self"),
        "the token was revoked before the report: {}",
        first.audit
    );
    assert!(Path::new(&first.outcome.outputs["release"]).join("release.json.seal").is_file());
    if let Some(postgres) = &stack.postgres {
        assert_eq!(first.outcome.message, "recorded in the ledger");
        let leased = "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND rolname <> 'hive'";
        assert_eq!(rows(postgres, leased).await, Vec::<String>::new(), "the leased role is gone");
        // The same ticket again, as after a crash: no second row.
        let again = wire::Ticket { claim: 2, ..deploy(&stack) };
        stack.submit(again, &stack.orchestrator).await;
        assert_eq!(stack.outcome().await.outcome.status(), wire::OutcomeStatus::Done);
        let postgres = stack.postgres.as_ref().unwrap();
        let by = rows(postgres, "SELECT deployed_by FROM releases WHERE ticket_id = 'p1/it'").await;
        assert!(by.len() == 1 && by[0] != "hive", "one row, by a leased user: {by:?}");
    }
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_outcome_says_so() {
    let mut stack = Stack::start(false).await;
    stack.submit(deploy(&stack), &stack.orchestrator).await;
    let reported = stack.outcome().await.outcome;
    assert_eq!(reported.status(), wire::OutcomeStatus::Done, "{reported:?}");
    let expected =
        "no ledger: nothing is mounted at database/creds/releases, or it has no such role";
    assert_eq!(reported.message, expected);
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_the_orchestrator_did_not_sign_is_never_executed() {
    let mut stack = Stack::start(false).await;
    let file = stack.directory.path().join("proof");
    let parameters = json!({ "command": ["touch", file] });
    stack.submit(stack.ticket(wire::TicketKind::Execute, &parameters), &stack.worker).await;
    let reported = stack.outcome().await.outcome;
    assert_eq!(reported.status(), wire::OutcomeStatus::Failed);
    assert!(
        reported.message.contains("the worker refused it: its signature was refused"),
        "{}",
        reported.message
    );
    assert!(!file.exists());
    stack.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_withdraws_what_it_runs_and_says_so() {
    let mut stack = Stack::start(false).await;
    let parameters = json!({ "command": ["sleep", "1000"] });
    stack.submit(stack.ticket(wire::TicketKind::Execute, &parameters), &stack.orchestrator).await;
    let home = stack.directory.path().join("data/tickets/p1.it.1");
    eventually("it runs", || home.exists()).await;
    stack.stop.cancel();
    let reported = stack.outcome().await.outcome;
    assert_eq!(reported.status(), wire::OutcomeStatus::Withdrawn);
    assert_eq!(reported.message, "its worker is stopping");
    stack.end().await;
}
