//! Who is told to be suspect, dead or gone.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{AgentChangeEvent, AgentInfo, EventType, Liveness, WatchAgentsRequest};
use hive_security::connect::Channel;
use tonic::{Code, Status};

use crate::agent::SILENT;

/// A watch ends with its caller's documents, and goes on with the next ones.
const RETRY: Duration = Duration::from_millis(100);

/// What a watch has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) events: AtomicU64,
    pub(crate) suspect: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) gone: AtomicU64,
    /// How often the watch went on from where it was.
    pub(crate) resumed: AtomicU64,
    /// How often it could not.
    pub(crate) began_anew: AtomicU64,
    pub(crate) silent: Mutex<Silent>,
    /// Says nothing of what it sees.
    is_quiet: bool,
}

/// When what became of the agent that never heartbeats.
#[derive(Clone, Copy, Default)]
pub(crate) struct Silent {
    registered: Option<Instant>,
    pub(crate) suspect_after: Option<Duration>,
    pub(crate) dead_after: Option<Duration>,
}

/// Watches everything, for ever.
pub(crate) async fn watch(mut client: ServiceRegistryClient<Channel>, seen: Arc<Seen>) {
    let mut revision = 0;
    loop {
        let ended = follow(&mut client, &mut revision, &seen).await;
        match ended.code() {
            Code::OutOfRange => {
                revision = 0;
                seen.began_anew.fetch_add(1, Ordering::Relaxed);
            }
            _ => _ = seen.resumed.fetch_add(1, Ordering::Relaxed),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The same, for whoever only listens.
pub(crate) async fn follow_along(client: ServiceRegistryClient<Channel>) {
    watch(client, Arc::new(Seen { is_quiet: true, ..Seen::default() })).await;
}

/// Agents that were told dead or gone so far.
pub(crate) fn dead(seen: &Seen) -> u64 {
    seen.dead.load(Ordering::Relaxed) + seen.gone.load(Ordering::Relaxed)
}

async fn follow(
    client: &mut ServiceRegistryClient<Channel>,
    revision: &mut u64,
    seen: &Seen,
) -> Status {
    let wanted = WatchAgentsRequest { resume_revision: *revision, ..Default::default() };
    let mut events = match client.watch_agents(wanted).await {
        Ok(events) => events.into_inner(),
        Err(status) => return status,
    };
    loop {
        match events.message().await {
            Ok(Some(event)) => {
                // Within the first state there is nothing to go on from.
                *revision = event.revision.max(*revision);
                seen.note(&event);
            }
            Ok(None) => return Status::unavailable("it ended"),
            Err(status) => return status,
        }
    }
}

impl Seen {
    fn note(&self, event: &AgentChangeEvent) {
        let Some(agent) = &event.agent else { return };
        self.events.fetch_add(1, Ordering::Relaxed);
        if agent.namespace == SILENT {
            self.silent.lock().unwrap().note(agent);
            return;
        }
        let counter = match (event.event_type(), agent.liveness()) {
            (EventType::Deregistered, _) => &self.gone,
            (_, Liveness::Suspect) => &self.suspect,
            (_, Liveness::Dead) => &self.dead,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if self.is_quiet {
            return;
        }
        eprintln!("{} is {:?}: {:?}", agent.instance_key, agent.liveness(), event.event_type());
    }
}

impl Silent {
    fn note(&mut self, agent: &AgentInfo) {
        let silence = self.registered.get_or_insert_with(Instant::now).elapsed();
        match agent.liveness() {
            Liveness::Suspect => _ = self.suspect_after.get_or_insert(silence),
            Liveness::Dead => _ = self.dead_after.get_or_insert(silence),
            _ => {}
        }
    }
}
