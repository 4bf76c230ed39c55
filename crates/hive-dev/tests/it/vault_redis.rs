//! The database engine with a real Redis: users of its access control lists.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hive_dev::redis::Redis;
use hive_dev::tools::program;
use hive_security::clock::Clock;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fixture::until;
use crate::operator::Operator;

async fn start(directory: &Path) -> Redis {
    let program = program("redis-server").expect("`cargo xtask real` has put redis-server there");
    Redis::start(&program, directory).await.expect("Redis starts")
}

async fn log_in(
    redis: &Redis,
    username: &str,
    password: &str,
) -> RedisResult<::redis::aio::MultiplexedConnection> {
    let login = RedisConnectionInfo::default().set_username(username).set_password(password);
    let address = ConnectionAddr::Tcp(redis.host.clone(), redis.port).into_connection_info()?;
    Client::open(address.set_redis_settings(login))?.get_multiplexed_async_connection().await
}

async fn root(redis: &Redis) -> ::redis::aio::MultiplexedConnection {
    let password = redis.password.expose_secret();
    log_in(redis, &redis.username, password).await.expect("the default user")
}

async fn users(redis: &Redis) -> Vec<String> {
    ::redis::cmd("ACL").arg("USERS").query_async(&mut root(redis).await).await.expect("a list")
}

async fn with_redis(clock: Clock, redis: &Redis, plugin: &str) -> Operator {
    let operator = Operator::start_with_clock(clock).await;
    operator.write("sys/mounts/database", json!({ "type": "database" })).await;
    let config = json!({
        "plugin_name": plugin, "host": redis.host, "port": redis.port,
        "username": redis.username, "password": redis.password.expose_secret(),
        "allowed_roles": "*",
    });
    operator.write("database/config/redis", config).await;
    operator
}

fn pair(answer: &Value) -> (String, String) {
    let text = |member: &str| answer["data"][member].as_str().expect("text").to_owned();
    (text("username"), text("password"))
}

#[tokio::test]
async fn a_user_may_do_what_its_rules_say_and_is_gone_with_its_lease() {
    let directory = tempfile::tempdir().expect("a directory");
    let redis = start(directory.path()).await;
    for plugin in ["redis-database-plugin", "valkey-database-plugin"] {
        let operator = with_redis(Clock::system(), &redis, plugin).await;
        let rules = r#"["~cart:*", "+get", "+set"]"#;
        let role =
            json!({ "db_name": "redis", "creation_statements": [rules], "default_ttl": "1h" });
        operator.write("database/roles/cart", role).await;
        let issued = operator.read("database/creds/cart").await;
        let (username, password) = pair(&issued);
        assert!(username.starts_with("V_") && username.contains("_CART_"), "{username}");
        let mut user = log_in(&redis, &username, &password).await.expect("it is a user");
        let set = |key: &str| {
            let mut user = user.clone();
            let command = ::redis::cmd("SET").arg(key).arg("1").clone();
            async move { command.query_async::<()>(&mut user).await }
        };
        set("cart:1").await.expect("it may");
        assert!(set("other").await.is_err(), "its rules do not name that key");
        let lease = json!({ "lease_id": issued["lease_id"] });
        let renewed = operator.write("sys/leases/renew", lease).await;
        assert_eq!(renewed["lease_duration"], 3600);
        let body = json!({ "lease_id": issued["lease_id"], "sync": true });
        operator.write("sys/leases/revoke", body).await;
        assert!(!users(&redis).await.contains(&username));
        let cut = ::redis::cmd("GET").arg("cart:1").query_async::<Option<String>>(&mut user).await;
        assert!(cut.is_err(), "Redis closes what a deleted user holds");
        operator.vault.stop().await.expect("nothing is left");
    }
    redis.stop().await;
}

