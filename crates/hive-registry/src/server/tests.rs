//! The service on real wires: a development authority, mutual TLS, and callers with identities of their own.

use super::*;
use hive_api::names::worker_path;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{
    AgentType, DeregisterRequest, DiscoverAgentsRequest, GetAgentRequest, HeartbeatRequest,
    ListAgentsRequest, RegisterRequest,
};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_security::WorkloadConfig;
use hive_security::connect::{self, Channel};
use tempfile::TempDir;
use tonic::{Code, Response, Status};

/// A registry, and those who call it.
struct Stack {
    _authority: Authority,
    _directory: TempDir,
    operator: ServiceRegistryClient<Channel>,
    worker: ServiceRegistryClient<Channel>,
    other: ServiceRegistryClient<Channel>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Stack {
    async fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        let socket = directory.path().join("api.sock");
        let authority = Authority::start(AuthorityConfig::new(socket)).await.expect("it starts");
        let operator = caller(&authority, OPERATOR.path).await;
        let worker = caller(&authority, &worker_path("w1")).await;
        let other = caller(&authority, &worker_path("w2")).await;
        authority
            .add_entry(Entry::of_process(REGISTRY.path, std::process::id()))
            .expect("an entry");
        let (ready, announced) = Ready::channel();
        let stop = CancellationToken::new();
        let config = Config {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            workload: WorkloadConfig::new(authority.endpoint(), ATTACH_DEADLINE),
            heartbeat_timeout: Duration::from_secs(15),
            freeze_max: Duration::from_secs(300),
            metrics_listen: None,
        };
        let served = tokio::spawn(run(config, ready, stop.clone()));
        let address = format!("https://{}", announced.await.expect("it serves")["address"]);
        Self {
            operator: client(&operator, &address),
            worker: client(&worker, &address),
            other: client(&other, &address),
            _authority: authority,
            _directory: directory,
            stop,
            served,
        }
    }
}

/// A caller with an identity of its own. One process has one identity at a time, so this one is fetched whole, and
/// then the entry goes: what was fetched serves until it expires.
async fn caller(authority: &Authority, path: &str) -> Workload {
    let entry = authority.add_entry(Entry::of_process(path, std::process::id())).expect("an entry");
    let config = WorkloadConfig::new(authority.endpoint(), ATTACH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await.expect("there is an entry");
    let audience = Audience::of_service(REGISTRY.name, &workload.trust_domain()).expect("a name");
    workload.jwt_svid(&audience).await.expect("there is an entry");
    drop(upkeep);
    assert!(authority.remove_entry(entry));
    workload
}

fn client(workload: &Workload, address: &str) -> ServiceRegistryClient<Channel> {
    let trust_domain = workload.trust_domain();
    let server = IdPattern::in_trust_domain(&trust_domain, REGISTRY.path).expect("a pattern");
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).expect("a name");
    let channel = connect::channel(workload, address, server, audience).expect("an address");
    ServiceRegistryClient::new(channel)
}

fn able(capabilities: &[&str]) -> RegisterRequest {
    let capabilities = capabilities.iter().map(ToString::to_string).collect();
    RegisterRequest { agent_type: AgentType::Worker.into(), capabilities, ..Default::default() }
}

fn wanted(capability: &str) -> DiscoverAgentsRequest {
    DiscoverAgentsRequest { capabilities: vec![capability.to_owned()], ..Default::default() }
}

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_worker_registers_and_is_found_until_it_leaves() {
    let Stack { mut operator, mut worker, stop, served, _authority, .. } = Stack::start().await;
    let registered = worker.register(able(&["BUILD"])).await.expect("it is allowed").into_inner();
    assert_eq!(registered.registration_token, "");
    let found = operator.discover_agents(wanted("BUILD")).await.expect("allowed").into_inner();
    assert!(found.ranked && found.agents.len() == 1);
    assert!(found.agents[0].spiffe_id.ends_with("/worker-agents/w1"), "{:?}", found.agents);
    let agent_id = registered.agent_id;
    let heartbeat = HeartbeatRequest { agent_id: agent_id.clone(), telemetry: None };
    assert_eq!(code(worker.heartbeat(heartbeat.clone()).await), Code::Ok);
    let get = GetAgentRequest { agent_id: agent_id.clone() };
    assert_eq!(code(operator.get_agent(get.clone()).await), Code::Ok);
    let left = worker.deregister(DeregisterRequest { agent_id }).await.expect("it is its own");
    assert!(left.into_inner().success);
    assert_eq!(code(operator.get_agent(get).await), Code::NotFound);
    assert_eq!(code(worker.heartbeat(heartbeat).await), Code::NotFound);
    let listed = operator.list_agents(ListAgentsRequest::default()).await.expect("allowed");
    assert!(listed.into_inner().agents.is_empty());
    stop.cancel();
    assert!(served.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn each_caller_may_do_what_the_policy_says_and_no_more() {
    let Stack { mut operator, mut worker, mut other, _authority, .. } = Stack::start().await;
    assert_eq!(code(operator.register(able(&["BUILD"])).await), Code::PermissionDenied);
    let registered = worker.register(able(&["BUILD"])).await.expect("it is allowed");
    let agent_id = registered.into_inner().agent_id;
    let stolen = HeartbeatRequest { agent_id: agent_id.clone(), telemetry: None };
    assert_eq!(code(other.heartbeat(stolen).await), Code::PermissionDenied);
    assert_eq!(
        code(other.deregister(DeregisterRequest { agent_id }).await),
        Code::PermissionDenied
    );
    assert_eq!(code(other.discover_agents(wanted("BUILD")).await), Code::Ok);
}

#[tokio::test]
async fn bad_input_is_named_in_the_answer() {
    let mut stack = Stack::start().await;
    let nameless = stack.worker.register(able(&[])).await.expect_err("no capability");
    assert_eq!(nameless.code(), Code::InvalidArgument);
    assert!(nameless.message().contains("capabilities"), "{nameless}");
    let malformed = GetAgentRequest { agent_id: "w1".to_owned() };
    assert_eq!(code(stack.operator.get_agent(malformed).await), Code::InvalidArgument);
    let filters = [("colour".to_owned(), "red".to_owned())].into();
    let filtered = DiscoverAgentsRequest { filters, ..wanted("BUILD") };
    assert_eq!(code(stack.operator.discover_agents(filtered).await), Code::InvalidArgument);
}
