//! A real OpenBao that issues logins of a real PostgreSQL and a real Redis to a workload of our authority, and a real Kafka
//! that takes this workload's tokens.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::kafka::{Config, Kafka};
use hive_dev::openbao::OpenBao;
use hive_dev::tools::kafka_libraries;
use hive_security::credentials::{Credentials, Policy, Request, Settings};
use hive_security::vault::{LoginMethod, VaultClient, VaultConfig};
use hive_security::{Workload, WorkloadConfig};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::postgres::Ledger;
use crate::redis_server::Cache;

pub(crate) const ROLE: &str = "app";
const TRUST_DOMAIN: &str = "rotation.test";
const DEADLINE: Duration = Duration::from_secs(60);
/// librdkafka shows a token until 80 % of its life are over, and Kafka ends a session with its token but refuses whoever
/// proves himself again within a second: a token has to have more than that left.
const TOKEN_TTL: Duration = Duration::from_secs(20);
/// Keys are retired when the last document of theirs has expired, so this bounds how many a bundle has.
const SVID_TTL: Duration = Duration::from_secs(30);
/// Kafka asks for the keys twice a second.
const PUBLISH_AHEAD: Duration = Duration::from_secs(2);
const KAFKA_SESSION_MS: u64 = 2_000;
const POLICY: &str = "path \"database/creds/*\" { capabilities = [\"read\"] }\n\
    path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n";
pub(crate) const POSTGRES_CREATES: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE writers;";
const REDIS_CREATES: &str = r#"["~*","&*","+@all","-@dangerous","+client|list","+client|kill"]"#;

/// All servers, and the workload that is this process.
pub(crate) struct World {
    pub(crate) bao: OpenBao,
    pub(crate) ledger: Ledger,
    pub(crate) cache: Cache,
    pub(crate) kafka: Kafka,
    pub(crate) authority: Arc<Authority>,
    pub(crate) workload: Workload,
    program: PathBuf,
    stop: CancellationToken,
    directory: TempDir,
}

impl World {
    /// `durable`: OpenBao survives a restart.
    pub(crate) async fn start(durable: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Arc::new(authority(&directory).await);
        let attach = WorkloadConfig::new(authority.endpoint(), DEADLINE);
        let (workload, upkeep) = Workload::attach(attach).await.expect("an identity");
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        let program = hive_dev::tools::program("bao").expect("`cargo xtask real` has made bao");
        let storage = directory.path().join("bao");
        let bao = if durable {
            OpenBao::durable(&program, &storage).await
        } else {
            OpenBao::dev(&program, &storage).await
        };
        let (ledger, cache) = (Ledger::start().await, Cache::start().await);
        let kafka = kafka(&authority, &directory).await;
        let bao = bao.expect("OpenBao starts");
        let world =
            Self { bao, ledger, cache, kafka, authority, workload, program, stop, directory };
        world.configure().await;
        world
    }

    pub(crate) fn login(&self) -> LoginMethod {
        LoginMethod::JwtSvid { workload: self.workload.clone(), role: ROLE.to_owned() }
    }

    /// Logins of both databases, from Vault at this address.
    pub(crate) async fn open(&self, address: &str) -> Credentials {
        let vault = VaultClient::new(VaultConfig::at(address)).expect("a client");
        let requests = vec![
            Request::read("ledger", "database/creds/ledger"),
            Request::read("cache", "database/creds/cache"),
        ];
        // Transactions outlast rotations here, so several old epochs are used at a time.
        let policy = Policy::default().overlap(Duration::from_secs(20)).overlaps_max(6);
        let settings =
            Settings { policy: policy.expect("it is above zero"), ..Settings::default() };
        let opened = Credentials::open(vault, self.login(), requests, settings).await;
        opened.expect("it opens")
    }

    async fn configure(&self) {
        self.bao(&["auth", "enable", "jwt"]).await;
        let keys = format!("jwks_url={}", self.authority.keys_url());
        self.bao(&["write", "auth/jwt/config", &keys]).await;
        let policy = self.directory.path().join("policy.hcl");
        std::fs::write(&policy, POLICY).expect("it is written");
        self.bao(&["policy", "write", "app", policy.to_str().expect("text")]).await;
        let audience = format!("bound_audiences=vault.{TRUST_DOMAIN}");
        let role = ["role_type=jwt", "user_claim=sub", "token_policies=app", "token_ttl=600s"];
        let role = [&["write", "auth/jwt/role/app", &audience][..], &role].concat();
        self.bao(&role).await;
        self.bao(&["secrets", "enable", "database"]).await;
        self.configure_postgres().await;
        self.configure_redis().await;
    }

