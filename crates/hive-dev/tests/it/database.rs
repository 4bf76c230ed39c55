//! Database logins: real roles in a real PostgreSQL, which live exactly as long as their leases.

use std::time::{Duration, Instant};

use hive_dev::postgres::Postgres;
use hive_security::vault::{Answer, VaultError};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use crate::fixture::{World, database, postgres, until};

/// PostgreSQL, and a vault that issues roles in it.
struct Stack {
    world: World,
    postgres: Postgres,
    _directory: tempfile::TempDir,
}

impl Stack {
    async fn start(test: &str, ttl_s: u64, max_ttl_s: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let postgres = postgres(test, &directory.path().join("pg")).await?;
        let world =
            World::start(|setup| setup.database = Some(database(&postgres, ttl_s, max_ttl_s)))
                .await;
        Some(Self { world, postgres, _directory: directory })
    }

    async fn issue(&self, token: &SecretString) -> Answer {
        self.world.client.read(token, "database/creds/ledger").await.expect("it is issued")
    }

    async fn log_in(&self, answer: &Answer) -> sqlx::Result<PgConnection> {
        let text = |name| answer.data.text(name).expect("a login has it");
        let options = self.postgres.server().username(text("username").expose_secret());
        options.password(text("password").expose_secret()).connect().await
    }

    async fn role_exists(&self, answer: &Answer) -> bool {
        let name = answer.data.text("username").expect("a login has it");
        let root = self.postgres.server().username(&self.postgres.username);
        let mut root = root
            .password(self.postgres.password.expose_secret())
            .connect()
            .await
            .expect("the superuser");
        let found =
            sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1").bind(name.expose_secret());
        found.fetch_optional(&mut root).await.expect("a query").is_some()
    }

    async fn stop(self) {
        self.world.vault.stop().await.expect("nothing is left");
        self.postgres.stop().await;
    }
}

