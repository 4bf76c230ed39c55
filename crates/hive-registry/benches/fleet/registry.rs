//! The registry, served as `hive registry` serves it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hive_registry::{Config, StoreConfig};
use hive_runtime::ready::Ready;
use hive_runtime::telemetry;
use hive_security::WorkloadConfig;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

/// The defaults of the configuration.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
const FREEZE_MAX: Duration = Duration::from_secs(300);
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);

/// Serves until its input ends, and says where on standard output.
pub(crate) async fn serve(endpoint: &str, directory: &Path) {
    telemetry::init(telemetry::DEFAULT_FILTER).unwrap();
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    orders.next_line().await.unwrap().unwrap();
    let stop = CancellationToken::new();
    let config = config(endpoint, directory);
    let served =
        tokio::spawn(hive_registry::run(config, Ready::on_standard_output(), stop.clone()));
    while orders.next_line().await.unwrap().is_some() {}
    stop.cancel();
    served.await.unwrap().unwrap();
}

fn config(endpoint: &str, directory: &Path) -> Config {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        listen: free,
        store: StoreConfig::Sqlite { data_dir: directory.join("registry") },
        workload: WorkloadConfig::new(endpoint, ATTACH_DEADLINE),
        heartbeat_timeout: LEASE,
        freeze_max: FREEZE_MAX,
        metrics_listen: Some(free),
    }
}
