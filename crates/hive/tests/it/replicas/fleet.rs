//! Served replicas, each a process of its own, on a real etcd; and who calls them.

pub(super) use crate::harness::Client;
use crate::harness::{HIVE, Place, caller, client, wait_until};
use hive_api::names::{OPERATOR, REGISTRY, WORKERS};
use hive_api::registry::{
    AgentChangeEvent, AgentInfo, HeartbeatManyRequest, HeartbeatRequest, HeartbeatResult,
    ListAgentsRequest, RegisterRequest, WatchAgentsRequest,
};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::etcd::{Etcd, Files};
use hive_security::connect;
use hive_security::{IdPattern, Workload};
use prost::Message;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

/// Far longer than anything here takes: whoever waits for it has failed.
const DEADLINE: Duration = Duration::from_secs(120);
/// One call; a replica that hangs is left for the next one.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
const ETCD: &str = "/ns/neural-hive/sa/etcd";
const PREFIX: &str = "test/";

pub(super) struct Fleet {
    pub(super) etcd: Etcd,
    pub(super) replicas: Vec<Replica>,
    worker: Workload,
    registry: Workload,
    place: Place,
    authority: Authority,
}

pub(super) struct Replica {
    pub(super) client: Client,
    address: String,
    child: Child,
}

impl Fleet {
    /// Three nodes of etcd, and three replicas at which an agent may be silent for this long.
    pub(super) async fn start(silence: Duration) -> Self {
        let place = Place::new();
        let config = AuthorityConfig::new(place.path().join("api.sock"));
        let authority = Authority::start(config).await.expect("it starts");
        let files = Files::of(&caller(&authority, ETCD).await, place.path()).expect("written");
        let program = hive_dev::tools::program("etcd")
            .expect("etcd is missing: `cargo xtask real` puts it into the target directory");
        let etcd = Etcd::start::<3>(&program, place.path(), files).await.expect("etcd starts");
        let worker = caller(&authority, WORKERS.path.trim_end_matches("/**")).await;
        let registry = caller(&authority, REGISTRY.path).await;
        let mut fleet = Self { etcd, replicas: Vec::new(), worker, registry, place, authority };
        for number in 0..3 {
            let replica = fleet.serve(number, silence).await;
            fleet.replicas.push(replica);
        }
        fleet
    }

    async fn serve(&self, number: usize, silence: Duration) -> Replica {
        let log = self.place.path().join(format!("registry-{number}.log"));
        let mut command = self.place.command(Path::new(HIVE), &["registry"]);
        command
            .env("SPIFFE_ENDPOINT_SOCKET", self.authority.endpoint())
            .env("HIVE_LISTEN", "127.0.0.1:0")
            .env("HIVE_REGISTRY_STORE", "etcd")
            .env("HIVE_ETCD_ENDPOINTS", self.etcd.endpoints().join(","))
            .env("HIVE_ETCD_PREFIX", PREFIX)
            .env("HIVE_HEARTBEAT_TIMEOUT_MS", silence.as_millis().to_string())
            .stderr(File::create(&log).expect("a file"));
        let mut child = spawn(command);
        let identity = Entry::of_process(REGISTRY.path, child.id());
        self.authority.add_entry(identity).expect("an entry");
        let stdout = child.stdout.take().expect("a pipe");
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line);
            line
        });
        let line = timeout(DEADLINE, first).await.expect("it starts in time").expect("no panic");
        let facts = hive_runtime::ready::parse(&line).unwrap_or_else(|| {
            panic!("{line:?}: {}", std::fs::read_to_string(&log).unwrap_or_default())
        });
        let address = format!("https://{}", facts["address"]);
        Replica { client: client(&self.worker, &address), address, child }
    }

    /// An operator's client at one replica.
    pub(super) async fn operator(&self, replica: usize) -> Client {
        let operator = caller(&self.authority, OPERATOR.path).await;
        client(&operator, &self.replicas[replica].address)
    }

    pub(super) fn clients(&self) -> Vec<Client> {
        self.replicas.iter().map(|replica| replica.client.clone()).collect()
    }

    /// Which node of etcd leads.
    pub(super) async fn leader(&self) -> usize {
        loop {
            for (node, endpoint) in self.etcd.endpoints().iter().enumerate() {
                if self.leads(endpoint).await.unwrap_or(false) {
                    return node;
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn leads(&self, endpoint: &str) -> Result<bool, Status> {
        let etcd = IdPattern::in_trust_domain(&self.registry.trust_domain(), ETCD);
        let channel =
            connect::channel_without_jwt(&self.registry, endpoint, etcd.expect("a pattern"));
        let mut grpc = tonic::client::Grpc::new(channel.expect("an address"));
        grpc.ready().await.map_err(|_| Status::unavailable("no connection"))?;
        let codec = tonic_prost::ProstCodec::<(), NodeStatus>::default();
        let path = http::uri::PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
        let status = grpc.unary(tonic::Request::new(()), path, codec).await?.into_inner();
        Ok(status.header.is_some_and(|header| header.member_id == status.leader))
    }

    /// Ends everything; nothing may be left.
    pub(super) async fn stop(mut self) {
        for replica in &mut self.replicas {
            if replica.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                crate::harness::signal("TERM", replica.child.id());
            }
        }
        for replica in &mut self.replicas {
            let child = &mut replica.child;
            wait_until("it stops", || child.try_wait().is_ok_and(|ended| ended.is_some()));
        }
        self.etcd.stop().await;
        self.authority.stop().await;
        self.place.assert_nothing_is_left();
    }
}

impl Replica {
    /// Kills it, as a crash would.
    pub(super) fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it is ours");
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended.
        _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).spawn().expect("hive can be run")
}

/// What a node of etcd says of itself, as far as it matters.
#[derive(Clone, PartialEq, Message)]
struct NodeStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<NodeHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct NodeHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Whatever the weather, it is done within the deadline or has failed.
pub(super) async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let trying = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(DEADLINE, trying).await.unwrap_or_else(|_| panic!("it did not happen that {what}"))
}

