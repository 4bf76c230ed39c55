//! The worker as a service: attach, register, claim, drain.

use crate::artifacts::{self, Artifacts};
use crate::config::Config;
use crate::credentials::{self, Safe};
use crate::executors::{Executors, Tools};
use crate::heartbeat::Heartbeat;
use crate::inbox::Slot;
use crate::lender::VaultLender;
use crate::notices::Notices;
use crate::orchestrator::Orchestrator;
use crate::runner::Runner;
use crate::sandbox::Sandbox;
use crate::tally::Tally;
use hive_api::names::{ORCHESTRATOR, Party, REGISTRY};
use hive_api::orchestrator::tickets_client::TicketsClient;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_runtime::ready::Ready;
use hive_security::connect::{Channel, channel};
use hive_security::vault::{VaultClient, VaultError};
use hive_security::{Audience, IdPattern, Workload};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long the Workload API may take to give this worker an identity.
const ATTACH_PATIENCE: Duration = Duration::from_secs(15);
/// How long being ready waits for the registry: a worker without one is useful all the same.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(5);
/// How long running tickets may take to be withdrawn, given back and reported.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The artifact store cannot be used.
    #[error("the artifact store cannot be opened")]
    Artifacts(#[source] artifacts::Error),
    /// There is no place for credential files.
    #[error("there is no place for credential files")]
    Credentials(#[source] credentials::Error),
    /// Its own directory cannot be used.
    #[error("HIVE_DATA_DIR {} cannot be used", path.display())]
    DataDir {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no identity, or it does not serve.
    #[error("this worker has no identity")]
    Identity(#[source] hive_security::Error),
    /// The address of Vault does not serve.
    #[error("VAULT_ADDR cannot be used")]
    Vault(#[source] VaultError),
}

/// Works until `stop`, then withdraws what is running and reports it.
pub async fn run(config: Config, ready: Ready, stop: CancellationToken) -> Result<(), Error> {
    let mut attach = config.workload.clone();
    attach.attach_deadline = ATTACH_PATIENCE;
    let (workload, upkeep) = Workload::attach(attach).await.map_err(Error::Identity)?;
    let identity = workload.spiffe_id().map_err(Error::Identity)?;
    // Identity is needed to the very end: outcomes are signed, and leases given back, while everything else stops.
    let end = CancellationToken::new();
    let upkeep = tokio::spawn(upkeep.run(end.clone()));
    let worker = Worker::assemble(&config, &workload)?;
    tracing::info!(worker = config.name, %identity, slots = config.slots, "working");
    let (mut beating, mut working) = (JoinSet::new(), JoinSet::new());
    let registered = worker.start(&config, &stop, &mut beating, &mut working);
    tokio::select! {
        () = known(registered) => {
            let facts = [("address", identity.to_string()), ("worker", config.name.clone())];
            ready.announce_facts(facts);
            stop.cancelled().await;
        }
        () = stop.cancelled() => {}
    }
    drain(&mut working).await;
    drain(&mut beating).await;
    worker.safe.remove();
    end.cancel();
    // It only watches streams: there is nothing that it could leave half done.
    let _ = upkeep.await;
    Ok(())
}

/// Waits until the registry knows this worker, or has had its chance to.
async fn known(mut registered: watch::Receiver<Option<String>>) {
    let _ = timeout(REGISTRY_PATIENCE, registered.wait_for(Option::is_some)).await;
}

/// The parts that are made once.
struct Worker {
    registry: Channel,
    orchestrator: Orchestrator,
    runner: Arc<Runner<Orchestrator, VaultLender>>,
    safe: Safe,
    tally: Arc<Tally>,
}

impl Worker {
    fn assemble(config: &Config, workload: &Workload) -> Result<Self, Error> {
        let registry = connect(workload, &config.registry_addr, REGISTRY)?;
        let vault = VaultClient::new(config.vault.clone()).map_err(Error::Vault)?;
        let executors = Arc::new(Executors::standard(&tools(config)?));
        let orchestrator = Orchestrator {
            client: TicketsClient::new(connect(workload, &config.orchestrator_addr, ORCHESTRATOR)?),
            workload: workload.clone(),
            signer: pattern(workload, ORCHESTRATOR)?,
            kinds: executors.kinds(),
        };
        let tickets_dir = fresh_directory(&config.data_dir)?;
        // Last: whatever fails before it leaves nothing behind outside the data directory.
        let runtime_dir = config.runtime_dir.as_deref();
        let safe = Safe::open(&config.data_dir, runtime_dir).map_err(Error::Credentials)?;
        let (desk, lender) =
            (orchestrator.clone(), VaultLender { vault, workload: workload.clone() });
        let runner = Arc::new(Runner { desk, lender, executors, safe: safe.clone(), tickets_dir });
        Ok(Self { registry, orchestrator, runner, safe, tally: Arc::default() })
    }

    fn start(
        &self,
        config: &Config,
        stop: &CancellationToken,
        beating: &mut JoinSet<()>,
        working: &mut JoinSet<()>,
    ) -> watch::Receiver<Option<String>> {
        let (registered, is_registered) = watch::channel(None);
        let registry = ServiceRegistryClient::new(self.registry.clone());
        let heartbeat = Heartbeat {
            client: registry.clone(),
            name: config.name.clone(),
            kinds: self.orchestrator.kinds.clone(),
            slots: config.slots,
            tally: Arc::clone(&self.tally),
            registered,
        };
        for _ in 0..config.slots {
            let (orchestrator, runner) = (self.orchestrator.clone(), Arc::clone(&self.runner));
            let slot = Slot { orchestrator, runner, tally: Arc::clone(&self.tally) };
            working.spawn(slot.work(stop.clone()));
        }
        beating.spawn(heartbeat.beat(stop.clone()));
        let notices = Notices { client: registry, agent_id: is_registered.clone() };
        beating.spawn(notices.attend(stop.clone()));
        is_registered
    }
}

fn tools(config: &Config) -> Result<Tools, Error> {
    let (launcher, toolchain) = (config.launcher.clone(), config.toolchain.clone());
    Ok(Tools {
        sandbox: Sandbox::new(launcher, config.confinement, toolchain),
        artifacts: Artifacts::open(&config.artifacts_dir).map_err(Error::Artifacts)?,
        ledger: config.ledger.clone(),
    })
}

fn connect(workload: &Workload, address: &str, server: Party) -> Result<Channel, Error> {
    let audience =
        Audience::of_service(server.name, &workload.trust_domain()).map_err(Error::Identity)?;
    channel(workload, address, pattern(workload, server)?, audience).map_err(Error::Identity)
}

fn pattern(workload: &Workload, party: Party) -> Result<IdPattern, Error> {
    IdPattern::in_trust_domain(&workload.trust_domain(), party.path).map_err(Error::Identity)
}

/// Nobody resumes a ticket in the directory of an earlier try: what a killed worker left there is of no use.
fn fresh_directory(data_dir: &Path) -> Result<PathBuf, Error> {
    let path = data_dir.join("tickets");
    let make = || {
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)
    };
    match make() {
        // Canonical, because a sandbox is made of real paths.
        Ok(()) => path.canonicalize().map_err(|source| Error::DataDir { path, source }),
        Err(source) => Err(Error::DataDir { path, source }),
    }
}

/// Waits for what was told to stop, and ends what does not.
async fn drain(tasks: &mut JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN_PATIENCE, all).await.is_err() {
        tracing::error!("the worker did not drain in time: what still runs is dropped");
        tasks.shutdown().await;
    }
}
