//! Settings of the authority.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hive_runtime::config::{Reader, absolute_path};
use hive_security::TrustDomain;

use crate::witness::Witness;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// What an authority needs to start. [`AuthorityConfig::new`] fills in everything but the socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuthorityConfig {
    /// Where the Workload API listens.
    pub socket: PathBuf,
    /// Where the keys are served over HTTP; loopback only. Port 0 chooses a free one.
    pub keys_listen: SocketAddr,
    /// The trust domain's name; minted at start if absent.
    pub trust_domain: Option<String>,
    /// Who is told every secret that is issued.
    pub witness: Witness,
    /// How long an X.509-SVID lives, at least two seconds. Streams push a new one at half of it.
    pub x509_ttl: Duration,
    /// How long a JWT-SVID lives, at least two seconds.
    pub jwt_ttl: Duration,
    /// How long a signing key lives. It is rotated at half of its life, and must outlive what it signs twice over.
    pub authority_ttl: Duration,
    /// How long a new signing key is published before it signs anything, so that no verifier meets it unprepared. A
    /// bundle says to its followers that they shall ask three times in it; a SPIRE server asks once a minute at most.
    pub publish_ahead: Duration,
    /// Where the Workload API listens besides the socket, for clients that know `tcp:` endpoints only. Loopback only,
    /// off by default. Who connects is found by the kernel's table of connections; a process whose open files the
    /// authority may not list has no identity there.
    pub tcp_listen: Option<SocketAddr>,
    /// A SPIFFE bundle endpoint, if there shall be one.
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// The process whose children are registered one by one, if there is one: see [`crate::authority`].
    pub supervisor: Option<u32>,
}

/// A server from which other trust domains fetch this one's bundle (federation standard, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// Where it listens; loopback only. Port 0 chooses a free one.
    pub listen: SocketAddr,
    /// How its clients know it.
    pub profile: BundleProfile,
}

/// How the clients of a bundle endpoint know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleProfile {
    /// `https_spiffe`: by an X.509-SVID with this path.
    HttpsSpiffe {
        /// The path of the SPIFFE ID: `/…`.
        spiffe_path: String,
    },
    /// `https_web`: by the name `localhost` or a loopback address, and a certificate of
    /// [`Authority::web_authority_pem`](super::Authority::web_authority_pem).
    HttpsWeb,
}

impl BundleEndpoint {
    /// On a free port of loopback.
    pub fn new(profile: BundleProfile) -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), profile }
    }
}

impl AuthorityConfig {
    /// The defaults, with the Workload API at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            keys_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            trust_domain: None,
            witness: Witness::none(),
            x509_ttl: HOUR,
            jwt_ttl: Duration::from_secs(5 * 60),
            authority_ttl: 7 * 24 * HOUR,
            publish_ahead: Duration::from_secs(1),
            tcp_listen: None,
            bundle_endpoint: None,
            supervisor: None,
        }
    }

    /// Reads `HIVE_DEV_SOCKET`, `HIVE_DEV_KEYS_LISTEN`, `HIVE_DEV_TRUST_DOMAIN` and `HIVE_DEV_WITNESS`.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let socket = reader.required("HIVE_DEV_SOCKET", absolute_path);
        let unspecified = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let keys_listen = reader.or("HIVE_DEV_KEYS_LISTEN", unspecified, loopback);
        let trust_domain = reader.optional("HIVE_DEV_TRUST_DOMAIN", trust_domain);
        let witness = Witness::read(reader);
        Some(Self { keys_listen, trust_domain, witness, ..Self::new(socket?) })
    }

    /// The socket's directory.
    pub(super) fn directory(&self) -> &Path {
        self.socket.parent().unwrap_or_else(|| Path::new("/"))
    }
}

fn loopback(value: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = value.parse().map_err(|_| "expected ip:port".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("expected a loopback address".to_owned())
    }
}

fn trust_domain(value: &str) -> Result<String, hive_security::Error> {
    TrustDomain::parse(value).map(|name| name.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hive_runtime::config;

    fn read(strings: &[(&str, &str)]) -> Result<AuthorityConfig, config::Mistakes> {
        config::read(&strings, AuthorityConfig::read)
    }

    #[test]
    fn only_the_socket_is_required() {
        let config = read(&[("HIVE_DEV_SOCKET", "/run/hive/api.sock")]).expect("it is enough");
        assert_eq!(config.directory(), Path::new("/run/hive"));
        assert!(read(&[]).is_err());
    }

    #[test]
    fn every_mistake_is_reported() {
        let mistakes = read(&[
            ("HIVE_DEV_SOCKET", "api.sock"),
            ("HIVE_DEV_KEYS_LISTEN", "0.0.0.0:80"),
            ("HIVE_DEV_TRUST_DOMAIN", "Not/a domain"),
        ]);
        assert_eq!(mistakes.map(|_| ()).map_err(|mistakes| mistakes.len()), Err(3));
    }
}
