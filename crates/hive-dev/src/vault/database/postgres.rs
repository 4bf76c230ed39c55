//! PostgreSQL: roles that may log in.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{CONNECT_DEADLINE, Failure, NewLogin};
use crate::vault::setup::Database;
use crate::vault::{clock, fields};

/// PostgreSQL takes DDL on roles one at a time anyway; a few connections keep renewals from waiting for revocations.
const CONNECTIONS_MAX: usize = 4;
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// A server, and the connections to it that nobody uses just now. sqlx's own pool waits for a server that is away;
/// here that is an answer at once, as the real engine gives it.
pub(super) struct Postgres {
    options: Mutex<PgConnectOptions>,
    idle: Mutex<Vec<PgConnection>>,
    turns: Semaphore,
    /// The server is told what it keeps of a password, and not the password.
    hides: bool,
}

impl Postgres {
    pub(super) fn of_setup(setup: &Database) -> Self {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&setup.host)
            .port(setup.port)
            .database(&setup.database)
            .username(&setup.username)
            .password(setup.password.expose());
        Self::new(options)
    }

    /// As a configuration describes it.
    pub(super) fn of(details: &Map<String, Value>, password: &str) -> Result<Self, Failure> {
        let failed = |text: &str| Failure(text.to_owned());
        let url = fields::text(details, "connection_url").filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| failed("connection_url cannot be empty"))?;
        let is_template = url.contains("{{username}}");
        let plain = url.replace("{{username}}", "username").replace("{{password}}", "password");
        let options = PgConnectOptions::from_str(&plain)
            .map_err(|_| failed("connection_url cannot be parsed: write postgresql://{{username}}:{{password}}@host:port/database"))?;
        let username = fields::text(details, "username").unwrap_or_default();
        let hides = match fields::text(details, "password_authentication") {
            None | Some("" | "password") => false,
            Some("scram-sha-256") => true,
            Some(odd) => {
                return Err(Failure(format!(
                    "'{odd}' is not a valid password authentication type"
                )));
            }
        };
        let options =
            if is_template { options.username(username).password(password) } else { options };
        Ok(Self { hides, ..Self::new(options) })
    }

    /// A statement of ours holds a password, so none is logged.
    fn new(options: PgConnectOptions) -> Self {
        let options = options.application_name("hive-dev-vault").disable_statement_logging();
        Self {
            options: Mutex::new(options),
            idle: Mutex::default(),
            turns: Semaphore::new(CONNECTIONS_MAX),
            hides: false,
        }
    }

    /// A password as a statement has it.
    fn written(&self, password: &str) -> Zeroizing<String> {
        let hidden = || postgres_protocol::password::scram_sha_256(password.as_bytes());
        Zeroizing::new(if self.hides { hidden() } else { password.to_owned() })
    }

    fn options(&self) -> MutexGuard<'_, PgConnectOptions> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn use_password(&self, password: &str) {
        let mut options = self.options();
        *options = options.clone().password(password);
    }

    async fn connection(&self) -> Result<PgConnection, Failure> {
        loop {
            let Some(mut idle) = self.idle().pop() else { break };
            if matches!(timeout(PING_DEADLINE, idle.ping()).await, Ok(Ok(()))) {
                return Ok(idle);
            }
        }
        let options = self.options().clone();
        let connected = timeout(CONNECT_DEADLINE, options.connect()).await;
        let late = |_| Failure("PostgreSQL did not answer in time".to_owned());
        Ok(connected.map_err(late)??)
    }

    pub(super) async fn check(&self) -> Result<(), Failure> {
        let connection = self.connection().await?;
        self.idle().push(connection);
        Ok(())
    }

    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            let _ = timeout(PING_DEADLINE, connection.close()).await;
        }
    }

    /// All statements in one transaction, each after its placeholders were filled in.
    pub(super) async fn run(
        &self,
        statements: &[String],
        fill: &(dyn Fn(&str) -> String + Sync),
    ) -> Result<(), Failure> {
        let _turn = self.turns.acquire().await.map_err(|_| Failure("it is closed".to_owned()))?;
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin().await?;
        for statement in statements {
            let text = Zeroizing::new(fill(statement));
            let text = AssertSqlSafe(text.as_str().to_owned());
            sqlx::raw_sql(text).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        self.idle().push(connection);
        Ok(())
    }

    pub(super) async fn create(
        &self,
        login: &NewLogin,
        expires: SystemTime,
        statements: &[String],
    ) -> Result<(), Failure> {
        if statements.iter().all(|statement| statement.trim().is_empty()) {
            return Err(Failure("empty creation statements".to_owned()));
        }
        let (expiration, password) = (clock::sql(expires), self.written(&login.password));
        let fill = |text: &str| filled(text, &login.username, &password, &expiration);
        self.run(statements, &fill).await
    }

    pub(super) async fn extend(
        &self,
        username: &str,
        expires: SystemTime,
        statements: &[String],
    ) -> Result<(), Failure> {
        let usual = ["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'".to_owned()];
        let statements = if statements.is_empty() { usual.as_slice() } else { statements };
        let expiration = clock::sql(expires);
        self.run(statements, &|text| filled(text, username, "", &expiration)).await
    }

    pub(super) async fn set_password(
        &self,
        username: &str,
        password: &str,
        statements: &[String],
    ) -> Result<(), Failure> {
        let quoted = username.replace('"', "\"\"");
        let usual = [format!("ALTER ROLE \"{quoted}\" WITH PASSWORD '{{{{password}}}}'")];
        let statements = if statements.is_empty() { usual.as_slice() } else { statements };
        let password = self.written(password);
        self.run(statements, &|text| filled(text, username, &password, "")).await
    }

    /// Cuts the role's sessions and drops it. A role that is gone already is no error.
    pub(super) async fn drop_role(&self, username: &str, own: &[String]) -> Result<(), Failure> {
        if !self.knows(username).await? {
            return Ok(());
        }
        // In this order: no new session, then no session, then no role.
        let name = format!("\"{}\"", username.replace('"', "\"\""));
        let as_is = |text: &str| text.to_owned();
        self.run(&[format!("ALTER ROLE {name} NOLOGIN")], &as_is).await?;
        let literal = username.replace('\'', "''");
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{literal}'"
        );
        self.run(&[cut], &as_is).await?;
        let mut statements = own.to_vec();
        if statements.is_empty() {
            // What the role made stays, and belongs to us from now on; what it was granted goes.
            statements.push(format!("REASSIGN OWNED BY {name} TO CURRENT_USER"));
            statements.push(format!("DROP OWNED BY {name}"));
        }
        statements.push(format!("DROP ROLE IF EXISTS {name}"));
        self.run(&statements, &|text| filled(text, username, "", "")).await
    }

    async fn knows(&self, username: &str) -> Result<bool, Failure> {
        let _turn = self.turns.acquire().await.map_err(|_| Failure("it is closed".to_owned()))?;
        let mut connection = self.connection().await?;
        let known = sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1").bind(username);
        let known = known.fetch_optional(&mut connection).await?.is_some();
        self.idle().push(connection);
        Ok(known)
    }
}

fn filled(text: &str, username: &str, password: &str, expiration: &str) -> String {
    text.replace("{{name}}", username)
        .replace("{{username}}", username)
        .replace("{{password}}", password)
        .replace("{{expiration}}", expiration)
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self(match error {
            sqlx::Error::Database(error) => {
                format!("PostgreSQL answered with error {}", error.code().unwrap_or_default())
            }
            sqlx::Error::Io(error) => format!("PostgreSQL cannot be reached: {}", error.kind()),
            _ => "the connection to PostgreSQL failed".to_owned(),
        })
    }
}
