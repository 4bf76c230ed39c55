//! What others ask meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_api::registry::DiscoverAgentsRequest;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_security::connect::Channel;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Fifty a second.
const BETWEEN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of the questions.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) found: AtomicU64,
    /// Answers without an agent, or none at all.
    pub(crate) failed: AtomicU64,
}

/// Asks for two capabilities of a hundred, for ever.
pub(crate) async fn discover(mut client: ServiceRegistryClient<Channel>, answers: Arc<Answers>) {
    let mut ticks = interval(BETWEEN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0.. {
        ticks.tick().await;
        let capabilities = [turn, turn + 1].map(|number| format!("capability-{}", number % 100));
        let wanted =
            DiscoverAgentsRequest { capabilities: capabilities.into(), ..Default::default() };
        let answer = timeout(PATIENCE, client.discover_agents(wanted)).await;
        match answer {
            Ok(Ok(found)) if !found.get_ref().agents.is_empty() => {
                answers.found.fetch_add(1, Ordering::Relaxed);
            }
            _ => _ = answers.failed.fetch_add(1, Ordering::Relaxed),
        }
    }
}
