//! What holds a secret of the development servers does not show it.

use hive_dev::authority::AuthorityConfig;
use hive_dev::openbao::OpenBao;
use hive_dev::redis::Redis;
use hive_dev::tools::program;
use hive_dev::vault::{Sensitive, Setup, Vault};
use hive_dev::witness::{Listener, Witness};
use hive_dev::{kafka, postgres};
use secrecy::ExposeSecret;
use serde_json::json;

const SECRET: &str = "hunter2";

fn assert_discreet(what: &str, shown: &str, secret: &str) {
    let numbers = format!("{:?}", secret.as_bytes());
    let is_told = shown.contains(secret) || shown.contains(numbers.trim_matches(['[', ']']));
    assert!(!is_told && shown.len() > 3, "{what}: {shown}");
}

#[tokio::test]
async fn a_vault_and_its_setup_show_no_secret() {
    let fields = json!({ "key": SECRET });
    let fields = Sensitive::new(fields.as_object().expect("an object").clone());
    let secret = || Sensitive::new(SECRET.to_owned());
    let database =
        json!({ "host": "h", "port": 1, "database": "d", "username": "u", "password": SECRET });
    let mut setup = Setup::danger_root(SECRET);
    setup.kv = [("secret".to_owned(), [("release".to_owned(), fields)].into())].into();
    assert_discreet("a secret", &format!("{:?}", secret()), SECRET);
    let vault = Vault::start(setup.clone(), Witness::none()).await.expect("it starts");
    assert_discreet("the vault", &format!("{vault:?}"), SECRET);
    assert_discreet("the vault", &format!("{vault:?}"), vault.unseal_key());
    setup.database = Some(serde_json::from_value(database).expect("a database"));
    assert_discreet("its setup", &format!("{setup:?} {setup:#?}"), SECRET);
    vault.stop().await.expect("nothing is left");
}

#[test]
fn settings_of_other_servers_show_no_secret() {
    let place = tempfile::tempdir().expect("a directory");
    let broker = kafka::Config {
        libraries: place.path().to_owned(),
        directory: place.path().to_owned(),
        properties: vec![format!("ssl.key.password={SECRET}")],
        jwks_url: None,
        scram_users: vec![format!("SCRAM-SHA-256=[name=a,password={SECRET}]")],
    };
    assert_discreet("a broker's", &format!("{broker:?}"), SECRET);
    let listener = Listener::bind(place.path().join("witness")).expect("a listener");
    let mut authority = AuthorityConfig::new(place.path().join("api.sock"));
    authority.witness = Witness::connect(listener.path()).expect("it listens");
    assert_discreet("an authority's", &format!("{authority:?}"), SECRET);
}

#[tokio::test]
async fn servers_of_others_show_neither_passwords_nor_tokens() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = |name: &str| place.path().join(name);
    let programs = postgres::Programs::find().expect("PostgreSQL is installed");
    let config = postgres::Config { programs, directory: directory("pg"), launcher: None };
    let postgres = postgres::Postgres::start(config).await.expect("it starts");
    let shown = format!("{postgres:?} {}", postgres.connection_url());
    assert_discreet("PostgreSQL", &shown, postgres.password.expose_secret());
    postgres.stop().await;
    let redis = program("redis-server").expect("`cargo xtask real` puts Redis there");
    let redis = Redis::start(&redis, &directory("redis")).await.expect("it starts");
    assert_discreet("Redis", &format!("{redis:?}"), redis.password.expose_secret());
    redis.stop().await;
    let bao = program("bao").expect("`cargo xtask real` puts OpenBao there");
    let bao = OpenBao::durable(&bao, &directory("bao")).await.expect("it starts");
    // The key to unseal it is in there as well, and in no field that can be read.
    assert_discreet("OpenBao", &format!("{bao:?}"), bao.root_token.expose_secret());
    assert_eq!(format!("{bao:?}").matches("[REDACTED]").count(), 2, "{bao:?}");
    bao.stop().await;
}