    async fn configure_postgres(&self) {
        let url = format!("connection_url={}", self.ledger.connection_url());
        let (username, password) = self.ledger.administrator();
        let (username, password) = (format!("username={username}"), format!("password={password}"));
        let plugin = "plugin_name=postgresql-database-plugin";
        let config = ["write", "database/config/ledger", plugin, "allowed_roles=*", &url];
        self.bao(&[&config[..], &[&username, &password]].concat()).await;
        let creates = format!("creation_statements={POSTGRES_CREATES}");
        let role = ["write", "database/roles/ledger", "db_name=ledger", &creates];
        self.bao(&[&role[..], &["default_ttl=300s", "max_ttl=3600s"]].concat()).await;
    }

    async fn configure_redis(&self) {
        let (host, port, username, password) = self.cache.administrator();
        let (host, port) = (format!("host={host}"), format!("port={port}"));
        let (username, password) = (format!("username={username}"), format!("password={password}"));
        let plugin = "plugin_name=valkey-database-plugin";
        let config = ["write", "database/config/cache", plugin, "allowed_roles=*", &host, &port];
        self.bao(&[&config[..], &[&username, &password]].concat()).await;
        let creates = format!("creation_statements={REDIS_CREATES}");
        let role = ["write", "database/roles/cache", "db_name=cache", &creates];
        self.bao(&[&role[..], &["default_ttl=300s", "max_ttl=3600s"]].concat()).await;
    }

    /// How many leases of this role OpenBao still has.
    async fn open_leases(&self, role: &str) -> usize {
        let path = format!("sys/leases/lookup/database/creds/{role}");
        let listed = self.output(&["list", "-format=json", &path]).await;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        serde_json::from_str::<Vec<String>>(&text).map_or(0, |leases| leases.len())
    }

    /// What is there that nobody needs any more: roles, users, leases. It waits until there is nothing, for 10 s.
    pub(crate) async fn left(&self) -> [usize; 3] {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (roles, users) = (self.ledger.users().await, self.cache.users().await);
            let leases = self.open_leases("ledger").await + self.open_leases("cache").await;
            let left = [roles.len(), users.len(), leases];
            if left == [0; 3] || Instant::now() > deadline {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The command line of OpenBao, with the rights of its administrator.
    pub(crate) async fn bao(&self, arguments: &[&str]) {
        let output = self.output(arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bao {}: {said}", arguments[..2].join(" "));
    }

    async fn output(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("BAO_ADDR", &self.bao.address);
        command.env("BAO_TOKEN", self.bao.root_token.expose_secret()).stdin(Stdio::null());
        command.kill_on_drop(true).output().await.expect("bao runs")
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ledger.stop().await;
        self.cache.stop().await;
        self.kafka.stop().await;
        self.bao.stop().await;
    }
}

async fn authority(directory: &TempDir) -> Authority {
    let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
    config.trust_domain = Some(TRUST_DOMAIN.to_owned());
    (config.jwt_ttl, config.x509_ttl) = (TOKEN_TTL, SVID_TTL);
    config.publish_ahead = PUBLISH_AHEAD;
    let authority = Authority::start(config).await.expect("it starts");
    let me = Entry::of_process("/ns/shop/sa/app", std::process::id());
    authority.add_entry(me).expect("an entry");
    authority
}

async fn kafka(authority: &Authority, directory: &TempDir) -> Kafka {
    let oauth = |property| format!("listener.name.oauth.oauthbearer.{property}");
    let config = Config {
        libraries: kafka_libraries().expect("`cargo xtask real` puts Kafka there"),
        directory: directory.path().join("kafka"),
        properties: vec![
            oauth(format!("connections.max.reauth.ms={KAFKA_SESSION_MS}")),
            oauth("sasl.oauthbearer.jwks.endpoint.refresh.ms=500".to_owned()),
        ],
        jwks_url: Some(authority.keys_url()),
        scram_users: Vec::new(),
    };
    Kafka::start(config).await.expect("Kafka starts")
}
