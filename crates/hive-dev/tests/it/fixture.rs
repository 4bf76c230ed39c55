//! A development vault with policies, roles and secrets, and one worker that may log in.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hive_dev::postgres::{self, Postgres, Programs};
use hive_dev::vault::{Database, DatabaseRole, JwtRole, PathRule, Sensitive, Setup, Vault};
use hive_dev::witness::Witness;
use hive_security::vault::{VaultClient, VaultConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::issuer::{Key, Keys, claims};

pub(crate) const WORKER: &str = "spiffe://hive.test/ns/neural-hive-execution/sa/worker-agents/one";
pub(crate) const AUDIENCE: &str = "vault.hive.test";

/// A vault, the authority it believes, and a client of it.
pub(crate) struct World {
    pub(crate) vault: Vault,
    pub(crate) client: VaultClient,
    pub(crate) key: Key,
    pub(crate) keys: Keys,
    pub(crate) audit: PathBuf,
    _directory: TempDir,
}

impl World {
    pub(crate) async fn start(change: impl FnOnce(&mut Setup)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = Key::new("one");
        let keys = Keys::serve(vec![key.jwk("jwt-svid")]).await;
        let mut setup = setup(&keys.url, directory.path());
        change(&mut setup);
        let audit = setup.audit_path.clone().expect("a log");
        let vault = Vault::start(setup, Witness::none()).await.expect("it starts");
        let client = client(&vault.address);
        Self { vault, client, key, keys, audit, _directory: directory }
    }

    pub(crate) async fn login(&self, role: &str) -> SecretString {
        let jwt = self.key.sign(&claims(WORKER, AUDIENCE));
        self.client.login(role, &jwt).await.expect("the worker may log in").token
    }

    pub(crate) fn audit_text(&self) -> String {
        std::fs::read_to_string(&self.audit).expect("there is an audit log")
    }

    /// A call that the client has no words for.
    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        token: Option<&SecretString>,
        body: Value,
    ) -> (u16, Value) {
        call(&self.vault.address, method, path, token, body).await
    }
}

/// A call that the client has no words for.
pub(crate) async fn call(
    address: &str,
    method: &str,
    path: &str,
    token: Option<&SecretString>,
    body: Value,
) -> (u16, Value) {
    let method = http::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = plain_http().request(method, format!("{address}/v1/{path}"));
    if let Some(token) = token {
        request = request.header("x-vault-token", token.expose_secret());
    }
    let response = request.json(&body).send().await.expect("it answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

pub(crate) fn plain_http() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().expect("a client")
}

pub(crate) fn client(address: &str) -> VaultClient {
    VaultClient::new(VaultConfig::at(address)).expect("a loopback address")
}

pub(crate) fn setup(jwks_url: &str, directory: &Path) -> Setup {
    let rule = |path: &str, capabilities: Value| -> PathRule {
        serde_json::from_value(json!({ "path": path, "capabilities": capabilities }))
            .expect("a rule")
    };
    let rules = vec![
        rule("secret/data/release", json!(["read"])),
        rule("secret/data/work/*", json!(["create", "read", "update", "delete"])),
        rule("secret/delete/work/*", json!(["update"])),
        rule("secret/metadata/*", json!(["list", "read"])),
        rule("secret/data/work/forbidden", json!(["deny"])),
        rule("database/creds/*", json!(["read"])),
        rule("nowhere/*", json!(["read"])),
        rule("sys/leases/revoke", json!(["update"])),
    ];
    let role = |ttl, max| JwtRole {
        bound_audiences: vec![AUDIENCE.to_owned()],
        bound_claims_sub_glob: "spiffe://hive.test/ns/neural-hive-execution/sa/worker-agents/*"
            .to_owned(),
        token_policies: vec!["worker".to_owned()],
        token_ttl_s: ttl,
        token_max_ttl_s: max,
    };
    let release = json!({ "signing_key": "s3cr3t-of-the-release" });
    let release = Sensitive::new(release.as_object().expect("an object").clone());
    Setup {
        listen: "127.0.0.1:0".parse().expect("an address"),
        tls: None,
        jwks_url: Some(jwks_url.to_owned()),
        policies: [("worker".to_owned(), rules)].into(),
        jwt_roles: [
            ("ticket-deploy".to_owned(), role(600, 3600)),
            ("brief".to_owned(), role(2, 5)),
        ]
        .into(),
        kv: [("secret".to_owned(), [("release".to_owned(), release)].into())].into(),
        database: None,
        audit_path: Some(directory.join("audit.jsonl")),
        danger_root_token: None,
    }
}

/// A PostgreSQL for one test, or None, reported by name, where there is none; in CI there must be one.
pub(crate) async fn postgres(test: &str, directory: &Path) -> Option<Postgres> {
    let Some(programs) = Programs::find() else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{test}: PostgreSQL is required where CI=true"
        );
        eprintln!("skipped: {test} (PostgreSQL is not installed)");
        return None;
    };
    let config = postgres::Config { programs, directory: directory.to_owned(), launcher: None };
    Some(Postgres::start(config).await.expect("PostgreSQL starts"))
}

pub(crate) fn database(postgres: &Postgres, ttl_s: u64, max_ttl_s: u64) -> Database {
    let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ledger_writer";
    let role = DatabaseRole {
        creation_statements: vec![create.to_owned()],
        revocation_statements: Vec::new(),
        default_ttl_s: ttl_s,
        max_ttl_s,
    };
    Database {
        setup_statements: vec![
            "CREATE TABLE ledger (entry text)".to_owned(),
            "CREATE ROLE ledger_writer NOLOGIN; GRANT SELECT, INSERT ON ledger TO ledger_writer"
                .to_owned(),
        ],
        roles: [("ledger".to_owned(), role)].into(),
        ..Database::within(postgres)
    }
}

/// Waits until it is so, ten seconds at most.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so().await {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
