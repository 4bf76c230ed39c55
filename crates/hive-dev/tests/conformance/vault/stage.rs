//! Both vaults, and what the calls of a script need: whatever it names is started.

use std::collections::BTreeMap;

use base64::Engine;
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::openbao::OpenBao;
use hive_dev::postgres::{self, Postgres, Programs};
use hive_dev::redis::Redis;
use hive_dev::tools;
use hive_dev::vault::{Setup, Tls, Vault};
use hive_dev::witness::Witness;
use hive_security::Audience;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;

use crate::kubernetes::{SERVICE_ACCOUNT, token_reviews};
use crate::member::Member;
use crate::vault::clients::Clients;
use crate::vault::recorder::Recorder;

pub(crate) const ROOT_TOKEN: &str = "s.root-of-the-development-vault";
/// For whom the tokens are that log in.
const AUDIENCE: &str = "vault.conformance.test";

/// Two vaults and their surroundings.
pub(crate) struct Stage {
    pub(crate) openbao: OpenBao,
    pub(crate) ours: Vault,
    /// What both are told.
    known: BTreeMap<String, String>,
    clients: Option<Clients>,
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    authority: Option<Authority>,
    directory: TempDir,
}

impl Stage {
    pub(crate) async fn set(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bao = tools::program("bao").expect("`cargo xtask real` puts OpenBao there");
        let place = directory.path().join("bao");
        let is_tls = script.contains("\n   present ");
        let openbao = match is_tls {
            true => OpenBao::dev_over_tls(&bao, &place).await,
            false => OpenBao::dev(&bao, &place).await,
        };
        let setup = Setup { tls: is_tls.then(Tls::default), ..Setup::danger_root(ROOT_TOKEN) };
        let ours = Vault::start(setup, Witness::none()).await;
        let mut stage = Self {
            openbao: openbao.expect("it starts"),
            ours: ours.expect("it starts"),
            known: BTreeMap::new(),
            clients: None,
            postgres: None,
            redis: None,
            authority: None,
            directory,
        };
        if script.contains("$postgres") {
            stage.start_postgres().await;
        }
        if script.contains("$redis") {
            stage.start_redis().await;
        }
        if script.contains("$jwt") {
            stage.start_authority().await;
        }
        if script.contains("$authority_pem") {
            let clients = Clients::make();
            stage.known.extend(clients.known.clone());
            stage.clients = Some(clients);
        }
        if script.contains("$kubernetes") {
            stage.know("kubernetes", &token_reviews(SERVICE_ACCOUNT).await);
            stage.know("service_account", SERVICE_ACCOUNT);
            stage.know("other_account", &SERVICE_ACCOUNT.replace(".AAAA", ".BBBB"));
        }
        if script.contains("$csr") {
            stage.know("csr", &signing_request());
        }
        stage
    }

    /// One for OpenBao and one for ours.
    pub(crate) fn recorders(&self) -> (Recorder, Recorder) {
        let known = |owner: &str| {
            let mut known = self.known.clone();
            for kind in ["admin", "fixed"] {
                known.insert(format!("postgres_{kind}"), format!("{kind}-of-{owner}"));
            }
            known
        };
        let root = SecretString::from(ROOT_TOKEN);
        let openbao =
            Recorder::new(&self.openbao.address, &self.openbao.root_token, known("openbao"));
        let (Some(clients), Some(ours)) = (&self.clients, &self.ours.tls) else {
            return (openbao, Recorder::new(&self.ours.address, &root, known("hive-dev")));
        };
        let ca_pem = |ca_pem: &Option<String>| ca_pem.clone().expect("it has made one");
        let ours_over_tls = Recorder::new(&ours.address, &root, known("hive-dev"));
        (
            openbao.over_tls(&ca_pem(&self.openbao.ca_pem), clients),
            ours_over_tls.over_tls(&ca_pem(&ours.ca_pem), clients),
        )
    }

    /// Stops everything; our vault has revoked everything when it is gone.
    pub(crate) async fn strike(self) {
        let stopped = self.ours.stop().await;
        self.openbao.stop().await;
        if let Some(redis) = self.redis {
            redis.stop().await;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
        if let Some(authority) = self.authority {
            authority.stop().await;
        }
        stopped.expect("nothing is left");
    }

    fn know(&mut self, name: &str, value: &str) {
        self.known.insert(name.to_owned(), value.to_owned());
    }

    /// Each vault has an administrator of its own, whose password it may change.
    async fn start_postgres(&mut self) {
        let programs = Programs::find().expect("PostgreSQL is installed");
        let directory = self.directory.path().join("pg");
        let config = postgres::Config { programs, directory, launcher: None };
        let postgres = Postgres::start(config).await.expect("PostgreSQL starts");
        let root = postgres.server().username(&postgres.username);
        let root = root.password(postgres.password.expose_secret());
        let mut session = root.connect().await.expect("a session");
        for owner in ["openbao", "hive-dev"] {
            let make = format!(
                "CREATE ROLE \"admin-of-{owner}\" SUPERUSER LOGIN PASSWORD 'first-password'; CREATE ROLE \"fixed-of-{owner}\" LOGIN"
            );
            sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut session).await.expect("a role");
        }
        self.know("postgres", &format!("{}:{}", postgres.host, postgres.port));
        self.postgres = Some(postgres);
    }

    async fn start_redis(&mut self) {
        let program = tools::program("redis-server").expect("`cargo xtask real` puts Redis there");
        let directory = self.directory.path().join("redis");
        let redis = Redis::start(&program, &directory).await.expect("Redis starts");
        self.know("redis_host", &redis.host);
        self.know("redis_port", &redis.port.to_string());
        self.know("redis_password", redis.password.expose_secret());
        self.redis = Some(redis);
    }

    /// An authority whose keys both are told of, and tokens of a workload there.
    async fn start_authority(&mut self) {
        let config = AuthorityConfig::new(self.directory.path().join("api.sock"));
        let authority = Authority::start(config).await.expect("it starts");
        let me = Entry::of_process("/ns/shop/sa/cart", std::process::id());
        authority.add_entry(me).expect("a good entry");
        let member = Member::attach(&authority.endpoint()).await;
        let token = async |audience: &str| {
            member.token(&Audience::parse(audience).expect("a good name")).await
        };
        let good = token(AUDIENCE).await;
        self.know("jwt_other_audience", &token("elsewhere.test").await);
        self.know("jwt_forged", &format!("{}AAAA", &good[..good.len() - 4]));
        self.know("jwt", &good);
        self.know("jwt_subject", &authority.spiffe_id("/ns/shop/sa/cart").expect("a good path"));
        self.know("jwks_url", &authority.keys_url());
        self.authority = Some(authority);
    }
}

/// Of a key that stays here.
fn signing_request() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut request = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    request.distinguished_name.push(rcgen::DnType::CommonName, "c.example.test");
    let request = request.serialize_request(&key).expect("a request");
    let text = base64::engine::general_purpose::STANDARD.encode(request.der());
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}
