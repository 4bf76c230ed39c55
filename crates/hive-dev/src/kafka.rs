//! A throw-away Kafka on loopback: one node that is broker and controller.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

pub use crate::server::Error;
use crate::server::{Server, free_ports, listens, make_directory, write_private};

/// A Java machine, an election, and the topics of the broker itself.
const START_DEADLINE: Duration = Duration::from_secs(90);
const FORMAT_DEADLINE: Duration = Duration::from_secs(60);

/// How to start a broker. `Debug` shows neither properties nor users, for there are passwords in them.
#[derive(Clone)]
pub struct Config {
    /// The directory with Kafka's archives.
    pub libraries: PathBuf,
    /// A directory of its own, which the caller removes.
    pub directory: PathBuf,
    /// Further lines of the broker's configuration, which outweigh ours.
    pub properties: Vec<String>,
    /// Where the keys are that tokens are verified with; with one, there is the listener `OAUTH`, whose clients
    /// authenticate with JWT-SVIDs for the audience `kafka`.
    pub jwks_url: Option<String>,
    /// Users that exist from the beginning, as `SCRAM-SHA-256=[name=admin,password=…]`; with one, there is the listener
    /// `SCRAM`.
    pub scram_users: Vec<String>,
}

/// A running broker. Stop it with [`stop`](Self::stop); dropping it kills it.
#[derive(Debug)]
pub struct Kafka {
    /// For clients that do not authenticate, such as whoever administers it: `127.0.0.1:<port>`.
    pub plain: String,
    /// For clients with a JWT-SVID.
    pub oauth: String,
    /// For clients with a name and a password.
    pub scram: String,
    server: Server,
}

impl Kafka {
    /// Formats the storage and starts the broker; it serves when this returns.
    pub async fn start(config: Config) -> Result<Self, Error> {
        make_directory(&config.directory)?;
        let ports: [u16; 4] = free_ports()
            .map_err(|source| Error::Directory { path: config.directory.clone(), source })?;
        let properties = config.directory.join("server.properties");
        write_private(&properties, &config.text(ports))?;
        config.format(&properties).await?;
        let mut arguments = vec!["-Xmx400m".into(), "-Xms128m".into(), "-XX:+UseSerialGC".into()];
        if let Some(url) = &config.jwks_url {
            arguments
                .push(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={url}").into());
        }
        arguments.extend(config.class("kafka.Kafka"));
        arguments.push(properties.into());
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let log = config.directory.join("kafka.log");
        let mut server = Server::start(Path::new("java"), &arguments, &[], &log)?;
        let [plain, oauth, scram, _] = ports;
        server.ready(START_DEADLINE, || has_started(&log, plain)).await?;
        let at = |port: u16| format!("127.0.0.1:{port}");
        Ok(Self { plain: at(plain), oauth: at(oauth), scram: at(scram), server })
    }

    /// Process id of the broker.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops it.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// Further lines that put TLS on the listener `OAUTH`. `identity` is a PEM file with a private key (PKCS #8) and the
/// certificates for it, the broker's own first.
pub fn tls_for_tokens(identity: &Path) -> Vec<String> {
    vec![
        PROTOCOLS.replace("OAUTH:SASL_PLAINTEXT", "OAUTH:SASL_SSL"),
        "listener.name.oauth.ssl.keystore.type=PEM".to_owned(),
        format!("listener.name.oauth.ssl.keystore.location={}", identity.display()),
    ]
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("directory", &self.directory)
            .field("jwks_url", &self.jwks_url)
            .finish_non_exhaustive()
    }
}

impl Config {
    fn class(&self, name: &str) -> [OsString; 3] {
        ["-cp".into(), self.libraries.join("*").into_os_string(), name.into()]
    }

    async fn format(&self, properties: &Path) -> Result<(), Error> {
        let java = PathBuf::from("java");
        let mut command = Command::new(&java);
        command.arg("-Xmx200m").args(self.class("kafka.tools.StorageTool"));
        command
            .args(["format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
            .arg(properties);
        for user in &self.scram_users {
            command.args(["--add-scram", user]);
        }
        let output = tokio::time::timeout(FORMAT_DEADLINE, command.kill_on_drop(true).output());
        let failed = |why: String| Error::NotStarted {
            program: java.clone(),
            why,
            log: self.directory.join("kafka.log"),
        };
        let output = output.await.map_err(|_| failed("formatting took too long".to_owned()))?;
        let output = output.map_err(|source| Error::Program { program: java.clone(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("formatting failed: {}", said.lines().last().unwrap_or_default())))
    }

    fn text(&self, [plain, oauth, scram, controller]: [u16; 4]) -> String {
        let mut names = vec![format!("PLAIN://127.0.0.1:{plain}")];
        if self.jwks_url.is_some() {
            names.push(format!("OAUTH://127.0.0.1:{oauth}"));
        }
        if !self.scram_users.is_empty() {
            names.push(format!("SCRAM://127.0.0.1:{scram}"));
        }
        let advertised = names.join(",");
        let mut text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAIN\n\
             listeners={advertised},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={advertised}\n\
             {PROTOCOLS}\n\
             log.dirs={}\n{SMALL}",
            self.directory.join("data").display()
        );
        if let Some(url) = &self.jwks_url {
            text.push_str(&OAUTH.replace("JWKS", url));
        }
        if !self.scram_users.is_empty() {
            text.push_str(SCRAM);
        }
        text.extend(self.properties.iter().map(|line| format!("{line}\n")));
        text
    }
}

const PROTOCOLS: &str = "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,OAUTH:SASL_PLAINTEXT,\
                         SCRAM:SASL_PLAINTEXT";

/// One node keeps one copy, and groups begin without waiting for members that will not come.
const SMALL: &str = "\
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
";

const OAUTH: &str = "\
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule \
required unsecuredLoginStringClaim_sub=\"broker\";
listener.name.oauth.oauthbearer.sasl.server.callback.handler.class=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.oauth.oauthbearer.sasl.oauthbearer.jwks.endpoint.url=JWKS
listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience=kafka
listener.name.oauth.oauthbearer.connections.max.reauth.ms=60000
";

const SCRAM: &str = "\
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.scram.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
";

/// The broker says so, and somebody listens.
async fn has_started(log: &Path, port: u16) -> bool {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.contains("Kafka Server started") && listens(port).await
}
