//! A real etcd, whose nodes and clients prove themselves with SVIDs.

use super::*;
use crate::server::tests::{Client, caller, client};
use crate::store::FeedItem;
use crate::{Config, Error, StoreConfig};
use hive_api::names::{REGISTRY, worker_path};
use hive_api::registry::{
    GetAgentRequest, HeartbeatRequest, Liveness, RegisterRequest, WatchAgentsRequest,
};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::etcd::{Etcd as Server, Files};
use hive_runtime::ready::Ready;
use hive_security::WorkloadConfig;
use std::collections::BTreeSet;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Far longer than anything here takes: whoever waits for it has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const ETCD: &str = "/ns/neural-hive/sa/etcd";

type Served = tokio::task::JoinHandle<Result<(), Error>>;

/// A cluster, and the replicas that use it.
pub(in crate::store) struct Cluster {
    server: Server,
    workload: Workload,
    stop: CancellationToken,
    authority: Authority,
    _directory: TempDir,
}

impl Cluster {
    pub(in crate::store) async fn start<const N: usize>() -> Self {
        let directory = TempDir::new().expect("a directory");
        let socket = directory.path().join("api.sock");
        let authority = Authority::start(AuthorityConfig::new(socket)).await.expect("it starts");
        let files = Files::of(&caller(&authority, ETCD).await, directory.path()).expect("written");
        let program = hive_dev::tools::program("etcd")
            .expect("etcd is missing: `cargo xtask real` puts it into the target directory");
        let server = Server::start::<N>(&program, directory.path(), files).await;
        let server = server.expect("etcd starts");
        let workload = caller(&authority, REGISTRY.path).await;
        let stop = CancellationToken::new();
        Self { server, workload, stop, authority, _directory: directory }
    }

    /// The store of a replica that is present until the cluster is dropped.
    pub(in crate::store) async fn open(&self, replica: &str) -> Etcd {
        self.open_until(replica, self.stop.clone()).await
    }

    async fn open_until(&self, replica: &str, stop: CancellationToken) -> Etcd {
        let config = self.config(ETCD);
        let opened = Etcd::open(&config, &self.workload, here(replica)).await;
        let (store, presence) = opened.expect("etcd answers");
        tokio::spawn(presence.run(stop));
        store
    }

    /// Kills a node, and starts it again with what it had.
    pub(in crate::store) async fn restart(&mut self, node: usize) {
        self.server.restart(node).await.expect("it starts again");
    }

    fn config(&self, id: &str) -> EtcdConfig {
        let (endpoints, prefix) = (self.server.endpoints(), "test/".to_owned());
        EtcdConfig { endpoints, prefix, id: id.to_owned(), advertise: None }
    }
}

fn here(replica: &str) -> Here {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 7_100));
    Here { replica: ReplicaId::new(replica), address }
}

fn put(number: u8, value: &'static str) -> Change {
    let (id, value) = (AgentId::from_bytes([number; 16]), Bytes::from_static(value.as_bytes()));
    Change::Put { id, value, expected: Expected::Any }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it does not hang")
}

/// Reads a feed until it says what is looked for.
async fn until<T>(feed: &mut Feed, mut found: impl FnMut(&FeedItem) -> Option<T>) -> T {
    within(async {
        loop {
            let item = feed.next().await.expect("the feed goes on");
            if let Some(found) = found(&item) {
                return found;
            }
        }
    })
    .await
}

async fn until_present(feed: &mut Feed, names: &[&str]) {
    let wanted: BTreeSet<ReplicaId> = names.iter().map(|name| ReplicaId::new(name)).collect();
    until(feed, |item| matches!(item, FeedItem::Replicas(now) if *now == wanted).then_some(()))
        .await;
}

#[tokio::test]
async fn replicas_see_each_other_come_and_go_and_what_each_writes() {
    let cluster = Cluster::start::<1>().await;
    let first = cluster.open("r1").await;
    let mut feed = within(first.follow(None)).await.expect("it can be followed");
    until_present(&mut feed, &["r1"]).await;
    let gone = CancellationToken::new();
    let second = cluster.open_until("r2", gone.clone()).await;
    until_present(&mut feed, &["r1", "r2"]).await;
    let others = within(first.others()).await.expect("it answers");
    assert_eq!(others, [(ReplicaId::new("r2"), "127.0.0.1:7100".to_owned())]);
    let written = within(second.write(put(1, "a"))).await.expect("it is stored");
    let told = until(&mut feed, |item| match item {
        FeedItem::Put { revision, .. } => Some(*revision),
        _ => None,
    });
    assert_eq!(told.await, written);
    gone.cancel();
    until_present(&mut feed, &["r1"]).await;
}

#[tokio::test]
async fn a_server_that_is_not_etcd_is_refused() {
    let cluster = Cluster::start::<1>().await;
    let config = cluster.config("/ns/neural-hive/sa/other");
    let opened = Etcd::open(&config, &cluster.workload, here("r1")).await;
    let error = opened.expect_err("it is somebody else");
    let why = format!("{error:?}");
    assert!(why.contains("/ns/neural-hive/sa/other"), "{why}");
}

