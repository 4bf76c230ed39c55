//! One agent: it registers, and heartbeats for as long as it lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_api::registry::{AgentTelemetry, AgentType, HeartbeatRequest, RegisterRequest};
use hive_security::connect::Channel;
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::{Code, Response, Status};

use crate::registry::LEASE;

/// Three in a lease.
const PERIOD: Duration = Duration::from_secs(5);
/// What hive-worker waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon it is tried again: as hive-worker, sooner at first.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// It registers anew with another version after so many heartbeats.
const BEATS_OF_A_VERSION: usize = 50;
const CAPABILITIES: usize = 100;
/// Reasons that are printed by each host.
const REASONS_MAX: u64 = 3;

pub(crate) const NAMESPACE: &str = "fleet";
/// Of the agent that never heartbeats.
pub(crate) const SILENT: &str = "silent";

/// What came of all agents of a host.
#[derive(Default)]
pub(crate) struct Tally {
    /// Agents that are registered.
    pub(crate) open: AtomicU64,
    pub(crate) beats: AtomicU64,
    pub(crate) beats_failed: AtomicU64,
    pub(crate) registrations_failed: AtomicU64,
    /// Heartbeats that were answered with `NOT_FOUND`: the registry believes the agent gone.
    pub(crate) lost: AtomicU64,
    pub(crate) registered: AtomicU64,
    /// Agents that have heartbeaten since a storm, once for each storm.
    pub(crate) back: AtomicU64,
    /// In microseconds.
    pub(crate) took: Mutex<Vec<u32>>,
}

pub(crate) struct Agent<F> {
    /// Makes a client with a connection of its own.
    pub(crate) dial: F,
    pub(crate) client: ServiceRegistryClient<Channel>,
    /// Each change is a storm.
    pub(crate) storms: watch::Receiver<u64>,
    pub(crate) number: usize,
    pub(crate) tally: Arc<Tally>,
}

impl<F: Fn() -> ServiceRegistryClient<Channel>> Agent<F> {
    /// Registers in its turn, and heartbeats for ever.
    pub(crate) async fn live(mut self, doors: Arc<Semaphore>) {
        let door = doors.acquire().await.unwrap();
        let mut id = self.enter(0).await;
        drop(door);
        self.tally.open.fetch_add(1, Ordering::Relaxed);
        sleep(PERIOD.mul_f64(rand::random())).await;
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for turn in self.number % BEATS_OF_A_VERSION.. {
            let is_cut = tokio::select! {
                _ = ticks.tick() => false,
                _ = self.storms.changed() => true,
            };
            if is_cut {
                self.client = (self.dial)();
                self.say_alive(&mut id, turn).await;
                self.tally.back.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if turn % BEATS_OF_A_VERSION == BEATS_OF_A_VERSION - 1 {
                self.update(turn).await;
            }
            self.say_alive(&mut id, turn).await;
        }
    }

    /// Registers, until that succeeds.
    async fn enter(&mut self, turn: usize) -> String {
        let mut retry = RETRY_MIN;
        loop {
            match bounded(self.client.register(registration(self.number, turn))).await {
                Ok(answer) => {
                    self.tally.registered.fetch_add(1, Ordering::Relaxed);
                    return answer.agent_id;
                }
                Err(status) => self.tally.registration_failed(&status),
            }
            pause(&mut retry).await;
        }
    }

    /// Tells another version, once: whether the registry's store is there or not, the agent is alive.
    async fn update(&mut self, turn: usize) {
        let told = bounded(self.client.register(registration(self.number, turn))).await;
        match told {
            Ok(_) => _ = self.tally.registered.fetch_add(1, Ordering::Relaxed),
            Err(status) => self.tally.registration_failed(&status),
        }
    }

    /// Heartbeats, until that succeeds.
    async fn say_alive(&mut self, id: &mut String, turn: usize) {
        let mut retry = RETRY_MIN;
        while let Err(status) = self.beat(id).await {
            if status.code() == Code::NotFound {
                self.tally.lost.fetch_add(1, Ordering::Relaxed);
                *id = self.enter(turn).await;
                return;
            }
            pause(&mut retry).await;
        }
    }

    async fn beat(&mut self, id: &str) -> Result<(), Status> {
        let began = Instant::now();
        let request = HeartbeatRequest { agent_id: id.to_owned(), telemetry: Some(telemetry()) };
        let told = bounded(self.client.heartbeat(request)).await;
        self.tally.took.lock().unwrap().push(began.elapsed().as_micros() as u32);
        match &told {
            Ok(_) => _ = self.tally.beats.fetch_add(1, Ordering::Relaxed),
            Err(status) => self.tally.beat_failed(status),
        }
        told.map(drop)
    }
}

impl Tally {
    fn beat_failed(&self, status: &Status) {
        if self.beats_failed.fetch_add(1, Ordering::Relaxed) < REASONS_MAX {
            eprintln!("a heartbeat failed: {:?}: {}", status.code(), status.message());
        }
    }

    fn registration_failed(&self, status: &Status) {
        if self.registrations_failed.fetch_add(1, Ordering::Relaxed) < REASONS_MAX {
            eprintln!("a registration failed: {:?}: {}", status.code(), status.message());
        }
    }
}

/// Registers an agent that is never heard again.
pub(crate) async fn fall_silent(mut client: ServiceRegistryClient<Channel>) {
    let silent = RegisterRequest {
        agent_type: AgentType::Guard.into(),
        namespace: SILENT.to_owned(),
        instance_key: SILENT.to_owned(),
        ..registration(0, 0)
    };
    client.register(silent).await.unwrap();
}

fn registration(number: usize, turn: usize) -> RegisterRequest {
    let capability = |number: usize| format!("capability-{}", number % CAPABILITIES);
    RegisterRequest {
        agent_type: AgentType::Worker.into(),
        capabilities: (0..4).map(|offset| capability(number + offset)).collect(),
        metadata: [("zone".to_owned(), format!("zone-{}", number % 7))].into(),
        namespace: NAMESPACE.to_owned(),
        version: format!("1.0.{}", (turn + 1) / BEATS_OF_A_VERSION),
        telemetry: Some(telemetry()),
        instance_key: format!("agent-{number}"),
        ..Default::default()
    }
}

fn telemetry() -> AgentTelemetry {
    AgentTelemetry {
        success_rate: 0.9,
        avg_duration_ms: 1_200,
        total_executions: 50,
        failed_executions: 5,
        last_execution_at: 0,
    }
}

/// Longer each time, and not in step with others.
async fn pause(retry: &mut Duration) {
    sleep(retry.mul_f64(rand::random_range(0.5..=1.0))).await;
    *retry = (*retry * 2).min(RETRY_MAX);
}

async fn bounded<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    const { assert!(PATIENCE.as_secs() + PERIOD.as_secs() < LEASE.as_secs()) };
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}
