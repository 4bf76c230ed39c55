//! The real servers start, answer, come back, and are gone in the end.

use hive_dev::authority::{Authority, AuthorityConfig};
use hive_dev::kafka::{self, Kafka};
use hive_dev::openbao::OpenBao;
use hive_dev::redis::Redis;

use crate::spire::find;

fn is_gone(pid: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn redis_comes_back_at_the_same_port() {
    let directory = tempfile::tempdir().expect("a directory");
    let redis = Redis::start(&find("redis-server"), directory.path()).await.expect("it starts");
    let port = redis.port;
    let redis = redis.restart().await.expect("it starts again");
    assert_eq!(redis.port, port);
    let pid = redis.pid();
    redis.stop().await;
    assert!(is_gone(pid));
}

#[tokio::test]
async fn openbao_keeps_what_it_stored_when_it_crashes() {
    let directory = tempfile::tempdir().expect("a directory");
    let bao = OpenBao::durable(&find("bao"), directory.path()).await.expect("it starts");
    let (address, pid) = (bao.address.clone(), bao.pid());
    let bao = bao.restart().await.expect("it starts again");
    assert!(is_gone(pid) && bao.address == address);
    bao.stop().await;
}

#[tokio::test]
async fn openbao_in_memory_is_ready_and_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let bao = OpenBao::dev(&find("bao"), directory.path()).await.expect("it starts");
    let pid = bao.pid();
    bao.stop().await;
    assert!(is_gone(pid));
}

#[tokio::test]
async fn kafka_starts_with_a_listener_for_tokens_and_one_for_passwords() {
    let directory = tempfile::tempdir().expect("a directory");
    let libraries =
        hive_dev::tools::kafka_libraries().expect("`cargo xtask real` puts Kafka there");
    let authority = Authority::start(AuthorityConfig::new(directory.path().join("api.sock")));
    let authority = authority.await.expect("it starts");
    let config = kafka::Config {
        libraries,
        directory: directory.path().to_owned(),
        properties: Vec::new(),
        jwks_url: Some(authority.keys_url()),
        scram_users: vec!["SCRAM-SHA-256=[name=admin,password=admin-of-a-test]".to_owned()],
    };
    let kafka = Kafka::start(config).await.unwrap_or_else(|error| {
        panic!(
            "{error}\n{}",
            std::fs::read_to_string(directory.path().join("kafka.log")).unwrap_or_default()
        )
    });
    for listener in [&kafka.plain, &kafka.oauth, &kafka.scram] {
        tokio::net::TcpStream::connect(listener).await.expect("it listens");
    }
    let pid = kafka.pid();
    kafka.stop().await;
    assert!(is_gone(pid));
}
