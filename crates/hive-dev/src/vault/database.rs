//! The database engine: real roles in a real PostgreSQL, dropped with their leases.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use zeroize::Zeroizing;

use super::core::Lease;
use super::engine::{Ask, Engine};
use super::fields;
use super::reply::{Fault, Reply};
use super::routes::Verb;
use super::setup::{Database, DatabaseRole};
use super::terms::Terms;
use super::{Error, clock, reply};

/// PostgreSQL takes DDL on roles one at a time anyway; a few connections keep renewals from waiting for revocations.
const CONNECTIONS_MAX: u32 = 4;
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// PostgreSQL cuts names off at 63 bytes; Vault's own names stay below it as well.
const ROLE_SHOWN_MAX: usize = 8;

/// A connected engine.
#[derive(Clone)]
pub(super) struct Databases {
    pool: PgPool,
    roles: BTreeMap<String, DatabaseRole>,
}

/// A login that is about to be created.
struct NewLogin {
    username: String,
    password: Zeroizing<String>,
}

impl Engine for Databases {
    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            match (ask.verb(), ask.below("creds/")) {
                (Verb::Read, Some(name)) => self.issue(&ask, name).await,
                (_, Some(_)) => Err(Fault::unsupported()),
                _ => Err(Fault::unsupported_path()),
            }
        }
        .boxed()
    }

    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        expires: SystemTime,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let (_, username) = login_of(lease);
            self.extend(username, expires).await.map_err(|failure| failure.to_string())
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let (role, username) = login_of(lease);
            self.drop_role(role, username).await.map_err(|failure| failure.to_string())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.pool.close().boxed()
    }
}

/// The role and the name of the login that a lease stands for.
fn login_of(lease: &Lease) -> (&str, &str) {
    let text = |member| fields::text(&lease.data, member).unwrap_or_default();
    (text("role"), text("username"))
}

/// PostgreSQL refused; its message may quote the statement, so only the code is kept.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failure(String);

impl Databases {
    pub(super) async fn connect(setup: Database) -> Result<Self, Error> {
        let failed = |why: Failure| Error::Database {
            host: setup.host.clone(),
            port: setup.port,
            why: why.0,
        };
        // A statement of ours holds a password, so none is logged.
        let options = PgConnectOptions::new_without_pgpass()
            .host(&setup.host)
            .port(setup.port)
            .database(&setup.database)
            .username(&setup.username)
            .password(setup.password.expose())
            .application_name("hive-dev-vault")
            .disable_statement_logging();
        let pool =
            PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(CONNECT_DEADLINE);
        let pool = pool.connect_with(options).await.map_err(|error| failed(error.into()))?;
        for statement in &setup.setup_statements {
            run(&pool, std::slice::from_ref(statement), &|text| text.to_owned())
                .await
                .map_err(failed)?;
        }
        Ok(Self { pool, roles: setup.roles })
    }

    /// `creds/<role>`: a new login and the lease it lives by.
    async fn issue(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let unknown = || Fault::new(400, format!("unknown role: {name}"));
        let role = self.roles.get(name).ok_or_else(unknown)?;
        let login = Self::new_login(name, ask.wall());
        ask.witness("db-password", &login.password).await?;
        let seconds = Duration::from_secs;
        let terms = Terms {
            ttl: seconds(role.default_ttl_s),
            max_ttl: seconds(role.max_ttl_s),
            renewable: true,
        };
        let data = json!({ "role": name, "username": login.username });
        let data = data.as_object().cloned().unwrap_or_else(Map::new);
        let (own, name) = (self.clone(), name.to_owned());
        let make = |expires| async move { own.make(&name, &login, expires).await };
        ask.lease(terms, data, make).await
    }

    async fn make(
        &self,
        role: &str,
        login: &NewLogin,
        expires: SystemTime,
    ) -> Result<Value, Fault> {
        let failed = |failure| Fault::listed(500, &format!("failed to create the role: {failure}"));
        self.create(role, login, expires).await.map_err(failed)?;
        Ok(json!({ "username": login.username, "password": login.password.as_str() }))
    }

    /// A fresh name and password, by Vault's pattern.
    fn new_login(role: &str, now: SystemTime) -> NewLogin {
        let shown: String = role
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .take(ROLE_SHOWN_MAX)
            .collect();
        let unix = clock::unix(now);
        let username = format!("v-jwt-{shown}-{}-{unix}", reply::random_text(20));
        NewLogin { username, password: Zeroizing::new(reply::random_text(24)) }
    }

    async fn create(
        &self,
        role: &str,
        login: &NewLogin,
        expires: SystemTime,
    ) -> Result<(), Failure> {
        let Some(role) = self.roles.get(role) else {
            return Err(Failure("the role is gone".to_owned()));
        };
        let expiration = clock::sql(expires);
        run(&self.pool, &role.creation_statements, &|text| {
            text.replace("{{name}}", &login.username)
                .replace("{{username}}", &login.username)
                .replace("{{password}}", &login.password)
                .replace("{{expiration}}", &expiration)
        })
        .await
    }

    async fn extend(&self, username: &str, expires: SystemTime) -> Result<(), Failure> {
        let statement =
            format!("ALTER ROLE {} VALID UNTIL '{}'", quoted(username), clock::sql(expires));
        run(&self.pool, &[statement], &|text| text.to_owned()).await
    }

    /// Cuts the role's sessions and drops it. A role that is gone already is no error.
    async fn drop_role(&self, role: &str, username: &str) -> Result<(), Failure> {
        let known = sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1").bind(username);
        if known.fetch_optional(&self.pool).await?.is_none() {
            return Ok(());
        }
        let name = quoted(username);
        // In this order: no new session, then no session, then no role.
        run(&self.pool, &[format!("ALTER ROLE {name} NOLOGIN")], &|text| text.to_owned()).await?;
        let cut = sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
        )
        .bind(username);
        cut.execute(&self.pool).await?;
        let own =
            self.roles.get(role).map(|role| role.revocation_statements.clone()).unwrap_or_default();
        let mut statements = own;
        if statements.is_empty() {
            // What the role made stays, and belongs to us from now on; what it was granted goes.
            statements.push(format!("REASSIGN OWNED BY {name} TO CURRENT_USER"));
            statements.push(format!("DROP OWNED BY {name}"));
        }
        statements.push(format!("DROP ROLE IF EXISTS {name}"));
        run(&self.pool, &statements, &|text| {
            text.replace("{{name}}", username).replace("{{username}}", username)
        })
        .await
    }
}

/// All statements in one transaction, each after its placeholders were filled in.
async fn run(
    pool: &PgPool,
    statements: &[String],
    fill: &(dyn Fn(&str) -> String + Sync),
) -> Result<(), Failure> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    for statement in statements {
        let text = Zeroizing::new(fill(statement));
        sqlx::raw_sql(AssertSqlSafe(text.as_str().to_owned())).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self(match error {
            sqlx::Error::Database(error) => {
                format!("PostgreSQL answered with error {}", error.code().unwrap_or_default())
            }
            sqlx::Error::Io(error) => format!("PostgreSQL cannot be reached: {}", error.kind()),
            sqlx::Error::PoolTimedOut => "PostgreSQL did not answer in time".to_owned(),
            _ => "the connection to PostgreSQL failed".to_owned(),
        })
    }
}
