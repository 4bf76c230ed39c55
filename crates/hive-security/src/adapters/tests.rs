//! What holds a login does not show it.

use std::fmt::Debug;

use serde_json::json;

use crate::SecretJson;
use crate::credentials::{Credential, Holder, Request};

const SECRET: &str = "hunter2";

fn login() -> Credential {
    let data = json!({ "username": format!("v-{SECRET}"), "password": SECRET });
    Credential::new("db", 7, SecretJson::new(data))
}

/// Says something, and nothing that is secret: not as text, and not as the numbers of its bytes.
fn assert_discreet(what: &str, shown: &str) {
    let numbers = format!("{:?}", SECRET.as_bytes());
    let is_told = shown.contains(SECRET) || shown.contains(numbers.trim_matches(['[', ']']));
    assert!(!is_told && shown.len() > 3, "{what}: {shown}");
}

async fn adopted(holder: &(impl Holder + Debug)) {
    let login = login();
    holder.adopt(&login).await.expect("it needs no server");
    assert_discreet("the credential", &format!("{login:?}"));
    assert_discreet("its holder", &format!("{holder:?} {holder:#?}"));
}

#[tokio::test]
async fn a_pool_of_sqlx_shows_no_login_that_it_adopted() {
    use super::sqlx::PgPoolHolder;
    let server = sqlx::postgres::PgConnectOptions::new_without_pgpass().password(SECRET);
    let holder = PgPoolHolder::new(sqlx::postgres::PgPoolOptions::new(), server);
    adopted(&holder).await;
}

#[tokio::test]
async fn a_pool_of_deadpool_shows_no_login_that_it_adopted() {
    use super::deadpool_postgres::PgPoolHolder;
    let mut server = tokio_postgres::Config::new();
    server.password(SECRET);
    let holder = PgPoolHolder::new(server, tokio_postgres::NoTls, |pool| pool).expect("a pool");
    adopted(&holder).await;
    assert_discreet("the manager", &format!("{:?}", holder.pool().manager()));
}

#[tokio::test]
async fn what_connects_to_redis_shows_no_login_that_it_adopted() {
    use super::redis::RedisHolder;
    let holder = RedisHolder::new([format!("redis://u:{SECRET}@127.0.0.1:1")]).expect("an address");
    adopted(&holder).await;
    assert_discreet("the provider", &format!("{:?}", holder.provider()));
    assert_discreet("the guard", &format!("{:?}", holder.guard(())));
}

#[tokio::test]
async fn a_producer_of_kafka_shows_no_login_that_it_adopted() {
    use super::rdkafka::ProducerHolder;
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", "127.0.0.1:1").set("sasl.password", SECRET);
    config.set("security.protocol", "SASL_PLAINTEXT").set("sasl.mechanism", "SCRAM-SHA-256");
    let holder = ProducerHolder::new(config);
    adopted(&holder).await;
    let lent = holder.producer().expect("it adopted one");
    assert_discreet("the producer", &format!("{lent:?}"));
}

#[test]
fn what_is_asked_for_and_what_was_issued_show_no_secret() {
    let request = Request::write("cert", "pki/issue/app", json!({ "password": SECRET }));
    assert_discreet("the request", &format!("{request:?}"));
    let data = SecretJson::new(json!({ "password": SECRET }));
    let issued = crate::epoch::Issued { name: "db".to_owned(), data };
    assert_discreet("what was issued", &format!("{issued:?}"));
}
