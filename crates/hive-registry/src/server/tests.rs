//! The service on real wires: a development authority, mutual TLS, and callers with identities of their own.

mod access;
mod expiry;
mod import;
mod input;
mod metrics;
mod python;
mod questions;
mod streams;

use super::*;
use crate::StoreConfig;
use hive_api::names::worker_path;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{
    DeregisterRequest, DiscoverAgentsRequest, GetAgentRequest, HeartbeatManyRequest,
    HeartbeatRequest, ListAgentsRequest, RegisterRequest,
};
use hive_dev::authority::{Authority, AuthorityConfig, Entry, EntryId};
use hive_security::WorkloadConfig;
use hive_security::connect::{self, Channel};
use std::collections::BTreeSet;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

pub(crate) type Client = ServiceRegistryClient<Channel>;

/// A registry, and those who call it.
struct Stack {
    authority: Authority,
    entry: EntryId,
    directory: TempDir,
    address: String,
    metrics: String,
    operator: Client,
    worker: Client,
    worker_channel: Channel,
    other: Client,
    stop: CancellationToken,
    served: JoinHandle<Result<(), Error>>,
}

impl Stack {
    async fn start() -> Self {
        let (authority, directory) = authority().await;
        Self::under(authority, directory).await
    }

    async fn start_with(heartbeat_timeout: Duration) -> Self {
        let (authority, directory) = authority().await;
        let config = Config { heartbeat_timeout, ..config(&authority, &directory) };
        Self::serve(authority, directory, config).await
    }

    /// Serves until the end of the test; from here on, this process is the registry.
    async fn under(authority: Authority, directory: TempDir) -> Self {
        let config = config(&authority, &directory);
        Self::serve(authority, directory, config).await
    }

    async fn serve(authority: Authority, directory: TempDir, config: Config) -> Self {
        let operator = caller(&authority, OPERATOR.path).await;
        let worker = caller(&authority, &worker_path("w1")).await;
        let other = caller(&authority, &worker_path("w2")).await;
        let server = Entry::of_process(REGISTRY.path, std::process::id());
        let entry = authority.add_entry(server).expect("an entry");
        let (ready, announced) = Ready::channel();
        let stop = CancellationToken::new();
        let served = tokio::spawn(run(config, ready, stop.clone()));
        let facts = announced.await.expect("it serves");
        let address = format!("https://{}", facts["address"]);
        Self {
            operator: client(&operator, &address),
            worker: client(&worker, &address),
            worker_channel: channel(&worker, &address),
            other: client(&other, &address),
            authority,
            entry,
            directory,
            address,
            metrics: facts["metrics"].clone(),
            stop,
            served,
        }
    }

    /// Stops, and serves from the same directory again.
    async fn restarted(self) -> Self {
        self.stop.cancel();
        self.served.await.expect("no panic").expect("it drains");
        assert!(self.authority.remove_entry(self.entry));
        Self::under(self.authority, self.directory).await
    }

    async fn registered(&mut self, key: &str) -> String {
        let request = RegisterRequest { instance_key: key.to_owned(), ..able(&["BUILD"]) };
        self.worker.register(request).await.expect("it is allowed").into_inner().agent_id
    }
}

async fn authority() -> (Authority, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("api.sock");
    let authority = Authority::start(AuthorityConfig::new(socket)).await.expect("it starts");
    (authority, directory)
}

fn config(authority: &Authority, directory: &TempDir) -> Config {
    let data_dir = directory.path().join("data");
    Config {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        store: StoreConfig::Sqlite { data_dir },
        workload: WorkloadConfig::new(authority.endpoint(), ATTACH_DEADLINE),
        heartbeat_timeout: Duration::from_secs(15),
        freeze_max: Duration::from_secs(300),
        metrics_listen: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0))),
    }
}

/// A caller of the registry with an identity of its own.
pub(crate) async fn caller(authority: &Authority, path: &str) -> Workload {
    authority.caller(path, REGISTRY.name).await.expect("an identity")
}

pub(crate) fn client(workload: &Workload, address: &str) -> Client {
    ServiceRegistryClient::new(channel(workload, address))
}

fn channel(workload: &Workload, address: &str) -> Channel {
    let trust_domain = workload.trust_domain();
    let server = IdPattern::in_trust_domain(&trust_domain, REGISTRY.path).expect("a pattern");
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).expect("a name");
    connect::channel(workload, address, server, audience).expect("an address")
}

fn able(capabilities: &[&str]) -> RegisterRequest {
    let capabilities = capabilities.iter().map(ToString::to_string).collect();
    RegisterRequest { agent_type: 1, capabilities, ..Default::default() }
}

