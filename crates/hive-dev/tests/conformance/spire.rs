//! A real SPIRE: a server and one agent on this machine, in a directory of their own.

mod config;
mod process;

use std::path::PathBuf;

use hive_dev::authority::KeyKind;
use hive_security::TrustDomain;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::domain::{Domain, Entry};
use crate::waiting::until;
use process::{Process, free_port};

pub(crate) use process::{find, run};

/// What the agent is known as, besides the name that its join token gives it.
const NODE: &str = "node";

pub(crate) struct Spire {
    trust_domain: TrustDomain,
    agent: Option<Process>,
    _server: Process,
    bundle_port: u16,
    directory: TempDir,
}

impl Spire {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn id(&self, path: &str) -> String {
        format!("spiffe://{}/{}", self.trust_domain, path.trim_start_matches('/'))
    }

    /// An order to the server, and its answer.
    async fn order(&self, arguments: &[&str]) -> Value {
        let json = [arguments, &["-output", "json"]].concat();
        let answer = self.say(&json).await;
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{arguments:?}: {answer}"))
    }

    async fn say(&self, arguments: &[&str]) -> String {
        let socket = self.path("server.sock");
        let socket = socket.to_str().expect("temporary directories have plain names");
        let answer = run("spire-server", &[arguments, &["-socketPath", socket]].concat()).await;
        answer.unwrap_or_else(|error| {
            panic!("spire-server {arguments:?}: {error}\n{}", process::logs(self.directory.path()))
        })
    }

    /// `localauthority`, for the keys of this kind.
    async fn keys(&self, kind: KeyKind, arguments: &[&str]) -> Value {
        let kind = if kind == KeyKind::Jwt { "jwt" } else { "x509" };
        self.order(&[&["localauthority", kind], arguments].concat()).await
    }

    async fn start_agent(&mut self, join_token: Option<&str>) {
        let config = self.path("agent.conf");
        let config = config.to_str().expect("temporary directories have plain names");
        let mut arguments = vec!["run", "-config", config];
        arguments.extend(join_token.iter().flat_map(|token| ["-joinToken", token]));
        self.agent = Some(Process::start("spire-agent", &arguments, &self.path("agent.log")));
        let socket = self.path("agent.sock");
        until("the agent serves", async || UnixStream::connect(&socket).await.is_ok()).await;
    }

    /// Whether the agent's log names this key.
    fn agent_said(&self, key: &str) -> bool {
        let log = std::fs::read(self.path("agent.log")).expect("a log");
        String::from_utf8_lossy(&log).contains(key)
    }

    /// The serial number of the agent's own X.509-SVID.
    async fn agent_serial(&self) -> String {
        let agents = self.order(&["agent", "list"]).await;
        agents["agents"][0]["x509svid_serial_number"].as_str().expect("one agent").to_owned()
    }
}

impl Domain for Spire {
    type EntryId = String;