#[tokio::test]
async fn a_static_user_gets_another_password_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let redis = start(directory.path()).await;
    let mut add = ::redis::cmd("ACL");
    add.arg("SETUSER").arg("legacy").arg("on").arg(">first").arg("+ping");
    add.query_async::<()>(&mut root(&redis).await).await.expect("a user");
    let (clock, hands) = Clock::by_hand();
    let operator = with_redis(clock, &redis, "redis-database-plugin").await;
    let role = json!({ "db_name": "redis", "username": "legacy", "rotation_period": "30s" });
    operator.write("database/static-roles/legacy", role).await;
    assert!(log_in(&redis, "legacy", "first").await.is_err());
    let (_, old) = pair(&operator.read("database/static-creds/legacy").await);
    log_in(&redis, "legacy", &old).await.expect("it is a login");
    hands.advance(Duration::from_secs(31));
    let changed = || async { pair(&operator.read("database/static-creds/legacy").await).1 != old };
    until("the password is another", changed).await;
    assert!(log_in(&redis, "legacy", &old).await.is_err());
    operator.vault.stop().await.expect("nothing is left");
    redis.stop().await;
}

#[tokio::test]
async fn without_redis_a_user_is_refused_and_a_revocation_is_not_forgotten() {
    let directory = tempfile::tempdir().expect("a directory");
    let redis = start(directory.path()).await;
    let operator = with_redis(Clock::system(), &redis, "valkey-database-plugin").await;
    let role = json!({ "db_name": "redis", "creation_statements": [], "default_ttl": "1h" });
    operator.write("database/roles/cart", role).await;
    let issued = operator.read("database/creds/cart").await;
    redis.stop().await;
    assert_eq!(operator.refused("GET", "database/creds/cart", Value::Null).await.0, 500);
    let body = json!({ "lease_id": issued["lease_id"], "sync": true });
    let (status, said) = operator.refused("POST", "sys/leases/revoke", body).await;
    assert_eq!(status, 400, "{said}");
    operator.write("sys/leases/lookup", json!({ "lease_id": issued["lease_id"] })).await;
    drop(operator);
}

#[tokio::test]
async fn a_revocation_that_fails_six_times_is_given_up_counted_and_left_to_an_operator() {
    let directory = tempfile::tempdir().expect("a directory");
    let redis = start(directory.path()).await;
    let (clock, hands) = Clock::by_hand();
    let operator = with_redis(clock, &redis, "redis-database-plugin").await;
    let role = json!({ "db_name": "redis", "creation_statements": [], "default_ttl": "1h" });
    operator.write("database/roles/cart", role).await;
    let issued = operator.read("database/creds/cart").await;
    let (host, port) = (redis.host.clone(), redis.port);
    redis.stop().await;
    let attempts = count_connections(TcpListener::bind((host, port)).await.expect("its port"));
    let behind_the_answer = json!({ "lease_id": issued["lease_id"], "sync": false });
    operator.write("sys/leases/revoke", behind_the_answer).await;
    for attempt in 1..=6 {
        until("it is tried again", || async { attempts.load(Ordering::Relaxed) == attempt }).await;
        // An attempt that has failed is counted before the next pause begins.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(irrevocable(&operator).await, u64::from(attempt == 6), "after {attempt}");
        hands.advance(Duration::from_secs(960));
    }
    hands.advance(Duration::from_secs(86_400));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(attempts.load(Ordering::Relaxed), 6, "six and no more");
    let list = operator.read("sys/leases?type=irrevocable").await["data"].clone();
    assert_eq!(
        (&list["lease_count"], &list["leases"][0]["lease_id"]),
        (&json!(1), &issued["lease_id"])
    );
    operator.write("sys/leases/revoke-force/database", json!({})).await;
    assert_eq!(irrevocable(&operator).await, 0);
    operator.vault.stop().await.expect("nothing is left");
}

async fn irrevocable(operator: &Operator) -> u64 {
    let counted = operator.read("sys/leases/count?type=irrevocable").await;
    counted["data"]["lease_count"].as_u64().expect("a number")
}

/// Something that is no Redis: it hangs up at once.
fn count_connections(listener: TcpListener) -> Arc<AtomicU32> {
    let counted = Arc::new(AtomicU32::new(0));
    let own = Arc::clone(&counted);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            own.fetch_add(1, Ordering::Relaxed);
        }
    });
    counted
}
