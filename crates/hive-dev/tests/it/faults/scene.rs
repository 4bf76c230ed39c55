//! A stage before a real OpenBao, in real time. Each has a namespace of its own, so that many are played at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hive_dev::authority::Authority;
use hive_dev::openbao::OpenBao;
use hive_dev::proxy::Proxy;
use hive_dev::witness::Witness;
use hive_security::Workload;
use hive_security::adapters::sqlx::PgPoolHolder;
use hive_security::clock::Clock;
use hive_security::credentials::{Credentials, Error, Policy, Request, Settings};
use hive_security::vault::{LoginMethod, VaultClient, VaultConfig};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::load::{Load, Outcome};
use super::stage::Stage;
use super::world::{CREDENTIAL, Cluster, ROLE, Service, Terms, identity};
use crate::fixture;

/// Many are played at once on two cores.
const WORKERS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// What a service may do, and what OpenBao does for it.
pub(crate) struct Setting {
    /// The namespace.
    pub(crate) name: &'static str,
    pub(crate) terms: Terms,
    /// Policy of the service.
    pub(crate) policy: &'static str,
    /// How a login is dropped; as OpenBao does it, if nothing is said.
    pub(crate) revoke: &'static [&'static str],
    /// Where OpenBao reaches the database.
    pub(crate) database_port: u16,
}

/// Reads logins, and gives back what it borrowed.
pub(crate) const POLICY: &str = "path \"database/creds/*\" { capabilities = [\"read\"] }\n\
    path \"sys/leases/revoke\" { capabilities = [\"update\"] }";

impl Setting {
    /// A policy and times as they should be. Leases of half a minute are the shortest that are renewed.
    pub(crate) fn usual(name: &'static str, cluster: &Cluster) -> Self {
        let terms = Terms { lease_s: (30, 3600), token_s: (300, 3600) };
        Self { name, terms, policy: POLICY, revoke: &[], database_port: cluster.postgres.port }
    }
}

pub(crate) struct Scene<'a> {
    bao: &'a OpenBao,
    name: &'static str,
    proxy: Proxy,
    authority: Authority,
    workload: Workload,
    root: PgPool,
    server: PgConnectOptions,
    stop: CancellationToken,
    _directory: TempDir,
}

/// What an operator does, in a namespace or, without one, above all.
pub(crate) async fn operate(
    bao: &OpenBao,
    namespace: &str,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let path = if namespace.is_empty() { path.to_owned() } else { format!("{namespace}/{path}") };
    fixture::call(&bao.address, method, &path, Some(&bao.root_token), body).await
}

/// The mounts, the roles and the policy of one service.
pub(crate) async fn configure(bao: &OpenBao, cluster: &Cluster, keys_url: &str, setting: &Setting) {
    let postgres = &cluster.postgres;
    let Setting { name, terms, policy, revoke, database_port } = setting;
    let place = format!("{}:{database_port}/{}?sslmode=disable", postgres.host, postgres.database);
    let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ledger_writer";
    let seconds = |seconds: u64| format!("{seconds}s");
    for (path, body) in [
        ("sys/auth/jwt", json!({ "type": "jwt" })),
        ("auth/jwt/config", json!({ "jwks_url": keys_url })),
        ("sys/policies/acl/app", json!({ "policy": policy })),
        (
            &format!("auth/jwt/role/{ROLE}"),
            json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": fixture::AUDIENCE,
                "token_policies": "app", "token_ttl": seconds(terms.token_s.0),
                "token_max_ttl": seconds(terms.token_s.1) }),
        ),
        ("sys/mounts/database", json!({ "type": "database" })),
        (
            "database/config/ledger",
            json!({ "plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
                "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{place}"),
                "username_template": format!("v-{name}-{{{{random 20 | lowercase}}}}"),
                "username": postgres.username, "password": postgres.password.expose_secret() }),
        ),
        (
            "database/roles/ledger",
            json!({ "db_name": "ledger", "creation_statements": create, "revocation_statements": revoke,
                "default_ttl": seconds(terms.lease_s.0), "max_ttl": seconds(terms.lease_s.1) }),
        ),
    ] {
        let (status, answer) = operate(bao, name, "POST", path, body).await;
        assert!((200..300).contains(&status), "{name}: {path}: {status} {answer}");
    }
}

