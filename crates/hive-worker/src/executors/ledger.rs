//! The release ledger: one row in PostgreSQL for each release, written with a login that this ticket leased.

use crate::config::LedgerAddress;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

/// A repeated deploy finds its first row; who wrote it is what PostgreSQL says, not what the worker claims.
const INSERT: &str = "INSERT INTO releases (ticket_id, plan_id, release, digest, deployed_by) \
     VALUES ($1, $2, $3, $4, current_user) ON CONFLICT (ticket_id) DO NOTHING";

/// A leased login.
pub(super) struct Login {
    pub(super) username: SecretString,
    pub(super) password: SecretString,
}

/// One row.
pub(super) struct Entry {
    pub(super) ticket_id: String,
    pub(super) plan_id: String,
    pub(super) release: String,
    pub(super) digest: String,
}

/// Why the ledger has no row.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The message of the server is left out: it names the leased user.
    #[error("the ledger at {host} refused the leased login (SQLSTATE {code})")]
    Login { host: String, code: String },
    #[error("the ledger at {host} refused the row: {message} (SQLSTATE {code})")]
    Refused { host: String, message: String, code: String },
    #[error("the ledger at {host} cannot be reached: {source}")]
    Unreachable { host: String, source: sqlx::Error },
}

/// Writes the row, or finds it written.
pub(super) async fn record(
    address: &LedgerAddress,
    login: &Login,
    entry: &Entry,
) -> Result<(), Error> {
    let explain = |error| explain(address, error);
    let mut connection = options(address, login).connect().await.map_err(explain)?;
    let written = insert(&mut connection, entry).await.map_err(explain);
    // The row is committed or refused by now; a failed farewell changes neither.
    let _ = connection.close().await;
    written
}

async fn insert(connection: &mut PgConnection, entry: &Entry) -> Result<(), sqlx::Error> {
    let query = sqlx::query(INSERT)
        .bind(&entry.ticket_id)
        .bind(&entry.plan_id)
        .bind(&entry.release)
        .bind(&entry.digest);
    query.execute(connection).await.map(drop)
}

/// Nothing of this comes from the environment or from files.
fn options(address: &LedgerAddress, login: &Login) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&address.host)
        .port(address.port)
        .database(&address.database)
        .username(login.username.expose_secret())
        .password(login.password.expose_secret())
        .application_name("neural-hive-worker")
        .ssl_mode(if is_loopback(&address.host) {
            PgSslMode::Disable
        } else {
            PgSslMode::VerifyFull
        })
}

/// Only what never leaves this machine may go without TLS; a name could lead anywhere.
fn is_loopback(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn explain(address: &LedgerAddress, error: sqlx::Error) -> Error {
    let host = format!("{}:{}", address.host, address.port);
    let sqlx::Error::Database(refusal) = &error else {
        return Error::Unreachable { host, source: error };
    };
    let code = refusal.code().unwrap_or_default().into_owned();
    // Class 28: invalid authorization specification.
    if code.starts_with("28") {
        return Error::Login { host, code };
    }
    Error::Refused { host, message: refusal.message().to_owned(), code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_goes_without_tls() {
        assert!(is_loopback("127.0.0.1") && is_loopback("::1"));
        assert!(
            !is_loopback("localhost") && !is_loopback("10.0.0.1") && !is_loopback("db.example.org")
        );
    }
}
