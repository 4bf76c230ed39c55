//! The database engine as an operator configures it, over the API, with a real PostgreSQL.

use std::time::{Duration, Instant};

use hive_dev::postgres::Postgres;
use hive_security::clock::Clock;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::fixture::until;
use crate::operator::{Operator, connect, postgres, run_as_root};

const CREATE: &str =
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

fn config(postgres: &Postgres) -> Value {
    json!({
        "plugin_name": "postgresql-database-plugin",
        "connection_url": postgres.connection_url(),
        "username": postgres.username,
        "password": postgres.password.expose_secret(),
        "allowed_roles": ["app", "app-*", "static"],
    })
}

async fn with_database(clock: Clock, postgres: &Postgres) -> Operator {
    let operator = Operator::start_with_clock(clock).await;
    operator.write("sys/mounts/database", json!({ "type": "database" })).await;
    operator.write("database/config/pg", config(postgres)).await;
    operator
}

fn pair(answer: &Value) -> (String, String) {
    let text = |member: &str| answer["data"][member].as_str().expect("text").to_owned();
    (text("username"), text("password"))
}

async fn knows(postgres: &Postgres, role: &str) -> bool {
    let root = connect(postgres, &postgres.username, postgres.password.expose_secret()).await;
    let known = sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1").bind(role);
    known.fetch_optional(&mut root.expect("the superuser")).await.expect("it answers").is_some()
}

#[tokio::test]
async fn a_role_over_the_api_issues_logins_that_end_with_their_lease() {
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = postgres(&directory.path().join("pg")).await;
    let operator = with_database(Clock::system(), &postgres).await;
    let shown = operator.read("database/config/pg").await;
    let secret = postgres.password.expose_secret();
    assert!(!shown.to_string().contains(secret), "the password is never shown");
    assert_eq!(shown["data"]["connection_details"]["username"], postgres.username);
    let role = json!({ "db_name": "pg", "creation_statements": CREATE, "default_ttl": "1h", "max_ttl": 7200 });
    operator.write("database/roles/app", role).await;
    let shown = operator.read("database/roles/app").await["data"].clone();
    assert_eq!((&shown["default_ttl"], &shown["max_ttl"]), (&json!(3600), &json!(7200)));
    let issued = operator.read("database/creds/app").await;
    assert_eq!((&issued["lease_duration"], &issued["renewable"]), (&json!(3600), &json!(true)));
    let (username, password) = pair(&issued);
    assert!(
        username.starts_with("v-root-app-") || username.starts_with("v-token-app-"),
        "{username}"
    );
    connect(&postgres, &username, &password).await.expect("it is a login");
    let body = json!({ "lease_id": issued["lease_id"], "sync": true });
    operator.write("sys/leases/revoke", body).await;
    assert!(connect(&postgres, &username, &password).await.is_err());
    assert!(!knows(&postgres, &username).await, "the role is dropped, not only shut out");
    operator.vault.stop().await.expect("nothing is left");
    postgres.stop().await;
}

#[tokio::test]
async fn the_database_is_told_what_it_keeps_of_a_password_and_not_the_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = postgres(&directory.path().join("pg")).await;
    run_as_root(&postgres, "CREATE TABLE told (text text)").await;
    let operator = with_database(Clock::system(), &postgres).await;
    let mut hiding = config(&postgres);
    hiding["password_authentication"] = json!("scram-sha-256");
    operator.write("database/config/pg", hiding).await;
    let tell = "INSERT INTO told VALUES ('{{password}}')";
    let role = json!({ "db_name": "pg", "creation_statements": [CREATE, tell] });
    operator.write("database/roles/app", role).await;
    let (username, password) = pair(&operator.read("database/creds/app").await);
    connect(&postgres, &username, &password).await.expect("it is a login");
    let root = connect(&postgres, &postgres.username, postgres.password.expose_secret()).await;
    let told = sqlx::query_scalar::<_, String>("SELECT text FROM told");
    let told = told.fetch_one(&mut root.expect("the superuser")).await.expect("one");
    assert!(told.starts_with("SCRAM-SHA-256$4096:") && !told.contains(&password), "{told}");
    let mut odd = config(&postgres);
    odd["username_template"] = json!("{{random 8}}");
    let (status, refused) = operator.call("PUT", "database/config/odd", odd).await;
    assert!(status == 400 && refused.to_string().contains("username_template"), "{refused}");
    operator.vault.stop().await.expect("nothing is left");
    postgres.stop().await;
}