#[tokio::test]
async fn a_role_works_during_its_lease_and_is_gone_after_the_token_is_revoked() {
    let test = "a_role_works_during_its_lease_and_is_gone_after_the_token_is_revoked";
    let Some(stack) = Stack::start(test, 600, 3600).await else { return };
    let token = stack.world.login("ticket-deploy").await;
    let answer = stack.issue(&token).await;
    let lease = answer.lease.clone().expect("a database login has a lease");
    assert!(lease.id.starts_with("database/creds/ledger/") && lease.renewable, "{lease:?}");
    let mut session = stack.log_in(&answer).await.expect("it logs in over TCP");
    sqlx::query("INSERT INTO ledger VALUES ('hello')")
        .execute(&mut session)
        .await
        .expect("it may write");
    let found = stack.world.client.lookup_lease(&token, &lease.id).await.expect("it is known");
    assert!(found.ttl > Duration::from_secs(590), "{found:?}");

    stack.world.client.revoke_self(&token).await.expect("it may");
    assert!(!stack.role_exists(&answer).await, "the role outlived its token");
    assert!(
        sqlx::query("SELECT 1").execute(&mut session).await.is_err(),
        "the session outlived the role"
    );
    assert!(stack.log_in(&answer).await.is_err());
    let audit = stack.world.audit_text();
    assert!(audit.contains(&lease.id) && audit.contains("lease_revoked"));
    assert!(!audit.contains(answer.data.text("password").expect("it has one").expose_secret()));
    stack.stop().await;
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_is_renewed_up_to_its_longest_life() {
    let test = "a_lease_ends_by_itself_and_is_renewed_up_to_its_longest_life";
    let Some(stack) = Stack::start(test, 2, 5).await else { return };
    let token = stack.world.login("ticket-deploy").await;
    let begun = Instant::now();
    let (left_alone, renewed) = (stack.issue(&token).await, stack.issue(&token).await);
    let id = &renewed.lease.as_ref().expect("a lease").id;
    let client = &stack.world.client;
    let renewal = client.renew_lease(&token, id, Duration::from_secs(60)).await.expect("it may");
    assert!(renewal.ttl <= Duration::from_secs(5) && !renewal.warnings.is_empty(), "{renewal:?}");

    until("the first role is gone", || async { !stack.role_exists(&left_alone).await }).await;
    let first = begun.elapsed();
    assert!(
        stack.role_exists(&renewed).await,
        "the renewed one went with the first after {first:?}"
    );
    assert!(stack.log_in(&renewed).await.is_ok(), "VALID UNTIL was not moved");
    until("the second role is gone", || async { !stack.role_exists(&renewed).await }).await;
    let second = begun.elapsed();
    assert!(
        first >= Duration::from_secs(2) && second >= Duration::from_millis(4900),
        "{first:?} {second:?}"
    );
    let gone = client.renew_lease(&token, id, Duration::from_secs(60)).await;
    assert!(matches!(gone, Err(VaultError::LeaseGone { .. })), "{gone:?}");
    stack.stop().await;
}

#[tokio::test]
async fn leases_end_with_a_token_that_expires_and_revocation_is_idempotent() {
    let test = "leases_end_with_a_token_that_expires_and_revocation_is_idempotent";
    let Some(stack) = Stack::start(test, 600, 3600).await else { return };
    let (brief, long) =
        (stack.world.login("brief").await, stack.world.login("ticket-deploy").await);
    let (with_token, by_hand) = (stack.issue(&brief).await, stack.issue(&long).await);
    let id = by_hand.lease.as_ref().expect("a lease").id.clone();
    for _ in 0..2 {
        stack.world.client.revoke_lease(&long, &id).await.expect("again is no error");
        assert!(!stack.role_exists(&by_hand).await);
    }
    until("the role of the expired token is gone", || async {
        !stack.role_exists(&with_token).await
    })
    .await;
    let unknown = stack.world.client.read(&long, "database/creds/unknown").await;
    assert!(matches!(unknown, Err(VaultError::NotFound { .. })), "{unknown:?}");
    stack.stop().await;
}

#[tokio::test]
async fn a_revocation_that_fails_leaves_the_lease_to_be_revoked_again_and_stopping_revokes_everything()
 {
    let test = "a_revocation_that_fails_leaves_the_lease_to_be_revoked_again_and_stopping_revokes_everything";
    let Some(stack) = Stack::start(test, 600, 3600).await else { return };
    let token = stack.world.login("ticket-deploy").await;
    let (stuck, other) = (stack.issue(&token).await, stack.issue(&token).await);
    let name = stuck.data.text("username").expect("a name").expose_secret().to_owned();
    let root = stack
        .postgres
        .server()
        .username(&stack.postgres.username)
        .password(stack.postgres.password.expose_secret());
    let mut root = root.connect().await.expect("the superuser");
    // What it owns in another database is out of reach for the engine, so the role cannot be dropped.
    sqlx::raw_sql("CREATE DATABASE elsewhere").execute(&mut root).await.expect("a database");
    let mut there =
        stack.postgres.server().database("elsewhere").username(&stack.postgres.username);
    there = there.password(stack.postgres.password.expose_secret());
    let mut there = there.connect().await.expect("the superuser");
    let make = format!("CREATE TABLE kept (n int); ALTER TABLE kept OWNER TO \"{name}\"");
    sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(&mut there).await.expect("a table");

    let id = stuck.lease.as_ref().expect("a lease").id.clone();
    let failed = stack.world.client.revoke_lease(&token, &id).await;
    assert!(failed.as_ref().is_err_and(VaultError::is_transient), "{failed:?}");
    assert!(
        stack.role_exists(&stuck).await && stack.log_in(&stuck).await.is_err(),
        "it must not log in any more"
    );
    sqlx::raw_sql("DROP TABLE kept").execute(&mut there).await.expect("a table");
    drop(there);
    stack.world.client.revoke_lease(&token, &id).await.expect("nothing is in the way");
    assert!(!stack.role_exists(&stuck).await);

    assert!(stack.role_exists(&other).await);
    let Stack { world, postgres, _directory } = stack;
    let World { vault, .. } = world;
    vault.stop().await.expect("nothing is left");
    let name = other.data.text("username").expect("a name");
    let found = sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1").bind(name.expose_secret());
    assert!(found.fetch_optional(&mut root).await.expect("a query").is_none());
    drop(root);
    postgres.stop().await;
}

#[tokio::test]
async fn a_cluster_lets_nobody_in_without_a_password_and_leaves_no_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let test = "a_cluster_lets_nobody_in_without_a_password_and_leaves_no_process";
    let begun = Instant::now();
    let Some(cluster) = postgres(test, &directory.path().join("pg")).await else { return };
    eprintln!("PostgreSQL answered after {:?}", begun.elapsed());
    let base =
        PgConnectOptions::new_without_pgpass().port(cluster.port).username(&cluster.username);
    let base = base.ssl_mode(PgSslMode::Disable).database("postgres");
    assert!(base.clone().host(&cluster.host).connect().await.is_err());
    assert!(base.clone().host(&cluster.host).password("wrong").connect().await.is_err());
    assert!(base.clone().socket(directory.path().join("pg/socket")).connect().await.is_err());
    let right = base.host(&cluster.host).password(cluster.password.expose_secret());
    let session = right.connect().await.expect("with the password it does");
    let pid = cluster.pid();
    cluster.stop().await;
    drop(session.close().await);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let log = std::fs::read_to_string(directory.path().join("pg/postgres.log")).expect("a log");
    assert!(!log.contains("PASSWORD") && !log.contains("ALTER ROLE"), "{log}");
}
