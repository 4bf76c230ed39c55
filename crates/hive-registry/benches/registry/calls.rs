//! Calls of one kind, as many as there can be, for a while.

use std::time::{Duration, Instant};

use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{
    AgentType, DiscoverAgentsRequest, DiscoverManyRequest, HeartbeatManyRequest, HeartbeatRequest,
    RegisterRequest,
};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};

/// Calls in flight on each connection.
pub(crate) const IN_FLIGHT: usize = 16;
const CAPABILITIES: usize = 100;
/// Heartbeats in one call of `HeartbeatMany`.
pub(crate) const MANY: usize = 100;
/// Questions in one call of `DiscoverMany`.
pub(crate) const QUESTIONS: usize = 50;

/// A way to the registry.
pub(crate) trait Way:
    GrpcService<
        Body,
        Error: Into<StdError> + std::fmt::Debug,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Way for T where
    T: GrpcService<
            Body,
            Error: Into<StdError> + std::fmt::Debug,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// How many there were, and how long each took, in microseconds and in order.
pub(crate) struct Times {
    took: Vec<u32>,
    lasted: Duration,
}

impl Times {
    pub(crate) fn new(mut took: Vec<u32>, lasted: Duration) -> Self {
        took.sort_unstable();
        Self { took, lasted }
    }

    pub(crate) fn count(&self) -> usize {
        self.took.len()
    }

    pub(crate) fn print(&self, what: &str, of_each: usize) {
        let rate = self.rate(of_each);
        let (p50, p99) = (self.at(0.5), self.at(0.99));
        println!("{what:<40} {rate:>9.0}/s   p50 {p50:>8.2} ms   p99 {p99:>8.2} ms");
    }

    /// Calls, or what each contained, in a second.
    pub(crate) fn rate(&self, of_each: usize) -> f64 {
        (self.took.len() * of_each) as f64 / self.lasted.as_secs_f64()
    }

    pub(crate) fn at(&self, share: f64) -> f64 {
        let place = (self.took.len() as f64 * share) as usize;
        self.took.get(place).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }
}

/// Registers agents until there are so many, and says who they are.
pub(crate) async fn register<W: Way>(ways: &[W], agents: usize) -> (Times, Vec<String>) {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let in_flight = IN_FLIGHT * ways.len();
    for worker in 0..in_flight {
        let mut client = ServiceRegistryClient::new(ways[worker % ways.len()].clone());
        tasks.spawn(async move {
            let (mut took, mut ids) = (Vec::new(), Vec::new());
            for number in (worker..agents).step_by(in_flight) {
                let began = Instant::now();
                let registered = client.register(agent(number)).await.unwrap().into_inner();
                took.push(began.elapsed().as_micros() as u32);
                ids.push(registered.agent_id);
            }
            (took, ids)
        });
    }
    let (took, ids): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().unzip();
    (Times::new(took.concat(), began.elapsed()), ids.concat())
}

pub(crate) async fn heartbeat<W: Way>(ways: &[W], ids: &[String], lasts: Duration) -> Times {
    let ids: std::sync::Arc<[String]> = ids.into();
    repeat(ways, lasts, move |mut client, turn| {
        let agent_id = ids[turn % ids.len()].clone();
        async move {
            client.heartbeat(HeartbeatRequest { agent_id, telemetry: None }).await.unwrap();
        }
    })
    .await
}

pub(crate) async fn heartbeat_many<W: Way>(ways: &[W], ids: &[String], lasts: Duration) -> Times {
    let ids: std::sync::Arc<[String]> = ids.into();
    repeat(ways, lasts, move |mut client, turn| {
        let ids = (0..MANY).map(|at| ids[(turn * MANY + at) % ids.len()].clone());
        let each = ids.map(|agent_id| HeartbeatRequest { agent_id, telemetry: None });
        let heartbeats = each.collect();
        async move {
            let answer = client.heartbeat_many(HeartbeatManyRequest { heartbeats }).await.unwrap();
            assert!(answer.get_ref().results.iter().all(|result| result.code == 0));
        }
    })
    .await
}

pub(crate) async fn discover<W: Way>(ways: &[W], lasts: Duration) -> Times {
    repeat(ways, lasts, |mut client, turn| async move {
        let found = client.discover_agents(wanted(turn)).await.unwrap();
        assert!(!found.get_ref().agents.is_empty());
    })
    .await
}

pub(crate) async fn discover_many<W: Way>(ways: &[W], lasts: Duration) -> Times {
    repeat(ways, lasts, |mut client, turn| async move {
        let questions = (0..QUESTIONS).map(|at| wanted(turn * QUESTIONS + at)).collect();
        let answer = client.discover_many(DiscoverManyRequest { questions }).await.unwrap();
        let found = answer.into_inner().results.into_iter().map(|result| result.found.unwrap());
        assert!(found.filter(|found| !found.agents.is_empty()).count() == QUESTIONS);
    })
    .await
}

async fn repeat<W: Way, F: Future<Output = ()> + Send>(
    ways: &[W],
    lasts: Duration,
    call: impl Fn(ServiceRegistryClient<W>, usize) -> F + Clone + Send + Sync + 'static,
) -> Times {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let in_flight = IN_FLIGHT * ways.len();
    for worker in 0..in_flight {
        let client = ServiceRegistryClient::new(ways[worker % ways.len()].clone());
        let call = call.clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            for turn in (worker..).step_by(in_flight) {
                let each = Instant::now();
                if each - began >= lasts {
                    break;
                }
                call(client.clone(), turn).await;
                took.push(each.elapsed().as_micros() as u32);
            }
            took
        });
    }
    Times::new(tasks.join_all().await.concat(), began.elapsed())
}

fn agent(number: usize) -> RegisterRequest {
    RegisterRequest {
        agent_type: AgentType::Worker.into(),
        capabilities: (0..4).map(|offset| capability(number + offset)).collect(),
        metadata: [("zone".to_owned(), format!("zone-{}", number % 7))].into(),
        version: "1.0.0".to_owned(),
        instance_key: format!("agent-{number}"),
        ..Default::default()
    }
}

fn wanted(turn: usize) -> DiscoverAgentsRequest {
    let capabilities = vec![capability(turn), capability(turn + 1)];
    DiscoverAgentsRequest { capabilities, max_results: 5, ..Default::default() }
}

fn capability(number: usize) -> String {
    format!("capability-{}", number % CAPABILITIES)
}
