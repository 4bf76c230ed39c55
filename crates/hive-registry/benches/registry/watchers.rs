//! How late a change reaches many watchers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{AgentFilter, AgentType, EventType, RegisterRequest, WatchAgentsRequest};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::calls::{Times, Way};

pub(crate) const CHANGES: usize = 40;
pub(crate) const BETWEEN: Duration = Duration::from_millis(100);
const NAMESPACE: &str = "watched";
/// Streams on one connection; the registry allows 1,024.
pub(crate) const STREAMS: usize = 1_000;

/// When each change was made, in microseconds since the beginning. A thousand watchers look at once, so they take no lock.
struct Sent {
    began: Instant,
    at: [AtomicU32; CHANGES],
}

impl Sent {
    fn new() -> Self {
        Self { began: Instant::now(), at: [const { AtomicU32::new(0) }; CHANGES] }
    }

    fn note(&self, change: usize) {
        self.at[change].store(self.began.elapsed().as_micros() as u32, Ordering::Release);
    }

    fn micros_since(&self, change: usize) -> u32 {
        self.began.elapsed().as_micros() as u32 - self.at[change].load(Ordering::Acquire)
    }
}

/// Opens so many watches, changes an agent now and then, and says how long each event took to each watcher.
pub(crate) async fn measure<W: Way>(ways: &[W], watchers: usize) -> Times {
    let sent = Arc::new(Sent::new());
    let synced = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for watcher in 0..watchers {
        let client = ServiceRegistryClient::new(ways[watcher / STREAMS].clone());
        tasks.spawn(watch(client, Arc::clone(&sent), Arc::clone(&synced)));
    }
    let all = u32::try_from(watchers).unwrap();
    let opened = tokio::time::timeout(Duration::from_secs(120), synced.acquire_many(all)).await;
    opened.expect("every watch opens").unwrap().forget();
    let mut client = ServiceRegistryClient::new(ways[0].clone());
    let began = Instant::now();
    for change in 0..CHANGES {
        sent.note(change);
        client.register(changed(change)).await.unwrap();
        tokio::time::sleep(BETWEEN).await;
    }
    let lasted = began.elapsed();
    Times::new(tasks.join_all().await.concat(), lasted)
}

/// How long such a change takes to be answered while nobody watches.
pub(crate) async fn unwatched<W: Way>(way: &W) -> Times {
    let mut client = ServiceRegistryClient::new(way.clone());
    let (began, mut took) = (Instant::now(), Vec::with_capacity(CHANGES));
    for change in 0..CHANGES {
        let sent = Instant::now();
        client.register(changed(change)).await.unwrap();
        took.push(sent.elapsed().as_micros() as u32);
        tokio::time::sleep(BETWEEN).await;
    }
    Times::new(took, began.elapsed())
}

async fn watch<W: Way>(
    mut client: ServiceRegistryClient<W>,
    sent: Arc<Sent>,
    synced: Arc<Semaphore>,
) -> Vec<u32> {
    let filter = AgentFilter { namespace: NAMESPACE.to_owned(), ..Default::default() };
    let wanted = WatchAgentsRequest { filter: Some(filter), ..Default::default() };
    let mut events = client.watch_agents(wanted).await.unwrap().into_inner();
    let mut took = Vec::with_capacity(CHANGES);
    while took.len() < CHANGES {
        let event = events.message().await.unwrap().expect("the watch goes on");
        if event.event_type == i32::from(EventType::InSync) {
            synced.add_permits(1);
        } else if !event.snapshot {
            took.push(sent.micros_since(took.len()));
        }
    }
    took
}

fn changed(change: usize) -> RegisterRequest {
    RegisterRequest {
        agent_type: AgentType::Scout.into(),
        capabilities: vec!["watched".to_owned()],
        namespace: NAMESPACE.to_owned(),
        version: format!("1.0.{change}"),
        // Each run has an agent of its own, so that each change is one.
        instance_key: format!("watched-{}", change % 2),
        ..Default::default()
    }
}
