//! What a worker is told at its start.

use crate::sandbox::{Confinement, Launcher, Toolchain};
use hive_runtime::config::{Reader, absolute_path, text};
use hive_security::WorkloadConfig;
use hive_security::vault::VaultConfig;
use std::path::PathBuf;

/// The configuration of a worker. Nothing in it is secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HIVE_WORKER_NAME`: its name in the registry.
    pub name: String,
    /// `HIVE_WORKER_SLOTS`: how many tickets it executes at once, 1 to 64; 2 by default.
    pub slots: usize,
    /// The SPIFFE Workload API: `SPIFFE_ENDPOINT_SOCKET`, such as `unix:///run/spire/agent.sock`, and what else
    /// [`WorkloadConfig::from_strings`] reads.
    pub workload: WorkloadConfig,
    /// `VAULT_ADDR`, `VAULT_CACERT` (a PEM file, for `https://`) and `VAULT_NAMESPACE`: where leases come from.
    pub vault: VaultConfig,
    /// `HIVE_ORCHESTRATOR_ADDR`: where tickets come from.
    pub orchestrator_addr: String,
    /// `HIVE_REGISTRY_ADDR`: where it says that it is alive.
    pub registry_addr: String,
    /// `HIVE_DATA_DIR`: its own directory; tickets are executed below it.
    pub data_dir: PathBuf,
    /// `HIVE_ARTIFACTS_DIR`: the content-addressed store that all workers share.
    pub artifacts_dir: PathBuf,
    /// `XDG_RUNTIME_DIR`: where credential files go when `/dev/shm` cannot be used.
    pub runtime_dir: Option<PathBuf>,
    /// `HIVE_POSTGRES_ADDR`: `host:port/database` of the release ledger, where there is one.
    pub ledger: Option<LedgerAddress>,
    /// `HIVE_SANDBOX`: `landlock` (the default) or `rlimits-only`.
    pub confinement: Confinement,
    /// What starts a command inside the sandbox: `<this program> sandbox-exec` unless set otherwise.
    pub launcher: Launcher,
    /// Where `cargo` and `rustc` are: from `PATH`, `HOME`, `RUSTUP_HOME` and `RUSTUP_TOOLCHAIN`.
    pub toolchain: Toolchain,
}

impl Config {
    /// Reads the environment; what is wrong is noted in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let name = reader.required("HIVE_WORKER_NAME", text);
        let slots = reader.or("HIVE_WORKER_SLOTS", 2, slots);
        let workload = reader.together(|lookup| WorkloadConfig::from_strings(lookup));
        let vault = vault(reader);
        let orchestrator_addr = reader.required("HIVE_ORCHESTRATOR_ADDR", text);
        let registry_addr = reader.required("HIVE_REGISTRY_ADDR", text);
        let data_dir = reader.required("HIVE_DATA_DIR", absolute_path);
        let artifacts_dir = reader.required("HIVE_ARTIFACTS_DIR", absolute_path);
        let runtime_dir = reader.optional("XDG_RUNTIME_DIR", absolute_path);
        let ledger = reader.optional("HIVE_POSTGRES_ADDR", LedgerAddress::parse);
        let confinement = reader.or("HIVE_SANDBOX", Confinement::Landlock, Confinement::parse);
        let toolchain = toolchain(reader);
        let launcher = own_launcher(reader);
        Some(Self {
            name: name?,
            slots,
            workload: workload?,
            vault: vault?,
            orchestrator_addr: orchestrator_addr?,
            registry_addr: registry_addr?,
            data_dir: data_dir?,
            artifacts_dir: artifacts_dir?,
            runtime_dir,
            ledger,
            confinement,
            launcher: launcher?,
            toolchain,
        })
    }
}

