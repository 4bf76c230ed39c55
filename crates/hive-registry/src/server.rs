//! The server: who may call what, and what runs until it stops.

use crate::agent::ReplicaId;
use crate::attend::Desk;
use crate::forward::Others;
use crate::liveness::Rules;
use crate::node::{Node, now};
use crate::replica::Replica;
use crate::service::Registry;
use crate::store::{self, Here, Store};
use crate::wire::Wire;
use crate::{Config, Error, exposition};
use hive_api::names::{OPERATOR, ORCHESTRATOR, Party, REGISTRY, WORKERS};
use hive_api::registry::DESCRIPTORS;
use hive_api::registry::service_registry_server::ServiceRegistryServer;
use hive_runtime::listen::listen;
use hive_runtime::ready::Ready;
use hive_runtime::stop;
use hive_security::metrics::Metrics;
use hive_security::serve::{self, Authenticate, MethodPolicy};
use hive_security::{Audience, IdPattern, TrustDomain, Workload};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Time to obtain a first SVID: a start that takes longer is better seen as failed.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);
/// Time for calls under way to end once the registry stops: streams end at once, and a write has a deadline.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Time for the store to be closed in an orderly way.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How often an idle connection is probed, and how long an answer may take: a dead peer frees its slot in 30 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection, at most: a host has a stream for each of its agents, and its heartbeats.
pub(crate) const STREAMS_MAX: u32 = 1_024;
/// Events and changes that are kept for watches that are slow or come back: more than a fleet of a thousand causes when
/// all of it starts anew, in about ten megabytes.
pub(crate) const EVENTS_MAX: usize = 16_384;

/// What the health service calls the registry's giving up of silent agents; not serving during a mass expiry.
const EXPIRY: &str = "neural_hive.service_registry.expiry";

/// Who may call which method. Whatever is not named here nobody may call.
const POLICY: [(&str, &[Party]); 13] = [
    ("Attend", &[WORKERS]),
    ("Deliver", &[REGISTRY]),
    ("Deregister", &[WORKERS]),
    ("DiscoverAgents", &[OPERATOR, ORCHESTRATOR, WORKERS]),
    ("DiscoverMany", &[OPERATOR, ORCHESTRATOR, WORKERS]),
    ("GetAgent", &[OPERATOR, ORCHESTRATOR, WORKERS]),
    ("Heartbeat", &[WORKERS]),
    ("HeartbeatMany", &[WORKERS]),
    ("ImportAgents", &[OPERATOR]),
    ("ListAgents", &[OPERATOR, ORCHESTRATOR, WORKERS]),
    ("NotifyAgent", &[OPERATOR, ORCHESTRATOR]),
    ("Register", &[WORKERS]),
    ("WatchAgents", &[OPERATOR, ORCHESTRATOR, WORKERS]),
];

/// Serves until `stop` is cancelled; announces the address once it does.
pub async fn run(config: Config, ready: Ready, stop: CancellationToken) -> Result<(), Error> {
    let mut identity = config.workload.clone();
    identity.attach_deadline = ATTACH_DEADLINE;
    let (workload, upkeep) = Workload::attach(identity).await.map_err(Error::Identity)?;
    let upkeep = tokio::spawn(upkeep.run(stop.clone()));
    let replica = ReplicaId::new(&format!("{:032x}", rand::random::<u128>()));
    let refused = |source| Error::Listen { address: config.listen, source };
    // Before the other replicas are told where this one is.
    let (listener, address) = listen(config.listen).await.map_err(refused)?;
    let here = Here { replica: replica.clone(), address };
    let (store, keeper) = store::open(&config.store, &workload, here, &stop).await?;
    let served = serve_until(config, &workload, replica, listener, store, ready, stop).await;
    // It ends with the last that held the store; what is not folded in or given back now ends by itself later.
    _ = tokio::time::timeout(CLOSE_DEADLINE, keeper).await;
    upkeep.abort();
    served
}

