//! Starts the server, calls it, and says what came of it.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hive_api::names::{REGISTRY, worker_path};
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_security::{Audience, IdPattern, Workload, WorkloadConfig, connect};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::calls::{self, Way};
use crate::watchers;

pub(crate) const CONNECTIONS: usize = 4;
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Options {
    agents: usize,
    connections: usize,
    lasts: Duration,
    watchers: Vec<usize>,
    only: Vec<String>,
}

pub(crate) struct Server {
    child: Child,
    secured: String,
    pub(crate) plain: String,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Self {
        let mut options = Self {
            agents: 99_000,
            connections: CONNECTIONS,
            lasts: Duration::from_secs(5),
            watchers: vec![100, 1_000, 10_000],
            only: vec!["secured".to_owned(), "plain".to_owned()],
        };
        // Cargo says `--bench` as well.
        let mut words = words.iter().filter(|word| **word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            let list = || value.split(',').map(str::to_owned);
            match *word {
                "--agents" => options.agents = value.parse().unwrap(),
                "--connections" => options.connections = value.parse().unwrap(),
                "--seconds" => options.lasts = Duration::from_secs(value.parse().unwrap()),
                "--watchers" => {
                    options.watchers = list().map(|number| number.parse().unwrap()).collect();
                }
                "--only" => options.only = list().collect(),
                _ => panic!("{word} is no option; see the top of benches/registry/main.rs"),
            }
        }
        options
    }
}

pub(crate) async fn run(options: &Options) {
    for kind in &options.only {
        let directory = tempfile::tempdir().unwrap();
        let config = AuthorityConfig::new(directory.path().join("api.sock"));
        let authority = Authority::start(config).await.unwrap();
        let me = Entry::of_process(worker_path("bench"), std::process::id());
        authority.add_entry(me).unwrap();
        let workload = attach(&authority).await;
        let server = Server::start(&authority, directory.path()).await;
        let connections =
            options.connections + options.watchers.iter().max().unwrap_or(&0) / watchers::STREAMS;
        let secured: Vec<_> = (0..connections).map(|_| secured(&workload, &server)).collect();
        // The first call tells the other server who we are.
        calls::register(&secured, 1).await;
        match kind.as_str() {
            "secured" => measure(kind, &secured, &server, options).await,
            "plain" => {
                let ways: Vec<_> = (0..connections)
                    .map(|_| Endpoint::from_shared(server.plain.clone()).unwrap().connect_lazy())
                    .collect();
                measure(kind, &ways, &server, options).await;
            }
            _ => panic!("{kind:?} is neither secured nor plain"),
        }
        server.stop().await;
        authority.stop().await;
    }
}

async fn measure<W: Way>(kind: &str, ways: &[W], server: &Server, options: &Options) {
    let (few, watched) = (&ways[..options.connections], &ways[options.connections - 1..]);
    watchers::unwatched(&ways[0]).await.print(&format!("{kind}, a change that nobody watches"), 1);
    for number in &options.watchers {
        watch(kind, watched, *number).await;
    }
    let before = server.resident_mib();
    let spent = Spent::begin(server);
    let (times, ids) = calls::register(few, options.agents).await;
    times.print(&format!("{kind}, register"), 1);
    spent.print(times.count());
    let after = server.resident_mib();
    println!(
        "{kind}, {} agents: {before:.0} MiB resident before, {after:.0} MiB with them",
        ids.len()
    );
    let lasts = options.lasts;
    let spent = Spent::begin(server);
    let one_by_one = calls::heartbeat(few, &ids, lasts).await;
    one_by_one.print(&format!("{kind}, heartbeat"), 1);
    spent.print(one_by_one.count());
    let spent = Spent::begin(server);
    let many = calls::heartbeat_many(few, &ids, lasts).await;
    many.print(&format!("{kind}, heartbeats, {} in a call", calls::MANY), calls::MANY);
    spent.print(many.count());
    let spent = Spent::begin(server);
    let discovered = calls::discover(few, lasts).await;
    discovered.print(&format!("{kind}, discover"), 1);
    spent.print(discovered.count());
    let spent = Spent::begin(server);
    let many = calls::discover_many(few, lasts).await;
    many.print(&format!("{kind}, discover, {} in a call", calls::QUESTIONS), calls::QUESTIONS);
    spent.print(many.count());
    for number in &options.watchers {
        watch(&format!("{kind}, with all agents"), watched, *number).await;
    }
    println!("{kind}, at the end: {:.0} MiB resident", server.resident_mib());
}

async fn watch<W: Way>(kind: &str, ways: &[W], number: usize) {
    let times = watchers::measure(ways, number).await;
    let (p50, p99) = (times.at(0.5), times.at(0.99));
    println!(
        "{kind}, {number:>6} watchers: an event is there after p50 {p50:.2} ms, p99 {p99:.2} ms"
    );
}

/// What both sides have used of the processors so far.
struct Spent {
    server: u32,
    callers: f64,
    servers: f64,
}

impl Spent {
    fn begin(server: &Server) -> Self {
        let server = server.id();
        Self { server, callers: processor_s("self"), servers: processor_s(&server.to_string()) }
    }

    /// What each of these calls cost.
    fn print(&self, calls: usize) {
        let each = |seconds: f64| seconds / calls as f64 * 1e6;
        let servers = each(processor_s(&self.server.to_string()) - self.servers);
        let callers = each(processor_s("self") - self.callers);
        println!(
            "    of a processor, for each call: the server {servers:.1} µs, its callers {callers:.1} µs"
        );
    }
}

/// The processor time of all threads of a process, in seconds (proc_pid_stat(5), fields 14 and 15).
pub(crate) fn processor_s(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

pub(crate) async fn attach(authority: &Authority) -> Workload {
    let config = WorkloadConfig::new(authority.endpoint(), ATTACH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await.unwrap();
    tokio::spawn(upkeep.run(CancellationToken::new()));
    workload
}

pub(crate) fn secured(workload: &Workload, server: &Server) -> connect::Channel {
    let trust_domain = workload.trust_domain();
    let registry = IdPattern::in_trust_domain(&trust_domain, REGISTRY.path).unwrap();
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).unwrap();
    connect::channel(workload, &server.secured, registry, audience).unwrap()
}

impl Server {
    pub(crate) async fn start(authority: &Authority, directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", &authority.endpoint(), directory.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(directory.join("registry.log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        authority.add_entry(Entry::of_process(REGISTRY.path, child.id().unwrap())).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"serve\n").await.unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("the server serves");
        let (secured, plain) = line.split_once(' ').unwrap();
        Self { child, secured: format!("https://{secured}"), plain: format!("http://{plain}") }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().await.unwrap();
    }
}