#[tokio::test]
async fn the_loss_of_a_node_loses_no_record_and_no_change() {
    let mut cluster = Cluster::start::<3>().await;
    let store = cluster.open("r1").await;
    let mut acknowledged = BTreeSet::new();
    acknowledged.insert(within(store.write(put(0, "a"))).await.expect("it is stored"));
    let mut feed = within(store.follow(None)).await.expect("it can be followed");
    let from = until(&mut feed, |item| match item {
        FeedItem::InSync { revision } => Some(*revision),
        _ => None,
    })
    .await;
    // Each node in turn, and so the leader as well.
    for node in 0..3 {
        cluster.server.kill(node).await;
        for number in 0..5 {
            acknowledged.insert(written(&store, put(node as u8 * 5 + number, "b")).await);
        }
        cluster.server.restart(node).await.expect("it starts again");
    }
    let mut feed = within(followed(&store, from)).await;
    let mut told = BTreeSet::new();
    until(&mut feed, |item| match item {
        FeedItem::Put { revision, .. } => {
            told.insert(*revision);
            None
        }
        FeedItem::InSync { .. } => Some(()),
        _ => None,
    })
    .await;
    acknowledged.retain(|revision| *revision > from);
    let lost: Vec<_> = acknowledged.difference(&told).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// As a caller does: what is not acknowledged is written again.
async fn written(store: &Etcd, change: Change) -> Revision {
    within(async {
        loop {
            match store.write(change.clone()).await {
                Ok(revision) => return revision,
                Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

async fn followed(store: &Etcd, from: Revision) -> Feed {
    loop {
        match store.follow(Some(from)).await {
            Ok(feed) => return feed,
            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A served replica whose client is a worker.
async fn serve(cluster: &Cluster, worker: &Workload) -> (Client, CancellationToken, Served) {
    let config = Config {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        store: StoreConfig::Etcd(cluster.config(ETCD)),
        workload: WorkloadConfig::new(cluster.authority.endpoint(), DEADLINE),
        heartbeat_timeout: DEADLINE,
        freeze_max: DEADLINE,
        metrics_listen: None,
    };
    let (ready, announced) = Ready::channel();
    let stop = CancellationToken::new();
    let served = tokio::spawn(crate::run(config, ready, stop.clone()));
    let address = format!("https://{}", within(announced).await.expect("it serves")["address"]);
    (client(worker, &address), stop, served)
}

#[tokio::test]
async fn an_agent_outlives_the_replica_at_which_it_registered() {
    let cluster = Cluster::start::<1>().await;
    let worker = caller(&cluster.authority, &worker_path("w1")).await;
    let registry = Entry::of_process(REGISTRY.path, std::process::id());
    cluster.authority.add_entry(registry).expect("an entry");
    let (mut first, stop, served) = serve(&cluster, &worker).await;
    let (mut second, ..) = serve(&cluster, &worker).await;
    let capabilities = vec!["BUILD".to_owned()];
    let request = RegisterRequest { capabilities, agent_type: 1, ..Default::default() };
    let agent_id = first.register(request).await.expect("it is allowed").into_inner().agent_id;
    let get = GetAgentRequest { agent_id: agent_id.clone() };
    within(async { while second.get_agent(get.clone()).await.is_err() {} }).await;
    stop.cancel();
    assert!(within(served).await.expect("no panic").is_ok());
    let heartbeat = HeartbeatRequest { agent_id, telemetry: None };
    second.heartbeat(heartbeat).await.expect("it is known here as well");
    let agent = second.get_agent(get).await.expect("it is known").into_inner().agent;
    assert_eq!(agent.expect("it is told").liveness(), Liveness::Alive);
}

#[tokio::test]
async fn an_etcd_that_lost_everything_is_another_history_and_agents_register_again() {
    let mut cluster = Cluster::start::<1>().await;
    let worker = caller(&cluster.authority, &worker_path("w1")).await;
    let registry = Entry::of_process(REGISTRY.path, std::process::id());
    cluster.authority.add_entry(registry).expect("an entry");
    let (mut client, ..) = serve(&cluster, &worker).await;
    let request = RegisterRequest {
        capabilities: vec!["BUILD".to_owned()],
        agent_type: 1,
        instance_key: "pod-1".to_owned(),
        ..Default::default()
    };
    let before = client.register(request.clone()).await.expect("it is allowed").into_inner();
    let resume = WatchAgentsRequest { resume_revision: before.revision, ..Default::default() };
    let watch = client.watch_agents(resume.clone()).await;
    let mut events = watch.expect("it may").into_inner();
    cluster.server.restart_empty(0).await.expect("it starts again");

    let ended = within(async {
        loop {
            match events.message().await {
                Ok(event) => assert!(event.is_some(), "a watch ends with a reason"),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(ended.code(), Code::OutOfRange, "{ended}");
    let heartbeat = HeartbeatRequest { agent_id: before.agent_id.clone(), telemetry: None };
    let code = async |client: &mut Client| match client.heartbeat(heartbeat.clone()).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    };
    within(async { while code(&mut client).await != Code::NotFound {} }).await;
    let after = within(async {
        loop {
            match client.register(request.clone()).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    })
    .await;
    assert_eq!(after.agent_id, before.agent_id);
    assert!(after.revision > before.revision, "nobody resumes in another history");
    assert_eq!(code(&mut client).await, Code::Ok);
    let watch = client.watch_agents(resume).await;
    let ended = match watch {
        Ok(answer) => {
            within(answer.into_inner().message()).await.expect_err("it is another history")
        }
        Err(status) => status,
    };
    assert_eq!(ended.code(), Code::OutOfRange, "{ended}");
}
