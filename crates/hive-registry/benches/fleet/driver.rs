//! Starts everybody, lets them live, and says what came of it.

use std::fs::File;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use hive_api::names::{OPERATOR, REGISTRY, worker_path};
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_dev::authority::{Authority, AuthorityConfig, Entry, KeyKind};
use hive_runtime::ready;
use hive_security::connect::Channel;
use hive_security::serve::ConnectionAge;
use hive_security::{Workload, WorkloadConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::host::{self, Load, Told};
use crate::options::Options;
use crate::outcome::{Outcome, Row};
use crate::process::Process;
use crate::rotation::{self, JWT_TTL, X509_TTL};
use crate::storm::{self, Storm};
use crate::traffic::{self, Answers};
use crate::vitals::{self, Sample};
use crate::watcher::{self, Seen};

const ATTACH_DEADLINE: Duration = Duration::from_secs(30);
const BETWEEN_SAMPLES: Duration = Duration::from_secs(10);
const WATCHES: usize = 20;

/// Everybody.
struct World {
    authority: Arc<Authority>,
    workload: Workload,
    registry: Process,
    address: String,
    /// Where its metrics are.
    metrics: String,
    hosts: Vec<Process>,
    seen: Arc<Seen>,
    answers: Arc<Answers>,
    x509_rotations: Arc<AtomicU64>,
    jwt_rotations: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

/// What was measured on the way.
struct Course {
    empty: Sample,
    opened: Sample,
    samples: Vec<Sample>,
}

pub(crate) async fn run(options: &Options) -> ExitCode {
    let directory = tempfile::tempdir().unwrap();
    let connections = vitals::connections_opened();
    let began = Instant::now();
    let mut world = World::start(directory.path(), options.storms > 0).await;
    let empty = Sample::of(world.registry.id());
    world.open(options).await;
    world.accompany();
    let opened = Sample::of(world.registry.id());
    println!(
        "{} agents of {} hosts are registered, on as many connections, after {:.0} s: {:.0} MiB resident, {:.0} before",
        options.agents,
        options.hosts,
        began.elapsed().as_secs_f64(),
        opened.resident_mib(),
        empty.resident_mib(),
    );
    for number in 1..=options.storms {
        println!("storm {number}: {}", world.weather(options).await);
    }
    let samples = world.live(options.lasts, opened).await;
    let connections = vitals::connections_opened() - connections;
    let course = Course { empty, opened, samples };
    let outcome = world.outcome(options, &course, connections, directory.path()).await;
    world.stop().await;
    print!("{outcome}");
    if outcome.is_good() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: what the registry kept is in {}", directory.keep().display());
    ExitCode::FAILURE
}

impl World {
    /// The trust domain, the registry, and whoever watches it.
    async fn start(directory: &Path, is_starved: bool) -> Self {
        let mut config = AuthorityConfig::new(directory.join("api.sock"));
        (config.x509_ttl, config.jwt_ttl) = (X509_TTL, JWT_TTL);
        let authority = Arc::new(Authority::start(config).await.unwrap());
        let me = Entry::of_process(OPERATOR.path, std::process::id());
        authority.add_entry(me).unwrap();
        let workload = attach(&authority).await;
        let log = File::create(directory.join("registry.log")).unwrap();
        let arguments = ["registry", &authority.endpoint(), directory.to_str().unwrap()];
        let start = if is_starved { Process::start_nicely } else { Process::start };
        let mut registry = start(&arguments, log);
        authority.add_entry(Entry::of_process(REGISTRY.path, registry.id())).unwrap();
        let facts = ready::parse(&registry.ask("serve").await).expect("it is ready");
        let mut world = Self {
            authority,
            workload,
            registry,
            address: format!("https://{}", facts["address"]),
            metrics: facts["metrics"].clone(),
            hosts: Vec::new(),
            seen: Arc::default(),
            answers: Arc::default(),
            x509_rotations: Arc::default(),
            jwt_rotations: Arc::default(),
            tasks: JoinSet::new(),
        };
        world.watch();
        world
    }

    fn client(&self) -> ServiceRegistryClient<Channel> {
        // A stream ends with the certificate of its connection, so no connection may be older than what is left of one.
        host::client(&self.workload, &self.address, ConnectionAge { max: X509_TTL / 2 })
    }

    fn watch(&mut self) {
        self.tasks.spawn(watcher::watch(self.client(), Arc::clone(&self.seen)));
        let others = self.client();
        for _ in 1..WATCHES {
            // What these see, the first one sees as well.
            self.tasks.spawn(watcher::follow_along(others.clone()));
        }
    }

    /// Questions, and new keys.
    fn accompany(&mut self) {
        self.tasks.spawn(traffic::discover(self.client(), Arc::clone(&self.answers)));
        for (kind, rotations) in
            [(KeyKind::X509, &self.x509_rotations), (KeyKind::Jwt, &self.jwt_rotations)]
        {
            let (authority, rotations) = (Arc::clone(&self.authority), Arc::clone(rotations));
            self.tasks.spawn(rotation::rotate(authority, kind, rotations));
        }
    }

    /// Starts the hosts, and waits until every agent is registered.
    async fn open(&mut self, options: &Options) {
        let share = options.agents.div_ceil(options.hosts);
        for first in (0..options.agents).step_by(share) {
            let agents = share.min(options.agents - first);
            let [first, agents, age] = Load { first, agents, age: options.age }.words();
            let arguments = ["host", &self.authority.endpoint(), &first, &agents, &age];
            // They stand for other machines, and take nothing from the registry but where it is to starve.
            let start = if options.storms > 0 { Process::start } else { Process::start_nicely };
            let host = start(&arguments, Stdio::inherit());
            let path = worker_path(&format!("host-{}", self.hosts.len()));
            self.authority.add_entry(Entry::of_process(path, host.id())).unwrap();
            self.hosts.push(host);
        }
        for host in &mut self.hosts {
            host.order(&self.address).await;
        }
        for host in &mut self.hosts {
            assert_eq!(host.answer().await, "open");
        }
    }

    /// Looks at the registry now and then, and says what it sees.
    async fn live(&mut self, lasts: Duration, opened: Sample) -> Vec<Sample> {
        let mut samples = vec![opened];
        let mut before = self.tell().await;
        while opened.at.elapsed() < lasts {
            tokio::time::sleep(BETWEEN_SAMPLES).await;
            let (last, sample) = (samples[samples.len() - 1], Sample::of(self.registry.id()));
            let told = self.tell().await;
            let beats = told.beats - before.beats;
            let row = Row {
                since: opened.at.elapsed(),
                beats_per_second: beats as f64 / (sample.at - last.at).as_secs_f64(),
                failed: told.beats_failed,
                cores: sample.cores_since(&last),
                sample,
            };
            println!("{}", row.with(&self.seen));
            samples.push(sample);
            before = told;
        }
        samples
    }

    /// Cuts all connections at once, and watches everybody come back.
    async fn weather(&mut self, options: &Options) -> Storm {
        let hogs: Vec<Process> =
            (0..options.hogs).map(|_| Process::start(&["hog"], Stdio::inherit())).collect();
        let (before, calm) = (self.tell().await, self.look().await);
        for host in &mut self.hosts {
            host.order("storm").await;
        }
        let mut storm = Storm::of(options.agents as u64);
        while storm.is_on() {
            tokio::time::sleep(storm::BETWEEN_LOOKS).await;
            let told = self.tell().await;
            storm.note(told.back - before.back, told.beats_failed - before.beats_failed);
        }
        storm.end(&calm, &self.look().await);
        for hog in hogs {
            hog.stop().await;
        }
        tokio::time::sleep(storm::CALM).await;
        storm
    }

    async fn look(&self) -> storm::Look {
        storm::Look {
            sample: Sample::of(self.registry.id()),
            connections: vitals::connections_opened(),
            dead: watcher::dead(&self.seen),
            metrics: page(&self.metrics).await,
        }
    }

    /// All hosts together; of their documents, what the host with the fewest has.
    async fn tell(&mut self) -> Told {
        let mut all = Told { x509_svids: u64::MAX, jwt_svids: u64::MAX, ..Told::default() };
        for host in &mut self.hosts {
            let told = Told::read(&host.ask("tell").await);
            all.beats += told.beats;
            all.beats_failed += told.beats_failed;
            all.registrations_failed += told.registrations_failed;
            all.lost += told.lost;
            all.registered += told.registered;
            all.back += told.back;
            all.x509_svids = all.x509_svids.min(told.x509_svids);
            all.jwt_svids = all.jwt_svids.min(told.jwt_svids);
        }
        all
    }

    async fn outcome(
        &mut self,
        options: &Options,
        course: &Course,
        connections: u64,
        directory: &Path,
    ) -> Outcome {
        let warm: Vec<Sample> = course
            .samples
            .iter()
            .filter(|sample| sample.at - course.opened.at >= options.warm)
            .copied()
            .collect();
        Outcome {
            told: self.tell().await,
            took: self.times().await,
            seen: Arc::clone(&self.seen),
            answers: Arc::clone(&self.answers),
            keys: [Arc::clone(&self.x509_rotations), Arc::clone(&self.jwt_rotations)],
            metrics: page(&self.metrics).await,
            log: std::fs::read_to_string(directory.join("registry.log")).unwrap(),
            connections,
            empty: course.empty,
            opened: course.opened,
            last: course.samples[course.samples.len() - 1],
            warm,
        }
    }

    /// How long each heartbeat took, in microseconds and in order.
    async fn times(&mut self) -> Vec<u32> {
        let mut took: Vec<u32> = Vec::new();
        for host in &mut self.hosts {
            let line = host.ask("times").await;
            took.extend(line.split_whitespace().map(|micros| micros.parse::<u32>().unwrap()));
        }
        took.sort_unstable();
        took
    }

    async fn stop(mut self) {
        self.tasks.shutdown().await;
        for host in self.hosts {
            host.stop().await;
        }
        self.registry.stop().await;
        if let Some(authority) = Arc::into_inner(self.authority) {
            authority.stop().await;
        }
    }
}

async fn attach(authority: &Authority) -> Workload {
    let config = WorkloadConfig::new(authority.endpoint(), ATTACH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await.unwrap();
    tokio::spawn(upkeep.run(CancellationToken::new()));
    workload
}

/// The registry's metrics.
async fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}