async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer"));
    timeout(CALL_DEADLINE, call).await.unwrap_or_else(late).map(tonic::Response::into_inner)
}

/// Registers an agent as its process would: again, until it is acknowledged.
pub(super) async fn register(client: &Client, key: &str) -> String {
    let request = RegisterRequest {
        agent_type: 1,
        capabilities: vec!["BUILD".to_owned()],
        instance_key: key.to_owned(),
        ..RegisterRequest::default()
    };
    let called = Instant::now();
    loop {
        match bounded(client.clone().register(request.clone())).await {
            Ok(answer) => return answer.agent_id,
            Err(status) => assert!(is_weather(&status), "{status}"),
        }
        assert!(called.elapsed() < DEADLINE, "{key} is not registered");
        sleep(PAUSE).await;
    }
}

/// One heartbeat for each of these agents.
pub(super) async fn beat(
    client: &Client,
    agents: &[String],
) -> Result<Vec<HeartbeatResult>, Status> {
    let heartbeat =
        |agent_id: &String| HeartbeatRequest { agent_id: agent_id.clone(), telemetry: None };
    let heartbeats = agents.iter().map(heartbeat).collect();
    let answer =
        bounded(client.clone().heartbeat_many(HeartbeatManyRequest { heartbeats })).await?;
    Ok(answer.results)
}

pub(super) async fn list(client: &Client) -> Vec<AgentInfo> {
    until("they are listed", async || {
        match bounded(client.clone().list_agents(ListAgentsRequest::default())).await {
            Ok(answer) => Some(answer.agents),
            Err(status) if is_weather(&status) => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await
}

fn is_weather(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::DeadlineExceeded | Code::Unavailable)
}

/// Somebody who watches, and goes on at another replica when one fails.
pub(super) struct Watcher {
    told: Arc<Mutex<Vec<(Instant, AgentChangeEvent)>>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Begins at the first of these replicas, and is in sync when this returns.
    pub(super) async fn begin(replicas: Vec<Client>) -> Self {
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let task = tokio::spawn(watch(replicas, Arc::clone(&told)));
        let watcher = Self { told, task };
        let is_synced = || watcher.events().iter().any(|(_, event)| event.agent.is_none());
        until("it is in sync", async || is_synced().then_some(())).await;
        watcher
    }

    fn events(&self) -> MutexGuard<'_, Vec<(Instant, AgentChangeEvent)>> {
        self.told.lock().expect("no panic")
    }

    /// The changes that it was told, in order, and when.
    pub(super) fn changes(&self) -> Vec<(Instant, AgentChangeEvent)> {
        let is_change = |(_, event): &&(Instant, AgentChangeEvent)| event.agent.is_some();
        self.events().iter().filter(is_change).cloned().collect()
    }

    /// Waits until it is told what is looked for, and says when that was.
    pub(super) async fn until(
        &self,
        what: &str,
        found: impl Fn(&AgentChangeEvent) -> bool,
    ) -> Instant {
        until(what, async || {
            assert!(!self.task.is_finished(), "the watch is over");
            self.events().iter().find(|(_, event)| found(event)).map(|(at, _)| *at)
        })
        .await
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(replicas: Vec<Client>, told: Arc<Mutex<Vec<(Instant, AgentChangeEvent)>>>) {
    let mut resume_revision = 0;
    for at in (0..replicas.len()).cycle() {
        let request = WatchAgentsRequest { resume_revision, ..WatchAgentsRequest::default() };
        let Ok(mut events) =
            bounded(replicas[at].clone().watch_agents(request)).await.inspect_err(|status| {
                assert!(is_weather(status), "what was missed is not known any more: {status}");
            })
        else {
            sleep(PAUSE).await;
            continue;
        };
        let ended = loop {
            match events.message().await {
                Ok(Some(event)) => {
                    resume_revision = resume_revision.max(event.revision);
                    told.lock().expect("no panic").push((Instant::now(), event));
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        let lost = ended.filter(|status| status.code() == Code::OutOfRange);
        assert!(lost.is_none(), "what was missed is not known any more: {lost:?}");
        sleep(PAUSE).await;
    }
}
