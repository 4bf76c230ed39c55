//! Starts the pairs, tells them by turns to run, and counts what they use.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{AUDIENCE, Kind, report};

const SERVER: &str = "/ns/bench/sa/server";
const CLIENT: &str = "/ns/bench/sa/client";
const WARM_UP: Duration = Duration::from_secs(1);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Options {
    rounds: usize,
    seconds: u64,
    connections: usize,
    in_flight: usize,
    only: Vec<Kind>,
}

/// One run of one pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) calls: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) server_cpu_s: f64,
    pub(crate) client_cpu_s: f64,
}

struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

struct Pair {
    server: Process,
    client: Process,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Self {
        let mut options =
            Self { rounds: 5, seconds: 5, connections: 4, in_flight: 64, only: Kind::ALL.to_vec() };
        // Cargo says `--bench` as well.
        let mut words = words.iter().filter(|word| **word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match *word {
                "--rounds" => options.rounds = value.parse().unwrap(),
                "--seconds" => options.seconds = value.parse().unwrap(),
                "--connections" => options.connections = value.parse().unwrap(),
                "--in-flight" => options.in_flight = value.parse().unwrap(),
                "--only" => options.only = value.split(',').map(Kind::parse).collect(),
                _ => panic!("{word} is no option; see the top of benches/layered/main.rs"),
            }
        }
        options
    }
}

pub(crate) async fn run(options: &Options) {
    let directory = tempfile::tempdir().unwrap();
    let config = AuthorityConfig::new(directory.path().join("api.sock"));
    let authority = Authority::start(config).await.unwrap();
    let mut pairs = Vec::new();
    for kind in &options.only {
        pairs.push(Pair::start(*kind, &authority, options).await);
    }
    println!(
        "{} rounds of {} s each, {} calls in flight on {} connections",
        options.rounds, options.seconds, options.in_flight, options.connections
    );
    for pair in &mut pairs {
        pair.run(WARM_UP).await;
    }
    let mut runs = vec![Vec::new(); pairs.len()];
    for _ in 0..options.rounds {
        for (pair, runs) in pairs.iter_mut().zip(&mut runs) {
            runs.push(pair.run(Duration::from_secs(options.seconds)).await);
        }
    }
    report::print(&options.only, &runs);
    authority.stop().await;
}

impl Pair {
    async fn start(kind: Kind, authority: &Authority, options: &Options) -> Self {
        let (program, endpoint) = (program(kind), authority.endpoint());
        let id = |path| authority.spiffe_id(path).unwrap();
        let (server_id, client_id) = (id(SERVER), id(CLIENT));
        let serve = ["serve", kind.name(), &endpoint, &client_id];
        let mut server = Process::start(&program, &serve, authority, SERVER);
        let address = server.ask("attach").await;
        let (connections, in_flight) =
            (options.connections.to_string(), options.in_flight.to_string());
        let call = ["call", kind.name(), &endpoint, &server_id, &connections, &in_flight];
        let mut client = Process::start(&program, &call, authority, CLIENT);
        assert_eq!(client.ask(&format!("attach {address}")).await, "ready");
        Self { server, client }
    }

    async fn run(&mut self, lasts: Duration) -> Run {
        let before = (self.server.cpu_s(), self.client.cpu_s());
        let said = self.client.ask(&format!("run {}", lasts.as_millis())).await;
        let after = (self.server.cpu_s(), self.client.cpu_s());
        let numbers: Vec<f64> = said.split(' ').map(|number| number.parse().unwrap()).collect();
        let [calls, took_us, p50_us, p99_us] = numbers[..] else { panic!("it said {said:?}") };
        Run {
            calls,
            seconds: took_us / 1e6,
            p50_us,
            p99_us,
            server_cpu_s: after.0 - before.0,
            client_cpu_s: after.1 - before.1,
        }
    }
}

impl Process {
    fn start(program: &Path, arguments: &[&str], authority: &Authority, path: &str) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env("HIVE_BENCH_AUDIENCE", AUDIENCE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        authority.add_entry(Entry::of_process(path, child.id().unwrap())).unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, orders, answers }
    }

    async fn ask(&mut self, order: &str) -> String {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.answers.next_line()).await;
        answer.unwrap().unwrap().expect("the process has ended")
    }

    /// User and system time of all its threads (proc(5), `stat`), in seconds.
    fn cpu_s(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.child.id().unwrap());
        let stat = std::fs::read_to_string(path).unwrap();
        // What stands in brackets is a name, and may hold anything.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }
}

fn program(kind: Kind) -> PathBuf {
    if kind != Kind::Go {
        return std::env::current_exe().unwrap();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let rival = target.join("tools/bin/rival-go");
    assert!(rival.exists(), "{} is missing: run `cargo xtask bench layered`", rival.display());
    rival
}