#[tokio::test]
async fn what_is_not_allowed_or_not_there_is_refused_as_the_real_engine_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = postgres(&directory.path().join("pg")).await;
    let operator = with_database(Clock::system(), &postgres).await;
    for name in ["other", "lost"] {
        let db = if name == "other" { "pg" } else { "nowhere" };
        let role = json!({ "db_name": db, "creation_statements": [CREATE] });
        operator.write(&format!("database/roles/{name}"), role).await;
    }
    let listed = |text: &str| format!("1 error occurred:\n\t* {text}\n\n");
    let read = |path: &'static str| operator.refused("GET", path, Value::Null);
    let not_allowed = listed("\"other\" is not an allowed role");
    assert_eq!(read("database/creds/other").await, (500, not_allowed));
    let missing = listed("failed to find entry for connection with name: \"nowhere\"");
    assert_eq!(read("database/creds/lost").await, (500, missing));
    assert_eq!(read("database/creds/none").await, (400, "unknown role: none".to_owned()));
    // A name with a meaning in SQL, in a shell or in a URL is not even a path.
    for name in ["a'b", "a%22b", "a%3Bdrop", "$(id)", "a%20b"] {
        let role = json!({ "db_name": "pg", "creation_statements": [CREATE] });
        let path = format!("database/roles/{name}");
        let refused = operator.refused("POST", &path, role).await;
        assert_eq!(refused, (404, listed("unsupported path")), "{name}");
    }
    let mut wrong = config(&postgres);
    wrong["password"] = json!("wrong");
    let (status, said) = operator.refused("POST", "database/config/two", wrong).await;
    assert_eq!(status, 400, "{said}");
    assert!(said.starts_with("error creating database object: error verifying connection: "));
    operator.vault.stop().await.expect("nothing is left");
    postgres.stop().await;
}

#[tokio::test]
async fn without_the_database_a_login_is_refused_at_once_and_a_lease_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = postgres(&directory.path().join("pg")).await;
    let operator = with_database(Clock::system(), &postgres).await;
    let role = json!({ "db_name": "pg", "creation_statements": [CREATE], "default_ttl": "1h" });
    operator.write("database/roles/app", role).await;
    let issued = operator.read("database/creds/app").await;
    postgres.stop().await;
    let begun = Instant::now();
    let (status, said) = operator.refused("GET", "database/creds/app", Value::Null).await;
    assert_eq!(status, 500, "{said}");
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait for what is not there");
    let lease = json!({ "lease_id": issued["lease_id"] });
    let (status, said) = operator.refused("POST", "sys/leases/renew", lease.clone()).await;
    assert!(status == 400 && said.starts_with("failed to renew entry: "), "{status} {said}");
    operator.write("sys/leases/lookup", lease.clone()).await;
    let now = json!({ "lease_id": issued["lease_id"], "sync": true });
    assert_eq!(operator.refused("POST", "sys/leases/revoke", now).await.0, 400);
    operator.write("sys/leases/revoke-force/database", json!({})).await;
    let (status, _) = operator.refused("POST", "sys/leases/lookup", lease).await;
    assert_eq!(status, 400);
    drop(operator);
}

#[tokio::test]
async fn a_static_password_changes_by_itself_when_its_period_is_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = postgres(&directory.path().join("pg")).await;
    run_as_root(&postgres, "CREATE ROLE legacy LOGIN PASSWORD 'first'").await;
    let (clock, hands) = Clock::by_hand();
    let operator = with_database(clock, &postgres).await;
    let role = json!({ "db_name": "pg", "username": "legacy", "rotation_period": "1h" });
    operator.write("database/static-roles/static", role).await;
    assert!(connect(&postgres, "legacy", "first").await.is_err(), "it is ours from now on");
    let first = operator.read("database/static-creds/static").await;
    assert_eq!(first["lease_id"], "");
    assert_eq!(first["data"]["rotation_period"], 3600);
    let (username, old) = pair(&first);
    connect(&postgres, &username, &old).await.expect("it is a login");
    hands.advance(Duration::from_secs(3601));
    let changed = || async { pair(&operator.read("database/static-creds/static").await).1 != old };
    until("the password is another", changed).await;
    assert!(connect(&postgres, &username, &old).await.is_err());
    let (_, new) = pair(&operator.read("database/static-creds/static").await);
    connect(&postgres, &username, &new).await.expect("it is a login");
    operator.write("database/rotate-role/static", json!({})).await;
    let (_, newest) = pair(&operator.read("database/static-creds/static").await);
    assert_ne!(new, newest);
    assert!(connect(&postgres, &username, &new).await.is_err());
    connect(&postgres, &username, &newest).await.expect("it is a login");
    operator.vault.stop().await.expect("nothing is left");
    postgres.stop().await;
}

#[tokio::test]
async fn nobody_knows_the_root_password_after_it_was_rotated_and_logins_are_still_issued() {
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = postgres(&directory.path().join("pg")).await;
    run_as_root(&postgres, "CREATE ROLE maker LOGIN CREATEROLE PASSWORD 'known'").await;
    let operator = with_database(Clock::system(), &postgres).await;
    let mut own = config(&postgres);
    own["username"] = json!("maker");
    own["password"] = json!("known");
    operator.write("database/config/pg", own).await;
    let role = json!({ "db_name": "pg", "creation_statements": [CREATE], "default_ttl": "1h" });
    operator.write("database/roles/app", role).await;
    operator.write("database/rotate-root/pg", json!({})).await;
    assert!(connect(&postgres, "maker", "known").await.is_err());
    operator.write("database/reset/pg", json!({})).await;
    // Nor is it given again with a change of something else.
    operator.write("database/config/pg", json!({ "allowed_roles": ["*"] })).await;
    let (username, password) = pair(&operator.read("database/creds/app").await);
    connect(&postgres, &username, &password).await.expect("it is a login");
    drop(operator);
    postgres.stop().await;
}