    async fn start(trust_domain: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, bundle_port) = (free_port(), free_port());
        config::write(directory.path(), trust_domain, port, bundle_port);
        let config = directory.path().join("server.conf");
        let arguments = ["run", "-config", config.to_str().expect("a plain name")];
        let log = directory.path().join("server.log");
        let server = Process::start("spire-server", &arguments, &log);
        let socket = directory.path().join("server.sock");
        let healthy = ["healthcheck", "-socketPath", socket.to_str().expect("a plain name")];
        until("the server serves", async || run("spire-server", &healthy).await.is_ok()).await;
        let trust_domain = TrustDomain::parse(trust_domain).expect("a good name");
        let mut spire = Self { trust_domain, agent: None, _server: server, bundle_port, directory };
        let node = spire.id(NODE);
        let token = spire.order(&["token", "generate", "-spiffeID", &node]).await;
        spire.start_agent(token["value"].as_str()).await;
        spire
    }

    fn trust_domain(&self) -> TrustDomain {
        self.trust_domain.clone()
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.path("agent.sock").display())
    }

    async fn add(&self, entry: &Entry) -> String {
        let (id, parent) = (self.id(&entry.path), self.id(NODE));
        let selector = format!("unix:path:{}", entry.executable.display());
        let (x509, jwt) = (entry.x509_ttl_s.to_string(), entry.jwt_ttl_s.to_string());
        let others: Vec<String> =
            entry.federates_with.iter().map(|other| format!("spiffe://{other}")).collect();
        let mut arguments = vec!["entry", "create", "-parentID", &parent, "-spiffeID", &id];
        arguments.extend(["-selector", &selector, "-hint", &entry.hint]);
        arguments.extend(["-x509SVIDTTL", &x509, "-jwtSVIDTTL", &jwt]);
        arguments.extend(entry.dns_names.iter().flat_map(|name| ["-dns", name]));
        arguments.extend(others.iter().flat_map(|other| ["-federatesWith", other]));
        let made = self.order(&arguments).await;
        made["results"][0]["entry"]["id"].as_str().expect("it is made").to_owned()
    }

    async fn delete(&self, entry: &String) {
        self.order(&["entry", "delete", "-entryID", entry]).await;
    }

    async fn active(&self, kind: KeyKind) -> String {
        let keys = self.keys(kind, &["show"]).await;
        keys["active"]["authority_id"].as_str().expect("one signs").to_owned()
    }

    async fn prepare(&self, kind: KeyKind) -> String {
        let prepared = self.keys(kind, &["prepare"]).await;
        prepared["prepared_authority"]["authority_id"].as_str().expect("it is new").to_owned()
    }

    async fn activate(&self, kind: KeyKind, key: &str) {
        self.keys(kind, &["activate", "-authorityID", key]).await;
    }

    /// An agent that has not noticed by the time of the revocation hands out tokens of the revoked key until they are
    /// half as old as they get, or is cut off, if its own X.509-SVID is of the revoked authority.
    async fn taint(&self, kind: KeyKind, key: &str) {
        let before = self.agent_serial().await;
        self.keys(kind, &["taint", "-authorityID", key]).await;
        match kind {
            KeyKind::Jwt => until("the agent has noticed", async || self.agent_said(key)).await,
            KeyKind::X509 => {
                let replaced = async || self.agent_serial().await != before;
                until("the agent has replaced its own X.509-SVID", replaced).await;
            }
        }
    }

    async fn revoke(&self, kind: KeyKind, key: &str) {
        self.keys(kind, &["revoke", "-authorityID", key]).await;
    }

    async fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// A join token is good once; the agent keeps what it got for it.
    async fn restart_agent(&mut self) {
        self.start_agent(None).await;
    }

    async fn bundle_document(&self) -> String {
        self.say(&["bundle", "show", "-format", "spiffe"]).await
    }

    fn bundle_endpoint(&self) -> (String, String) {
        (format!("https://127.0.0.1:{}", self.bundle_port), self.id("spire/server"))
    }

    async fn federate(&self, other: &impl Domain) {
        let (name, document) = (other.trust_domain(), other.bundle_document().await);
        let file = self.path("other.json");
        std::fs::write(&file, document).expect("a file");
        let (url, endpoint_id) = other.bundle_endpoint();
        let file = file.to_str().expect("a plain name");
        let whom = ["-trustDomain", name.as_str(), "-bundleEndpointURL", &url];
        let how = ["-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", &endpoint_id];
        let first = ["-trustDomainBundleFormat", "spiffe", "-trustDomainBundlePath", file];
        let order = [&["federation", "create"][..], &whom, &how, &first].concat();
        let made = self.order(&order).await;
        assert_eq!(made["results"][0]["status"]["code"], 0, "{made}");
    }

    async fn refresh(&self, other: &impl Domain) {
        let id = format!("spiffe://{}", other.trust_domain());
        self.order(&["federation", "refresh", "-id", &id]).await;
    }
}
