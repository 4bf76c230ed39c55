//! The gRPC services, and what runs beside them.

mod services;

use crate::conductor::{Clock, Conductor, Handle};
use crate::dispatch::Dispatch;
use crate::intake::Intake;
use crate::{Config, Error};
use hive_api::names::{OPERATOR, ORCHESTRATOR, WORKERS};
use hive_api::orchestrator::plans_server::PlansServer;
use hive_api::orchestrator::tickets_server::TicketsServer;
use hive_runtime::listen::listen;
use hive_runtime::ready::Ready;
use hive_runtime::stop;
use hive_security::serve::{self, Authenticate, MethodPolicy};
use hive_security::{Audience, IdPattern, TrustDomain, Workload};
use services::{Plans, Tickets};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Time to obtain a first SVID: a start that takes longer is better seen as failed.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);
/// Time for calls under way to end once the orchestrator stops. Those that wait for something end at once.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// How often an idle connection is probed, and how long an answer may take: a dead peer frees its slot in 30 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection, at most: a worker has a claim for each slot and an Extend for each ticket, a
/// person a few watches.
const STREAMS_MAX: u32 = 256;
/// A plan file has a megabyte at most, and a view of a thousand tickets less.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Serves until `stop` is cancelled; announces the address once it does.
pub async fn run(config: Config, ready: Ready, stop: CancellationToken) -> Result<(), Error> {
    // The log first: a second orchestrator on the same directory shall say so, whatever else is wrong.
    let clock = Clock::start();
    let conductor = Conductor::open(&config.data_dir, clock.now(), config.claim_ttl).await?;
    let mut identity = config.workload.clone();
    identity.attach_deadline = ATTACH_DEADLINE;
    let (workload, upkeep) = Workload::attach(identity).await.map_err(Error::Identity)?;
    let upkeep = tokio::spawn(upkeep.run(stop.clone()));
    let served = conduct(config, &workload, (conductor, clock), ready, stop).await;
    upkeep.abort();
    served
}

/// Runs the conductor beside the server. It outlives the server, so that calls under way still get their answers;
/// if it ends first, nothing can be served any more.
async fn conduct(
    config: Config,
    workload: &Workload,
    (conductor, clock): (Conductor, Clock),
    ready: Ready,
    stop: CancellationToken,
) -> Result<(), Error> {
    let conductor_stop = CancellationToken::new();
    let (handle, task) = Handle::new(conductor, clock, conductor_stop.clone());
    let mut task = tokio::spawn(task);
    let served = tokio::select! {
        served = serve_until(config, workload, handle, ready, stop) => served,
        ended = &mut task => return ended.map_err(Error::Conductor)?,
    };
    conductor_stop.cancel();
    finish(task, served).await
}

/// The first thing that went wrong is what matters.
async fn finish(
    task: JoinHandle<Result<(), Error>>,
    served: Result<(), Error>,
) -> Result<(), Error> {
    let ended = task.await.map_err(Error::Conductor).flatten();
    served.and(ended)
}

async fn serve_until(
    config: Config,
    workload: &Workload,
    conductor: Handle,
    ready: Ready,
    stop: CancellationToken,
) -> Result<(), Error> {
    let refused = |source| Error::Listen { address: config.listen, source };
    let (listener, address) = listen(config.listen).await.map_err(refused)?;
    let incoming = serve::incoming(listener, workload).map_err(Error::Identity)?;
    let authenticate = authenticate(workload).map_err(Error::Identity)?;
    let intake =
        Intake::new(conductor.clone(), workload, &config.registry).map_err(Error::Identity)?;
    let dispatch = Dispatch::new(conductor.clone(), workload.clone(), config.claim_ttl)
        .map_err(Error::Identity)?;
    let plans = PlansServer::new(Plans::new(conductor, intake, stop.clone()));
    let tickets = TicketsServer::new(Tickets::new(dispatch, stop.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<PlansServer<Plans>>().await;
    health.set_serving::<TicketsServer<Tickets>>().await;
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .max_connection_age(serve::ConnectionAge::default().drawn())
        .layer(authenticate)
        .add_service(health_service)
        .add_service(plans.max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(tickets.max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    ready.announce(address.to_string());
    tracing::info!(%address, "the orchestrator serves");
    tokio::select! {
        served = server => served.map_err(Error::Serve),
        () = stop::drained(&stop, DRAIN_DEADLINE) => Ok(()),
    }
}

fn authenticate(workload: &Workload) -> Result<Authenticate, hive_security::Error> {
    let trust_domain = workload.trust_domain();
    let audience = Audience::of_service(ORCHESTRATOR.name, &trust_domain)?;
    Ok(Authenticate::new(workload, audience, policy(&trust_domain)?))
}

/// Who may call what. Whatever is not named here nobody may call.
fn policy(trust_domain: &TrustDomain) -> Result<MethodPolicy, hive_security::Error> {
    let operators = IdPattern::in_trust_domain(trust_domain, OPERATOR.path)?;
    let workers = IdPattern::in_trust_domain(trust_domain, WORKERS.path)?;
    Ok(MethodPolicy::new()
        .allow("/neural_hive.orchestrator.v1.Plans/*", operators)
        .allow("/neural_hive.orchestrator.v1.Tickets/*", workers))
}

#[cfg(test)]
mod tests;
