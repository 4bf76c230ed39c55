//! etcd, by its own protocol and nothing in between.

mod client;
mod files;
mod watch;

use std::path::Path;
use std::time::{Duration, Instant};

use hive_api::names::worker_path;
use hive_api::registry::{AgentInfo, AgentTelemetry};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::etcd::{Etcd, Files};
use hive_security::connect::{self, Channel};
use hive_security::{IdPattern, Workload};
use prost::Message;
use tokio::task::JoinSet;

use self::client::Client;
use crate::calls::{self, Times};
use crate::driver::{self, CONNECTIONS};
use crate::options::Options;
use crate::table::{Measured, Table};

const ETCD: &str = "/ns/neural-hive/sa/etcd";
/// As many as the registry's callers have.
const IN_FLIGHT: usize = calls::IN_FLIGHT * CONNECTIONS;
/// Agents below one prefix.
const GROUP: usize = 5;

/// One round.
pub(crate) async fn measure(options: &Options, table: &mut Table) {
    let directory = tempfile::tempdir().unwrap();
    let config = AuthorityConfig::new(directory.path().join("api.sock"));
    let authority = Authority::start(config).await.unwrap();
    let files = files(&authority, directory.path()).await;
    let program = hive_dev::tools::program("etcd")
        .expect("etcd is missing: `cargo xtask real` puts it into the target directory");
    let server = Etcd::start::<1>(&program, directory.path(), files).await.unwrap();
    authority.add_entry(Entry::of_process(worker_path("bench"), std::process::id())).unwrap();
    let workload = driver::attach(&authority).await;
    let endpoint = &server.endpoints()[0];
    let ways: Vec<Client> =
        (0..options.connections()).map(|_| Client::new(channel(&workload, endpoint))).collect();
    each(&ways, options, table).await;
    server.stop().await;
    authority.stop().await;
}

async fn each(ways: &[Client], options: &Options, table: &mut Table) {
    let mut server = Measured { whose: "etcd", pid: process(), table };
    for number in &options.watchers {
        let watched = watch::measure(&ways[CONNECTIONS - 1..], *number);
        server.measure(4, &format!("watch, {number:>6} watchers"), watched).await;
    }
    let (few, agents, lasts) = (&ways[..CONNECTIONS], options.agents, options.lasts);
    server.measure(0, "register", put(few, agents)).await;
    let leases = grant(few, agents).await;
    server.weigh();
    server.measure(1, "heartbeat", keep_alive(few, leases, lasts)).await;
    server.measure(2, "discover", range(few, agents, lasts, true)).await;
    server.measure(3, "discover, linearizable", range(few, agents, lasts, false)).await;
}

/// What etcd proves itself with. This process is etcd for the moment in which it is fetched.
async fn files(authority: &Authority, directory: &Path) -> Files {
    let entry = authority.add_entry(Entry::of_process(ETCD, std::process::id())).unwrap();
    let files = files::of(&driver::attach(authority).await, directory);
    assert!(authority.remove_entry(entry));
    files
}

fn channel(workload: &Workload, endpoint: &str) -> Channel {
    let server = IdPattern::in_trust_domain(&workload.trust_domain(), ETCD).unwrap();
    connect::channel_without_jwt(workload, endpoint, server).unwrap()
}

/// Writes each agent's record once.
async fn put(ways: &[Client], agents: usize) -> Times {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let mut client = ways[worker % ways.len()].clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            for number in (worker..agents).step_by(IN_FLIGHT) {
                let (key, value) = (key(number), record(number));
                let each = Instant::now();
                client.put(key, value).await;
                took.push(each.elapsed().as_micros() as u32);
            }
            took
        });
    }
    Times::new(tasks.join_all().await.concat(), began.elapsed())
}

async fn grant(ways: &[Client], leases: usize) -> Vec<i64> {
    let mut tasks = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let mut client = ways[worker % ways.len()].clone();
        tasks.spawn(async move {
            let mut ids = Vec::new();
            for _ in (worker..leases).step_by(IN_FLIGHT) {
                ids.push(client.grant().await);
            }
            ids
        });
    }
    tasks.join_all().await.concat()
}

/// Each of the calls in flight has a stream, and a share of the leases.
async fn keep_alive(ways: &[Client], leases: Vec<i64>, lasts: Duration) -> Times {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let mut client = ways[worker % ways.len()].clone();
        let own: Vec<i64> = leases.iter().skip(worker).step_by(IN_FLIGHT).copied().collect();
        tasks.spawn(async move {
            let (mut took, mut stream) = (Vec::new(), client.keeping_alive(own[0]).await);
            for lease in own.into_iter().cycle() {
                let each = Instant::now();
                if each - began >= lasts {
                    break;
                }
                stream.keep_alive(lease).await;
                took.push(each.elapsed().as_micros() as u32);
            }
            took
        });
    }
    Times::new(tasks.join_all().await.concat(), began.elapsed())
}

async fn range(ways: &[Client], agents: usize, lasts: Duration, serializable: bool) -> Times {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let mut client = ways[worker % ways.len()].clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            for turn in (worker..).step_by(IN_FLIGHT) {
                let prefix = prefix(turn % (agents / GROUP));
                let each = Instant::now();
                if each - began >= lasts {
                    break;
                }
                assert_eq!(client.range(prefix, serializable).await, GROUP);
                took.push(each.elapsed().as_micros() as u32);
            }
            took
        });
    }
    Times::new(tasks.join_all().await.concat(), began.elapsed())
}

fn prefix(group: usize) -> String {
    format!("agents/{group:06}/")
}

fn key(number: usize) -> String {
    format!("{}{}", prefix(number / GROUP), number % GROUP)
}

/// What the registry would tell of such an agent.
fn record(number: usize) -> Vec<u8> {
    let capability = |number: usize| format!("capability-{}", number % 100);
    let told = AgentInfo {
        agent_id: format!("{number:032x}"),
        agent_type: 1,
        capabilities: (0..4).map(|offset| capability(number + offset)).collect(),
        metadata: [("zone".to_owned(), format!("zone-{}", number % 7))].into(),
        telemetry: Some(AgentTelemetry::default()),
        status: 1,
        registered_at: 1_800_000_000,
        last_seen: 1_800_000_000,
        namespace: "default".to_owned(),
        cluster: "local".to_owned(),
        version: "1.0.0".to_owned(),
        schema_version: 1,
        spiffe_id: format!("spiffe://dev.hive.internal{}", worker_path("bench")),
        liveness: 1,
        instance_key: format!("agent-{number}"),
        ..AgentInfo::default()
    };
    told.encode_to_vec()
}

/// etcd's process: the one child of this process that is called so.
fn process() -> u32 {
    let parent = format!("PPid:\t{}\n", std::process::id());
    let is_etcd = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\tetcd\n") && status.contains(&parent)
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let mut pids = names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_etcd);
    pids.next().expect("etcd runs")
}
