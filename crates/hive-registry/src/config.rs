//! What the registry needs to know before it starts.

use hive_runtime::config::{self, Reader};
use std::net::SocketAddr;
use std::time::Duration;

/// How long an agent may be silent before it stops being discoverable, unless the configuration says otherwise.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// The registry's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen (`HIVE_LISTEN`, such as `127.0.0.1:7100`; port 0 takes a free one).
    pub listen: SocketAddr,
    /// The SPIFFE Workload API (`SPIFFE_ENDPOINT_SOCKET`, such as `unix:///run/spire/agent.sock`).
    pub workload_api: String,
    /// An agent silent for this long is unhealthy (`HIVE_HEARTBEAT_TIMEOUT_MS`, default 15000).
    pub heartbeat_timeout: Duration,
}

impl Config {
    /// Reads the configuration. `None` means that mistakes were noted.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.required("HIVE_LISTEN", str::parse);
        let workload_api = reader.required("SPIFFE_ENDPOINT_SOCKET", config::text);
        let heartbeat_timeout =
            reader.or("HIVE_HEARTBEAT_TIMEOUT_MS", HEARTBEAT_TIMEOUT, config::milliseconds);
        Some(Self { listen: listen?, workload_api: workload_api?, heartbeat_timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let strings = [("HIVE_LISTEN", "everywhere"), ("HIVE_HEARTBEAT_TIMEOUT_MS", "0")];
        let mistakes = config::read(&strings.as_slice(), Config::read).expect_err("three mistakes");
        assert_eq!(mistakes.len(), 3, "{mistakes}");
    }
}
