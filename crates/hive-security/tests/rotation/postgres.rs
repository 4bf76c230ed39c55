//! A real PostgreSQL with a ledger, and users who may write to it.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_dev::postgres::{Config, Postgres, Programs};
use hive_security::SecretJson;
use hive_security::credentials::Credential;
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tempfile::TempDir;

use crate::rotation::Users;

/// The server and its administrator.
pub(crate) struct Ledger {
    pub(crate) root: PgPool,
    postgres: Postgres,
    _directory: TempDir,
}

impl Ledger {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let programs = Programs::find().expect("PostgreSQL is installed (initdb and postgres)");
        let config = Config { programs, directory: directory.path().join("pg"), launcher: None };
        let postgres = Postgres::start(config).await.expect("PostgreSQL starts");
        let root = postgres.server().username(&postgres.username);
        let root = root.password(postgres.password.expose_secret());
        let root = PgPoolOptions::new().max_connections(4).connect_with(root).await;
        let ledger = Self { root: root.expect("it lets us in"), postgres, _directory: directory };
        ledger.run("CREATE TABLE entries (id bigserial, what text)").await;
        ledger.run("CREATE ROLE writers NOLOGIN").await;
        ledger.run("GRANT SELECT, INSERT ON entries TO writers").await;
        ledger.run("GRANT USAGE ON SEQUENCE entries_id_seq TO writers").await;
        ledger
    }

    /// The server, without a login.
    pub(crate) fn server(&self) -> PgConnectOptions {
        self.postgres.server()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.postgres.host, self.postgres.port)
    }

    /// Where it listens, for Vault.
    pub(crate) fn connection_url(&self) -> String {
        self.postgres.connection_url()
    }

    /// Its superuser, and that one's password.
    pub(crate) fn administrator(&self) -> (&str, &str) {
        (&self.postgres.username, self.postgres.password.expose_secret())
    }

    /// How many entries were written.
    pub(crate) async fn entries(&self) -> u64 {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM entries");
        count.fetch_one(&self.root).await.expect("a count").try_into().expect("not below zero")
    }

    /// Waits until all sessions are those of this user, or of the administrator: a session that was ended takes a moment.
    pub(crate) async fn only_sessions_of(&self, user: Option<&Credential>) {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hive' \
             AND usesysid <> 'hive'::regrole AND usename IS DISTINCT FROM $1";
        let name = user.map(username);
        let count = || sqlx::query_scalar::<_, i64>(asked).bind(&name).fetch_one(&self.root);
        let deadline = Instant::now() + Duration::from_secs(5);
        while count().await.expect("a count") > 0 {
            assert!(Instant::now() < deadline, "somebody keeps a session");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many sessions a user has.
    pub(crate) async fn sessions_of(&self, user: &str) -> i64 {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        let count = sqlx::query_scalar(asked).bind(user).fetch_one(&self.root);
        count.await.expect("a count")
    }

    /// The users whom the test or a vault created and nobody dropped.
    pub(crate) async fn users(&self) -> Vec<String> {
        let asked = "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^(u[0-9]|v-)' ORDER BY 1";
        sqlx::query_scalar(asked).fetch_all(&self.root).await.expect("the roles")
    }

    pub(crate) async fn run(&self, statement: &str) {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
        statement.execute(&self.root).await.expect("the administrator may do it");
    }

    pub(crate) async fn stop(self) {
        self.root.close().await;
        self.postgres.stop().await;
    }
}

impl Users for Ledger {
    async fn create(&self, generation: u64) -> Credential {
        let password = format!("p{:032x}", rand::random::<u128>());
        let (user, verifier) = (format!("u{generation}"), cheap_verifier(&password));
        self.run(&format!("CREATE ROLE {user} LOGIN PASSWORD '{verifier}' IN ROLE writers")).await;
        let data = SecretJson::new(json!({ "username": user, "password": password }));
        Credential::new("ledger", generation, data)
    }

    async fn revoke(&self, credential: &Credential) {
        self.run(&format!("DROP ROLE {}", username(credential))).await;
    }
}

pub(crate) fn username(credential: &Credential) -> String {
    credential.field("username").expect("it has one").expose_secret().to_owned()
}

/// What PostgreSQL keeps of a password (RFC 5803), with one iteration instead of 4096: a test logs in hundreds of times,
/// and unoptimised code spends most of its time on that.
fn cheap_verifier(password: &str) -> String {
    let salt: [u8; 16] = rand::random();
    let mut salted = [0; 32];
    let (algorithm, once) = (pbkdf2::PBKDF2_HMAC_SHA256, NonZeroU32::MIN);
    pbkdf2::derive(algorithm, once, &salt, password.as_bytes(), &mut salted);
    let key = |name: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salted), name);
    let stored = digest::digest(&digest::SHA256, key(b"Client Key").as_ref());
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    let server = text(key(b"Server Key").as_ref());
    format!("SCRAM-SHA-256$1:{}${}:{server}", text(&salt), text(stored.as_ref()))
}
