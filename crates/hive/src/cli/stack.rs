//! Finding the stack, and attaching to it as whoever this process is.

use crate::exit;
use hive_api::names;
use hive_api::orchestrator::plans_client::PlansClient;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_runtime::config::{ProcessEnvironment, Strings};
use hive_runtime::errors::chain;
use hive_security::connect::{self, Channel};
use hive_security::{Audience, IdPattern, Workload, WorkloadConfig};
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a command waits for an identity before it says that there is none.
const ATTACH_DEADLINE: Duration = Duration::from_secs(5);

/// Plan views carry a story each, and a plan has at most 1,000 tickets.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Whoever has not set anything has probably just started a stack.
const HINT: &str = "; `hive up` prints the line that sets it for this shell";

/// The orchestrator's client for whoever looks after plans.
pub(crate) type Plans = PlansClient<Channel>;

/// The registry's client.
pub(crate) type Agents = ServiceRegistryClient<Channel>;

/// Why a command failed, and with which exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) status: u8,
}

impl Failure {
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 1 }
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: exit::BAD_INPUT }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: exit::UNAVAILABLE }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let message =
            format!("the orchestrator answered {:?}: {}", status.code(), status.message());
        match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::NotFound => {
                Self::bad_input(status.message())
            }
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => Self::unavailable(message),
            _ => Self { message, status: 1 },
        }
    }
}

/// Runs one command to its exit status. Its tasks end with it.
pub(crate) fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hive: cannot start the async runtime: {error}");
            return exit::ERROR;
        }
    };
    match tokio::task::LocalSet::new().block_on(&runtime, command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("hive: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

/// Who this process is, according to the Workload API that its environment names.
pub(crate) async fn attach() -> Result<Workload, Failure> {
    // Its upkeep ends with the runtime, that is, with the command.
    attach_with(workload_config()?, CancellationToken::new()).await
}

/// Who this process is, according to the Workload API at `endpoint`, kept up to date until `stop`.
#[cfg(feature = "dev")]
pub(crate) async fn attach_to(
    endpoint: String,
    stop: CancellationToken,
) -> Result<Workload, Failure> {
    attach_with(WorkloadConfig::new(endpoint, ATTACH_DEADLINE), stop).await
}

async fn attach_with(config: WorkloadConfig, stop: CancellationToken) -> Result<Workload, Failure> {
    let attached = Workload::attach(config).await;
    let (workload, upkeep) = attached.map_err(|error| Failure::unavailable(chain(&error)))?;
    tokio::spawn(upkeep.run(stop));
    Ok(workload)
}

fn workload_config() -> Result<WorkloadConfig, Failure> {
    let mut config = WorkloadConfig::from_strings(value).map_err(|wrong| {
        let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        Failure::bad_input(format!("{}{HINT}", wrong.join("\n")))
    })?;
    config.attach_deadline = ATTACH_DEADLINE;
    Ok(config)
}

/// A setting; one that is empty counts as not set.
pub(crate) fn value(name: &str) -> Option<String> {
    ProcessEnvironment.string(name).filter(|value| !value.is_empty())
}

/// The orchestrator at `HIVE_ORCHESTRATOR_ADDR`, as this workload.
pub(crate) fn plans(workload: &Workload) -> Result<Plans, Failure> {
    plans_at(workload, &setting("HIVE_ORCHESTRATOR_ADDR")?)
}

/// The orchestrator at `address`, as this workload. Connects at the first call.
pub(crate) fn plans_at(workload: &Workload, address: &str) -> Result<Plans, Failure> {
    let channel = channel(workload, address, names::ORCHESTRATOR)?;
    Ok(PlansClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// The registry at `HIVE_REGISTRY_ADDR`, as this workload. Connects at the first call.
pub(crate) fn agents(workload: &Workload) -> Result<Agents, Failure> {
    let channel = channel(workload, &setting("HIVE_REGISTRY_ADDR")?, names::REGISTRY)?;
    Ok(ServiceRegistryClient::new(channel))
}

fn channel(workload: &Workload, address: &str, server: names::Party) -> Result<Channel, Failure> {
    let domain = workload.trust_domain();
    let failed = |error: hive_security::Error| Failure::bad_input(chain(&error));
    let pattern = IdPattern::in_trust_domain(&domain, server.path).map_err(failed)?;
    let audience = Audience::of_service(server.name, &domain).map_err(failed)?;
    connect::channel(workload, address, pattern, audience).map_err(failed)
}

fn setting(name: &str) -> Result<String, Failure> {
    value(name).ok_or_else(|| Failure::bad_input(format!("{name} is not set{HINT}")))
}