async fn serve_until(
    config: Config,
    workload: &Workload,
    replica: ReplicaId,
    listener: TcpListener,
    store: Arc<dyn Store>,
    ready: Ready,
    stop: CancellationToken,
) -> Result<(), Error> {
    let refused = |source| Error::Listen { address: config.listen, source };
    let address = listener.local_addr().map_err(refused)?;
    let rules = Rules::new(config.heartbeat_timeout, config.freeze_max);
    let node = Node::new(Replica::new(now().monotonic, replica, rules, EVENTS_MAX), store);
    let registry = Registry {
        node: Arc::clone(&node),
        desk: Arc::new(Desk::default()),
        others: Some(Others::new(workload)),
        lease: config.heartbeat_timeout,
        stop: stop.clone(),
    };
    let trust_domain = workload.trust_domain();
    let audience = Audience::of_service(REGISTRY.name, &trust_domain).map_err(Error::Identity)?;
    let policy = policy(&trust_domain).map_err(Error::Identity)?;
    let guard = Authenticate::new(workload, audience, policy);
    let incoming = serve::incoming(listener, workload).map_err(Error::Identity)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_not_serving::<ServiceRegistryServer<Registry>>().await;
    // They end with this set, which ends with this function.
    let mut upkeep = JoinSet::new();
    upkeep.spawn(Arc::clone(&node).follow());
    upkeep.spawn(Arc::clone(&node).judge());
    upkeep.spawn(Arc::clone(&node).end_watches(stop.clone()));
    let mut facts = vec![("address", address.to_string())];
    if let Some(address) = config.metrics_listen {
        let refused = |source| Error::Listen { address, source };
        let (listener, address) = listen(address).await.map_err(refused)?;
        let security = Metrics::of(workload).and_server(REGISTRY.name, &guard);
        tracing::info!(%address, "metrics are served");
        facts.push(("metrics", address.to_string()));
        let lease = config.heartbeat_timeout;
        upkeep.spawn(exposition::serve(listener, Arc::clone(&node), security, lease, stop.clone()));
    }
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .max_connection_age(serve::ConnectionAge::default().drawn())
        .layer(guard.clone())
        .add_service(health_service)
        .add_service(reflection().build_v1().expect("the descriptors are the compiler's"))
        .add_service(reflection().build_v1alpha().expect("the descriptors are the compiler's"))
        .add_service(Wire::new(registry))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let synced = async {
        // The sender is the node's, which lives as long as this function.
        _ = node.folded().wait_for(Option::is_some).await;
        health.set_serving::<ServiceRegistryServer<Registry>>().await;
        ready.announce_facts(facts);
        tracing::info!(%address, "the registry serves");
        tell_of_freezes(&node, &health).await;
    };
    tokio::select! {
        served = server => served.map_err(Error::Serve),
        () = stop::drained(&stop, DRAIN_DEADLINE) => Ok(()),
        () = synced => Ok(()),
    }
}

/// Says in the health service whether silent agents are given up, as long as the node lives.
async fn tell_of_freezes(node: &Node, health: &HealthReporter) {
    let mut frozen = node.frozen();
    loop {
        let is_frozen = *frozen.borrow_and_update();
        let status = if is_frozen { ServingStatus::NotServing } else { ServingStatus::Serving };
        health.set_service_status(EXPIRY, status).await;
        if frozen.changed().await.is_err() {
            return;
        }
    }
}

fn reflection<'a>() -> tonic_reflection::server::Builder<'a> {
    tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS)
}

pub(crate) fn policy(trust_domain: &TrustDomain) -> Result<MethodPolicy, hive_security::Error> {
    let mut policy = MethodPolicy::new();
    for (method, parties) in POLICY {
        let path = format!("/neural_hive.service_registry.ServiceRegistry/{method}");
        for party in parties {
            let pattern = IdPattern::in_trust_domain(trust_domain, party.path)?;
            policy = policy.allow(&path, pattern);
        }
    }
    Ok(policy)
}

#[cfg(test)]
pub(crate) mod tests;
