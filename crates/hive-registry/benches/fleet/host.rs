//! A host: one identity, and many agents with a connection each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_api::names::REGISTRY;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_security::connect::{self, Channel};
use hive_security::serve::ConnectionAge;
use hive_security::{Audience, IdPattern, Workload, WorkloadConfig};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Agent, Tally};

const ATTACH_DEADLINE: Duration = Duration::from_secs(30);
/// Agents of one host that register at the same time: handshakes have deadlines, and hosts are many.
const DOORS: usize = 4;
const POLL: Duration = Duration::from_millis(50);

/// Which agents, and how old a connection becomes.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) first: usize,
    pub(crate) agents: usize,
    pub(crate) age: Duration,
}

impl Load {
    pub(crate) fn read(words: &[&str]) -> Self {
        let [first, agents, age] = words else { panic!("a load is three numbers") };
        let age = Duration::from_secs(age.parse().unwrap());
        Self { first: first.parse().unwrap(), agents: agents.parse().unwrap(), age }
    }

    pub(crate) fn words(&self) -> [String; 3] {
        [self.first.to_string(), self.agents.to_string(), self.age.as_secs().to_string()]
    }

    /// Each agent has another, so that connections do not grow old together.
    fn age_of(&self, number: usize) -> ConnectionAge {
        let share = (number - self.first) as f64 / self.agents as f64;
        ConnectionAge { max: self.age.mul_f64(0.5 + share / 2.0) }
    }
}

/// What a host answers.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) beats: u64,
    pub(crate) beats_failed: u64,
    pub(crate) registrations_failed: u64,
    pub(crate) lost: u64,
    pub(crate) registered: u64,
    pub(crate) x509_svids: u64,
    pub(crate) jwt_svids: u64,
    pub(crate) back: u64,
}

impl Told {
    pub(crate) fn read(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [
            beats,
            beats_failed,
            registrations_failed,
            lost,
            registered,
            x509_svids,
            jwt_svids,
            back,
        ] = numbers[..]
        else {
            panic!("{line:?} is no answer")
        };
        Self {
            beats,
            beats_failed,
            registrations_failed,
            lost,
            registered,
            x509_svids,
            jwt_svids,
            back,
        }
    }
}

/// Takes orders until its input ends: where the registry is, then `tell`, `times` or `storm` at any time.
pub(crate) async fn run(endpoint: &str, load: Load) {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let address = orders.next_line().await.unwrap().unwrap();
    let config = WorkloadConfig::new(endpoint, ATTACH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await.unwrap();
    tokio::spawn(upkeep.run(CancellationToken::new()));
    let replaced = count_x509_svids(&workload);
    let tally = Arc::new(Tally::default());
    let (storm, storms) = watch::channel(0);
    people(&workload, &address, load, &tally, &storms);
    if load.first == 0 {
        agent::fall_silent(client(&workload, &address, ConnectionAge::default())).await;
    }
    while tally.open.load(Ordering::Relaxed) < load.agents as u64 {
        tokio::time::sleep(POLL).await;
    }
    println!("open");
    while let Some(order) = orders.next_line().await.unwrap() {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        match order.as_str() {
            "tell" => println!(
                "{} {} {} {} {} {} {} {}",
                read(&tally.beats),
                read(&tally.beats_failed),
                read(&tally.registrations_failed),
                read(&tally.lost),
                read(&tally.registered),
                read(&replaced),
                workload.jwt_svid_fetches().succeeded,
                read(&tally.back),
            ),
            "storm" => storm.send_modify(|number| *number += 1),
            "times" => {
                let took = std::mem::take(&mut *tally.took.lock().unwrap());
                let took: Vec<String> = took.iter().map(ToString::to_string).collect();
                println!("{}", took.join(" "));
            }
            _ => panic!("{order:?} is no order"),
        }
    }
}

fn people(
    workload: &Workload,
    address: &str,
    load: Load,
    tally: &Arc<Tally>,
    storms: &watch::Receiver<u64>,
) {
    let doors = Arc::new(Semaphore::new(DOORS));
    for number in load.first..load.first + load.agents {
        let (workload, address) = (workload.clone(), address.to_owned());
        let dial = move || client(&workload, &address, load.age_of(number));
        let (client, storms, tally) = (dial(), storms.clone(), Arc::clone(tally));
        let agent = Agent { dial, client, storms, number, tally };
        tokio::spawn(agent.live(Arc::clone(&doors)));
    }
}

/// A way to the registry that shares no connection.
pub(crate) fn client(
    workload: &Workload,
    address: &str,
    age: ConnectionAge,
) -> ServiceRegistryClient<Channel> {
    let trust_domain = workload.trust_domain();
    let registry = IdPattern::in_trust_domain(&trust_domain, REGISTRY.path).unwrap();
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).unwrap();
    let channel = connect::channel(workload, address, registry, audience).unwrap();
    ServiceRegistryClient::new(channel.max_connection_age(age).unwrap())
}

fn count_x509_svids(workload: &Workload) -> Arc<AtomicU64> {
    let (replaced, mut x509) = (Arc::new(AtomicU64::new(0)), workload.x509());
    let counter = Arc::clone(&replaced);
    tokio::spawn(async move {
        while x509.changed().await.is_some() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    replaced
}