/// By the names that Vault's and OpenBao's own command lines use.
fn vault(reader: &mut Reader<'_>) -> Option<VaultConfig> {
    let address = reader.required("VAULT_ADDR", text);
    let ca_pem = reader.optional("VAULT_CACERT", |path| std::fs::read_to_string(path));
    let namespace = reader.optional("VAULT_NAMESPACE", text);
    Some(VaultConfig { ca_pem, namespace, ..VaultConfig::at(address?) })
}

/// Where the release ledger is. The login is a lease, so it is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerAddress {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database that has the table `releases`.
    pub database: String,
}

impl LedgerAddress {
    /// Parses `host:port/database`.
    pub fn parse(value: &str) -> Result<Self, String> {
        let expected = || "expected host:port/database".to_owned();
        let (address, database) = value.split_once('/').ok_or_else(expected)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().map_err(|_| expected())?;
        if host.is_empty() || database.is_empty() {
            return Err(expected());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, database: database.to_owned() })
    }
}

/// Each slot is a sandboxed command with its own processes: more than 64 on one machine is a mistake.
fn slots(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(slots @ 1..=64) => Ok(slots),
        _ => Err("expected a number from 1 to 64".to_owned()),
    }
}

fn toolchain(reader: &mut Reader<'_>) -> Toolchain {
    let path = reader.optional("PATH", text).unwrap_or_default();
    let home = reader.optional("HOME", absolute_path);
    let rustup_home = reader
        .optional("RUSTUP_HOME", absolute_path)
        .or_else(|| home.as_ref().map(|home| home.join(".rustup")));
    let pinned = reader.optional("RUSTUP_TOOLCHAIN", text);
    Toolchain::find(&path, home.as_deref(), rustup_home, pinned)
}

fn own_launcher(reader: &mut Reader<'_>) -> Option<Launcher> {
    match std::env::current_exe() {
        Ok(program) => Some(Launcher::new(program, ["sandbox-exec"])),
        Err(error) => {
            reader.note("/proc/self/exe", &format!("cannot be read: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 8] = [
        ("HIVE_WORKER_NAME", "worker-1"),
        ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire.sock"),
        ("VAULT_ADDR", "http://127.0.0.1:8200"),
        ("HIVE_ORCHESTRATOR_ADDR", "https://127.0.0.1:1"),
        ("HIVE_REGISTRY_ADDR", "https://127.0.0.1:2"),
        ("HIVE_DATA_DIR", "/var/lib/hive"),
        ("HIVE_ARTIFACTS_DIR", "/var/lib/hive-artifacts"),
        ("HIVE_POSTGRES_ADDR", "127.0.0.1:5432/hive"),
    ];

    #[test]
    fn a_complete_environment_becomes_a_configuration() {
        let config =
            hive_runtime::config::read(&COMPLETE.as_slice(), Config::read).expect("complete");
        assert_eq!((config.slots, config.confinement), (2, Confinement::Landlock));
        let ledger = config.ledger.expect("an address was given");
        assert_eq!(
            (ledger.host.as_str(), ledger.port, ledger.database.as_str()),
            ("127.0.0.1", 5432, "hive")
        );
    }

    #[test]
    fn a_certificate_authority_that_cannot_be_read_is_a_mistake() {
        let mut environment = COMPLETE.to_vec();
        environment.push(("VAULT_CACERT", "/nowhere/ca.pem"));
        let mistakes = hive_runtime::config::read(&environment.as_slice(), Config::read);
        assert!(mistakes.is_err_and(|mistakes| mistakes.to_string().contains("/nowhere/ca.pem")));
    }

    #[test]
    fn every_mistake_of_the_environment_is_reported() {
        let environment =
            [("HIVE_WORKER_SLOTS", "0"), ("HIVE_SANDBOX", "none"), ("HIVE_POSTGRES_ADDR", "here")];
        let mistakes = hive_runtime::config::read(&environment.as_slice(), Config::read)
            .expect_err("ten mistakes");
        assert_eq!(mistakes.len(), 10, "{mistakes}");
    }
}