impl<'a> Scene<'a> {
    pub(crate) async fn set(bao: &'a OpenBao, cluster: &Cluster, setting: Setting) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (authority, workload, stop) = identity(directory.path(), Witness::none()).await;
        let made = format!("sys/namespaces/{}", setting.name);
        let (status, answer) = operate(bao, "", "POST", &made, json!({})).await;
        assert!((200..300).contains(&status), "{made}: {status} {answer}");
        configure(bao, cluster, &authority.keys_url(), &setting).await;
        let proxy = Proxy::before(&bao.address, Clock::system()).await.expect("it listens");
        let (root, server) = (cluster.administrator().await, cluster.postgres.server());
        let name = setting.name;
        Self { bao, name, proxy, authority, workload, root, server, stop, _directory: directory }
    }

    async fn open(&self, policy: Policy) -> Credentials {
        let namespace = Some(self.name.to_owned());
        let config = VaultConfig { namespace, ..VaultConfig::at(&self.proxy.address) };
        let vault = VaultClient::new(config).expect("a loopback address");
        let login = LoginMethod::JwtSvid { workload: self.workload.clone(), role: ROLE.to_owned() };
        let requests = vec![Request::read(CREDENTIAL, "database/creds/ledger")];
        let settings = Settings { policy, ..Settings::default() };
        Credentials::open(vault, login, requests, settings).await.expect("it opens")
    }

    /// Of the logins of this namespace. OpenBao ends those of a revoked token in the background.
    async fn nothing_is_left(&self) {
        let no_login = async || self.logins().await.is_empty();
        self.pass_until("no login is left", PATIENCE, no_login).await;
        let no_token = async || {
            let (status, answer) = self.operate("LIST", "auth/token/accessors", json!({})).await;
            status == 404 || answer["data"]["keys"].as_array().is_some_and(Vec::is_empty)
        };
        self.pass_until("no token is left", PATIENCE, no_token).await;
    }
}

impl Stage for Scene<'_> {
    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn authority(&self) -> &Authority {
        &self.authority
    }

    fn root(&self) -> &PgPool {
        &self.root
    }

    async fn serve(&self, policy: Policy) -> Service {
        let credentials = self.open(policy).await;
        let pool = PgPoolOptions::new().max_connections(3).acquire_timeout(PATIENCE);
        let pool = PgPoolHolder::new(pool, self.server.clone());
        let hold = credentials.hold(CREDENTIAL, Arc::new(pool.clone())).await.expect("it adopts");
        let load = Load::start(WORKERS, pool.clone());
        load.progress(20).await;
        Service { credentials, pool, load, _hold: hold }
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn pass_until(
        &self,
        what: &str,
        at_most: Duration,
        mut so: impl AsyncFnMut() -> bool,
    ) -> Duration {
        // What takes minutes by a clock that is turned has to take seconds here.
        let (begun, at_most) = (Instant::now(), at_most.min(PATIENCE));
        while !so().await {
            assert!(begun.elapsed() < at_most, "{}: not within {at_most:?}: {what}", self.name);
            tokio::time::sleep(LOOK).await;
        }
        begun.elapsed()
    }

    async fn operate(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        operate(self.bao, self.name, method, path, body).await
    }

    async fn limit_calls(&self, per_second: Option<u32>) -> bool {
        let path = format!("sys/quotas/rate-limit/{}", self.name);
        let method = per_second.map_or("DELETE", |_| "POST");
        let reach = format!("{}/", self.name);
        let quota = json!({ "rate": per_second, "interval": "1s", "path": reach });
        (200..300).contains(&operate(self.bao, "", method, &path, quota).await.0)
    }

    async fn logins(&self) -> Vec<String> {
        let asked = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE $1 ORDER BY 1";
        let like = format!("v-{}-%", self.name);
        sqlx::query_scalar(asked).bind(like).fetch_all(&self.root).await.expect("the roles")
    }

    async fn close(&self, service: Service) -> Outcome {
        let outcome = service.load.stop().await;
        self.close_credentials(service.credentials).await.expect("all is given back");
        service.pool.pool().close().await;
        self.nothing_is_left().await;
        outcome
    }

    async fn close_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        credentials.close(Duration::from_secs(5)).await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.root.close().await;
        self.authority.stop().await;
    }
}