fn wanted(capability: &str) -> DiscoverAgentsRequest {
    DiscoverAgentsRequest { capabilities: vec![capability.to_owned()], ..Default::default() }
}

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_worker_registers_and_is_found_until_it_leaves() {
    let Stack { mut operator, mut worker, stop, served, authority, .. } = Stack::start().await;
    let registered = worker.register(able(&["BUILD"])).await.expect("it is allowed").into_inner();
    assert_eq!(registered.registration_token, "");
    assert_eq!(registered.lease_duration_ms, 15_000);
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
    authority.stop().await;
}

#[tokio::test]
async fn registering_again_with_the_same_key_is_the_same_agent_and_without_one_another() {
    let mut stack = Stack::start().await;
    let first = stack.registered("pod-1").await;
    assert_eq!(stack.registered("pod-1").await, first);
    assert_ne!(stack.registered("pod-2").await, first);
    let (one, two) = (stack.registered("").await, stack.registered("").await);
    assert_ne!(one, two);
    let theirs = RegisterRequest { instance_key: "pod-1".to_owned(), ..able(&["BUILD"]) };
    let theirs = stack.other.register(theirs).await.expect("it is allowed").into_inner();
    assert_ne!(theirs.agent_id, first, "another owner's key is another agent");
    let listed = stack.operator.list_agents(ListAgentsRequest::default()).await.expect("allowed");
    assert_eq!(listed.into_inner().agents.len(), 5);
}

#[tokio::test]
async fn an_agent_obeys_its_owner_only() {
    let mut stack = Stack::start().await;
    let agent_id = stack.registered("pod-1").await;
    let stolen = HeartbeatRequest { agent_id: agent_id.clone(), telemetry: None };
    assert_eq!(code(stack.other.heartbeat(stolen.clone()).await), Code::PermissionDenied);
    let many = HeartbeatManyRequest { heartbeats: vec![stolen] };
    let results = stack.other.heartbeat_many(many).await.expect("each has its answer");
    assert_eq!(results.into_inner().results[0].code, Code::PermissionDenied as i32);
    let left = DeregisterRequest { agent_id: agent_id.clone() };
    assert_eq!(code(stack.other.deregister(left).await), Code::PermissionDenied);
    let attend = hive_api::registry::AttendRequest { agent_id, acknowledged: 0 };
    let attended = stack.other.attend(tokio_stream::once(attend)).await;
    assert_eq!(code(attended), Code::PermissionDenied);
}

#[tokio::test]
async fn many_heartbeats_have_one_answer_each() {
    let mut stack = Stack::start().await;
    let heartbeats = [stack.registered("a").await, "w1".to_owned(), stack.registered("b").await]
        .map(|agent_id| HeartbeatRequest { agent_id, telemetry: None });
    let request = HeartbeatManyRequest { heartbeats: heartbeats.into() };
    let results = stack.worker.heartbeat_many(request).await.expect("allowed").into_inner().results;
    let codes: Vec<i32> = results.iter().map(|result| result.code).collect();
    assert_eq!(codes, [Code::Ok as i32, Code::InvalidArgument as i32, Code::Ok as i32]);
    assert!(results[1].error.starts_with("agent_id: "), "{results:?}");
    let heartbeats = vec![HeartbeatRequest::default(); 1_001];
    let too_many = stack.worker.heartbeat_many(HeartbeatManyRequest { heartbeats }).await;
    assert_eq!(code(too_many), Code::InvalidArgument);
}

#[tokio::test]
async fn a_list_comes_in_pages_that_miss_and_repeat_nobody() {
    let mut stack = Stack::start().await;
    let mut registered = BTreeSet::new();
    for number in 0..7 {
        registered.insert(stack.registered(&format!("pod-{number}")).await);
    }
    let (mut listed, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = ListAgentsRequest { page_size: 3, page_token, ..Default::default() };
        let page = stack.operator.list_agents(request).await.expect("allowed").into_inner();
        pages += 1;
        listed.extend(page.agents.into_iter().map(|agent| agent.agent_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((pages, listed.len()), (3, 7));
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), registered);
}

#[tokio::test]
async fn a_restarted_registry_knows_its_agents() {
    let mut stack = Stack::start().await;
    let agent_id = stack.registered("a").await;
    let get = GetAgentRequest { agent_id: agent_id.clone() };
    let before = stack.operator.get_agent(get.clone()).await.expect("it is there").into_inner();
    let mut stack = stack.restarted().await;
    let after = stack.operator.get_agent(get).await.expect("it is still there").into_inner();
    assert_eq!(after.agent, before.agent);
    let heartbeat = HeartbeatRequest { agent_id, telemetry: None };
    assert_eq!(code(stack.worker.heartbeat(heartbeat).await), Code::Ok);
    stack.stop.cancel();
    assert!(stack.served.await.expect("no panic").is_ok());
}
