//! What the orchestrator needs to know before it starts.

use hive_runtime::config::{self, Reader};
use hive_security::WorkloadConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long a claim lives without an Extend, unless the configuration says otherwise.
const CLAIM_TTL: Duration = Duration::from_secs(5);

/// The orchestrator's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen (`HIVE_LISTEN`, such as `127.0.0.1:7200`; port 0 takes a free one).
    pub listen: SocketAddr,
    /// The SPIFFE Workload API: `SPIFFE_ENDPOINT_SOCKET`, such as `unix:///run/spire/agent.sock`, and what else
    /// [`WorkloadConfig::from_strings`] reads.
    pub workload: WorkloadConfig,
    /// The registry that knows which workers live (`HIVE_REGISTRY_ADDR`, such as `https://127.0.0.1:7100`).
    pub registry: String,
    /// The directory that holds the log (`HIVE_DATA_DIR`). Only one orchestrator may use it.
    pub data_dir: PathBuf,
    /// A claim that is not extended for this long is lost (`HIVE_CLAIM_TTL_MS`, default 5000).
    pub claim_ttl: Duration,
}

impl Config {
    /// Reads the configuration. `None` means that mistakes were noted.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.required("HIVE_LISTEN", str::parse);
        let workload = reader.together(|lookup| WorkloadConfig::from_strings(lookup));
        let registry = reader.required("HIVE_REGISTRY_ADDR", https_address);
        let data_dir = reader.required("HIVE_DATA_DIR", config::absolute_path);
        let claim_ttl = reader.or("HIVE_CLAIM_TTL_MS", CLAIM_TTL, config::milliseconds);
        Some(Self {
            listen: listen?,
            workload: workload?,
            registry: registry?,
            data_dir: data_dir?,
            claim_ttl,
        })
    }
}

fn https_address(value: &str) -> Result<String, &'static str> {
    match value.strip_prefix("https://") {
        Some(address) if address.parse::<SocketAddr>().is_ok() => Ok(value.to_owned()),
        _ => Err("expected https://<ip>:<port>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let strings = [
            ("HIVE_LISTEN", "127.0.0.1:0"),
            ("HIVE_REGISTRY_ADDR", "http://127.0.0.1:7100"),
            ("HIVE_DATA_DIR", "data"),
        ];
        let mistakes = config::read(&strings.as_slice(), Config::read).expect_err("three mistakes");
        let text = mistakes.to_string();
        assert_eq!(mistakes.len(), 3, "{text}");
        assert!(text.contains("expected https://<ip>:<port>"), "{text}");
    }
}
