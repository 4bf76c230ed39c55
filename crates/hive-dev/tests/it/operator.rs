//! Who configures a development vault over its API, with a token that may do everything.

use hive_dev::postgres::{self, Postgres, Programs};
use hive_dev::vault::{Setup, Vault};
use hive_dev::witness::Witness;
use hive_security::clock::Clock;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

const ROOT: &str = "the-root-token";

/// A vault that knows nothing yet, and its operator.
pub(crate) struct Operator {
    pub(crate) vault: Vault,
    http: reqwest::Client,
}

impl Operator {
    pub(crate) async fn start() -> Self {
        Self::start_with_clock(Clock::system()).await
    }

    pub(crate) async fn start_with_clock(clock: Clock) -> Self {
        let setup = Setup::danger_root(ROOT);
        let vault = Vault::start_with_clock(setup, Witness::none(), clock).await;
        Self { vault: vault.expect("it starts"), http: crate::fixture::plain_http() }
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Vec<u8>) {
        let method = http::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.vault.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.expect("it answers");
        let status = response.status().as_u16();
        (status, response.bytes().await.expect("a body").to_vec())
    }

    /// As somebody else, or as nobody.
    pub(crate) async fn call_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let headers: Vec<_> = token.map(|token| ("x-vault-token", token)).into_iter().collect();
        let (status, bytes) = self.raw(method, path, &headers, &body).await;
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(Some(ROOT), method, path, body).await
    }

    /// Where success is certain: the whole answer.
    pub(crate) async fn write(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, body).await;
        assert!(status < 300, "POST {path}: {status} {answer}");
        answer
    }

    pub(crate) async fn read(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, Value::Null).await;
        assert!(status < 300, "GET {path}: {status} {answer}");
        answer
    }

    /// The status and the first text of a refusal.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(method, path, body).await;
        (status, answer["errors"][0].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn wrapped(&self, path: &str, body: Value) -> Value {
        let headers = [("x-vault-token", ROOT), ("x-vault-wrap-ttl", "60s")];
        let (_, bytes) = self.raw("POST", path, &headers, &body).await;
        serde_json::from_slice(&bytes).expect("JSON")
    }

    pub(crate) async fn token_with(&self, rules: &str) -> String {
        self.write("sys/policies/acl/own", json!({ "policy": rules })).await;
        let made = self.write("auth/token/create", json!({ "policies": ["own"] })).await;
        made["auth"]["client_token"].as_str().expect("a token").to_owned()
    }
}

/// The real PostgreSQL: it is required.
pub(crate) async fn postgres(directory: &std::path::Path) -> Postgres {
    let programs = Programs::find().expect("PostgreSQL is installed");
    let config = postgres::Config { programs, directory: directory.to_owned(), launcher: None };
    Postgres::start(config).await.expect("PostgreSQL starts")
}

pub(crate) async fn connect(
    postgres: &Postgres,
    username: &str,
    password: &str,
) -> sqlx::Result<PgConnection> {
    postgres.server().username(username).password(password).connect().await
}

/// As the login that may do everything.
pub(crate) async fn run_as_root(postgres: &Postgres, sql: &str) {
    let mut root = connect(postgres, &postgres.username, postgres.password.expose_secret())
        .await
        .expect("the superuser");
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(&mut root).await.expect("it runs");
    root.close().await.expect("it closes");
}
