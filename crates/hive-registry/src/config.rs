//! What the registry needs to know before it starts.

#[cfg(feature = "etcd")]
use crate::EtcdConfig;
use hive_runtime::config::{self, Reader};
use hive_security::WorkloadConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long an agent may be silent before it stops being discoverable, unless the configuration says otherwise.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long many agents that fell silent together are kept: longer than most repairs of a network take.
const FREEZE_MAX: Duration = Duration::from_secs(300);

/// What etcd's keys begin with, and who etcd is, unless the configuration says otherwise.
#[cfg(feature = "etcd")]
const ETCD_PREFIX: &str = "neural-hive/registry/";
#[cfg(feature = "etcd")]
const ETCD_ID: &str = "/ns/neural-hive/sa/etcd";

/// The registry's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen (`HIVE_LISTEN`, such as `127.0.0.1:7100`; port 0 takes a free one).
    pub listen: SocketAddr,
    /// Where membership is kept (`HIVE_REGISTRY_STORE`).
    pub store: StoreConfig,
    /// The SPIFFE Workload API: `SPIFFE_ENDPOINT_SOCKET`, such as `unix:///run/spire/agent.sock`, and what else
    /// [`WorkloadConfig::from_strings`] reads.
    pub workload: WorkloadConfig,
    /// An agent silent for this long is dead (`HIVE_HEARTBEAT_TIMEOUT_MS`, default 15000); it is suspect at two thirds
    /// of that, and forgotten at four times as much.
    pub heartbeat_timeout: Duration,
    /// How long many agents that fell silent together are kept from dying (`HIVE_FREEZE_LIMIT_MS`, default 300000).
    pub freeze_max: Duration,
    /// Where metrics are served over plain HTTP at `/metrics` (`HIVE_METRICS_LISTEN`); nowhere by default.
    pub metrics_listen: Option<SocketAddr>,
}

/// Where membership is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreConfig {
    /// `etcd`, for several replicas.
    #[cfg(feature = "etcd")]
    Etcd(EtcdConfig),
    /// `sqlite`, the default: one file, for one replica.
    Sqlite {
        /// The directory that holds it (`HIVE_DATA_DIR`). Only one registry may use it.
        data_dir: PathBuf,
    },
}

impl StoreConfig {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        match reader.or("HIVE_REGISTRY_STORE", Kind::Sqlite, Kind::parse) {
            #[cfg(feature = "etcd")]
            Kind::Etcd => etcd(reader).map(Self::Etcd),
            Kind::Sqlite => {
                let data_dir = reader.required("HIVE_DATA_DIR", config::absolute_path);
                Some(Self::Sqlite { data_dir: data_dir? })
            }
        }
    }
}

enum Kind {
    #[cfg(feature = "etcd")]
    Etcd,
    Sqlite,
}

impl Kind {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            #[cfg(feature = "etcd")]
            "etcd" => Ok(Self::Etcd),
            #[cfg(not(feature = "etcd"))]
            "etcd" => Err("this program was built without the feature etcd"),
            "sqlite" => Ok(Self::Sqlite),
            _ => Err("it must be sqlite or etcd"),
        }
    }
}

#[cfg(feature = "etcd")]
fn etcd(reader: &mut Reader<'_>) -> Option<EtcdConfig> {
    let endpoints = reader.required("HIVE_ETCD_ENDPOINTS", etcd_endpoints);
    let prefix = reader.or("HIVE_ETCD_PREFIX", ETCD_PREFIX.to_owned(), |text| {
        if text.ends_with('/') { Ok(text.to_owned()) } else { Err("it must end with /") }
    });
    let id = reader.or("HIVE_ETCD_ID", ETCD_ID.to_owned(), |text| {
        if text.starts_with('/') { Ok(text.to_owned()) } else { Err("it must begin with /") }
    });
    let advertise = reader.optional("HIVE_ADVERTISE", host_and_port);
    Some(EtcdConfig { endpoints: endpoints?, prefix, id, advertise })
}

#[cfg(feature = "etcd")]
fn host_and_port(text: &str) -> Result<String, &'static str> {
    let is_port = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    let whole = text.rsplit_once(':').is_some_and(is_port) && !text.contains(['/', ' ']);
    if whole { Ok(text.to_owned()) } else { Err("it must have the form host:port") }
}

#[cfg(feature = "etcd")]
fn etcd_endpoints(text: &str) -> Result<Vec<String>, &'static str> {
    let endpoints: Vec<String> = text.split(',').map(|one| one.trim().to_owned()).collect();
    let all = endpoints.iter().all(|one| one.starts_with("https://"));
    if all { Ok(endpoints) } else { Err("each must have the form https://host:port") }
}

impl Config {
    /// Reads the configuration. `None` means that mistakes were noted.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.required("HIVE_LISTEN", str::parse);
        let store = StoreConfig::read(reader);
        let workload = reader.together(|lookup| WorkloadConfig::from_strings(lookup));
        let heartbeat_timeout =
            reader.or("HIVE_HEARTBEAT_TIMEOUT_MS", HEARTBEAT_TIMEOUT, config::milliseconds);
        let freeze_max = reader.or("HIVE_FREEZE_LIMIT_MS", FREEZE_MAX, config::milliseconds);
        let metrics_listen = reader.optional("HIVE_METRICS_LISTEN", str::parse);
        Some(Self {
            listen: listen?,
            store: store?,
            workload: workload?,
            heartbeat_timeout,
            freeze_max,
            metrics_listen,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let strings = [
            ("HIVE_LISTEN", "everywhere"),
            ("HIVE_HEARTBEAT_TIMEOUT_MS", "0"),
            ("HIVE_REGISTRY_STORE", "memory"),
            ("HIVE_DATA_DIR", "data"),
        ];
        let mistakes = config::read(&strings.as_slice(), Config::read).expect_err("five mistakes");
        assert_eq!(mistakes.len(), 5, "{mistakes}");
    }

    #[test]
    fn every_setting_of_the_workload_api_is_read_and_checked() {
        let read = |strings: &[(&str, &str)]| {
            let listen = [("HIVE_LISTEN", "127.0.0.1:0"), ("HIVE_DATA_DIR", "/var/lib/hive")];
            config::read(&[&listen, strings].concat().as_slice(), Config::read)
        };
        let before = [("SPIFFE_WORKLOAD_API_SOCKET", "unix:/run/spire.sock")];
        assert_eq!(read(&before).expect("enough").workload.endpoint, "unix:///run/spire.sock");
        let wrong = [("SPIFFE_ENDPOINT_SOCKET", "/run/spire.sock"), ("SPIFFE_TRUST_DOMAIN", "a b")];
        let mistakes = read(&wrong).expect_err("two mistakes");
        assert_eq!(mistakes.len(), 2, "{mistakes}");
        let text = mistakes.to_string();
        assert!(text.contains("SPIFFE_ENDPOINT_SOCKET is \"/run/spire.sock\": it must"), "{text}");
        assert!(text.contains("SPIFFE_TRUST_DOMAIN is \"a b\": "), "{text}");
    }
}
