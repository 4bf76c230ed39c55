//! Clients of librdkafka, on a real Kafka.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::kafka::{Config, Kafka};
use hive_dev::tools::kafka_libraries;
use hive_security::adapters::rdkafka::{ProducerHolder, SvidContext, probe_forged_tokens};
use hive_security::credentials::{Credential, Holder, HolderError};
use hive_security::{Audience, SecretJson, Workload, WorkloadConfig};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::load::Load;
use crate::rotation::{Order, Users, begin, rotate};

/// How long a JWT-SVID lives here, and a session at most.
const TOKEN_TTL: Duration = Duration::from_secs(8);
const SESSION_MAX_MS: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, the authority whose tokens it takes, and a workload.
struct World {
    kafka: Kafka,
    authority: Authority,
    workload: Workload,
    upkeep: CancellationToken,
    _directory: TempDir,
}

impl World {
    async fn start(properties: &[String], users: &[String]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
        (config.jwt_ttl, config.publish_ahead) = (TOKEN_TTL, Duration::from_secs(3));
        let authority = Authority::start(config).await.expect("it starts");
        let me = Entry::of_process("/ns/shop/sa/cart", std::process::id());
        authority.add_entry(me).expect("an entry");
        let config = WorkloadConfig::new(authority.endpoint(), PATIENCE);
        let (workload, upkeep) = Workload::attach(config).await.expect("an identity");
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        let kafka = Config {
            libraries: kafka_libraries().expect("`cargo xtask real` puts Kafka there"),
            directory: directory.path().join("kafka"),
            properties: properties.to_vec(),
            jwks_url: Some(authority.keys_url()),
            scram_users: users.to_vec(),
        };
        let kafka = Kafka::start(kafka).await.expect("it starts");
        Self { kafka, authority, workload, upkeep: stop, _directory: directory }
    }

    /// A client that has no credential.
    fn client(&self, address: &str, mechanism: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", address).set("security.protocol", "SASL_PLAINTEXT");
        config.set("sasl.mechanisms", mechanism).set("message.timeout.ms", "20000");
        config
    }

    /// How many messages are in a topic of one partition.
    fn messages(&self, topic: &str) -> u64 {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka.plain);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let (first, next) = consumer.fetch_watermarks(topic, 0, PATIENCE).expect("it is there");
        u64::try_from(next - first).expect("it grows")
    }

    async fn stop(self) {
        self.kafka.stop().await;
        self.upkeep.cancel();
        self.authority.stop().await;
    }
}

fn kafka_audience() -> Audience {
    Audience::parse("kafka").expect("an audience")
}

fn oauth(property: &str) -> String {
    format!("listener.name.oauth.oauthbearer.{property}")
}

async fn sent<C: ClientContext + 'static>(
    producer: &FutureProducer<C>,
    topic: &str,
    payload: &str,
) -> Result<(), KafkaError> {
    let record = FutureRecord::<(), str>::to(topic).payload(payload);
    producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| error)
}

/// The users of SCRAM, who were created with the broker, and what is done to them.
struct Scram<'a>(&'a World);

const GENERATIONS: u64 = 3;

fn password(generation: u64) -> String {
    format!("password-{generation}-of-a-test")
}

impl Scram<'_> {
    fn all() -> Vec<String> {
        let user = |n| format!("SCRAM-SHA-256=[name=u{n},password={}]", password(n));
        (1..=GENERATIONS).map(user).collect()
    }
}

impl Users for Scram<'_> {
    async fn create(&self, generation: u64) -> Credential {
        let data =
            json!({ "username": format!("u{generation}"), "password": password(generation) });
        Credential::new("orders", generation, SecretJson::new(data))
    }

    async fn revoke(&self, credential: &Credential) {
        let libraries = kafka_libraries().expect("they are there").join("*");
        let user = format!("u{}", credential.generation());
        let mut command = tokio::process::Command::new("java");
        command.args(["-Xmx128m", "-XX:+UseSerialGC", "-cp"]).arg(libraries);
        command.args(["kafka.admin.ConfigCommand", "--bootstrap-server", &self.0.kafka.plain]);
        command.args(["--alter", "--delete-config", "SCRAM-SHA-256", "--entity-type", "users"]);
        command.args(["--entity-name", &user]).kill_on_drop(true);
        let output = command.output().await.expect("Java runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_lost_when_keys_tokens_and_users_of_a_real_kafka_rotate() {
    let properties = [
        oauth(&format!("connections.max.reauth.ms={SESSION_MAX_MS}")),
        oauth("sasl.oauthbearer.jwks.endpoint.refresh.ms=500"),
    ];
    let world = World::start(&properties, &Scram::all()).await;
    forged_tokens_are_refused(&world).await;
    keys_rotate(&world).await;
    users_rotate(&world).await;
    world.stop().await;
}

async fn forged_tokens_are_refused(world: &World) {
    let client = world.client(&world.kafka.oauth, "OAUTHBEARER");
    let accepted = probe_forged_tokens(&client, &world.workload, &kafka_audience()).await;
    let accepted = accepted.expect("the good one is let in");
    assert!(accepted.nothing(), "{accepted:?}");
}

/// Tokens are replaced several times and the key that signs them once, while sessions end every two seconds.
async fn keys_rotate(world: &World) {
    let context = SvidContext::new(&world.workload, kafka_audience()).await.expect("a token");
    let client = world.client(&world.kafka.oauth, "OAUTHBEARER");
    let producer: FutureProducer<SvidContext> =
        client.create_with_context(context.clone()).expect("a producer");
    let load = Load::start(4, move |worker, turn| {
        let producer = producer.clone();
        async move { sent(&producer, "tokens", &format!("{worker} {turn}")).await }
    });
    load.progress(50).await;
    world.authority.rotate_jwt().await.expect("it rotates");
    let rotated = SystemTime::now();
    let mut keys = BTreeSet::new();
    // Whatever was signed before has expired, so the broker has been shown other tokens.
    while rotated.elapsed().unwrap_or_default() < TOKEN_TTL + Duration::from_secs(2) {
        load.progress(1).await;
        let token = context.generate_oauth_token(None).expect("a token").token;
        keys.insert(token.split('.').next().expect("a header").to_owned());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(keys.len(), 2, "the tokens of two keys were used");
    assert_eq!(world.messages("tokens"), outcome.done, "each once");
}

async fn users_rotate(world: &World) {
    let mut client = world.client(&world.kafka.scram, "SCRAM-SHA-256");
    client.set("enable.idempotence", "true");
    let (holder, users) = (ProducerHolder::new(client), Scram(world));
    assert!(holder.producer().is_err(), "no user was issued");
    let first = begin(&holder, &users).await;
    let load = Load::start(4, {
        let holder = holder.clone();
        move |worker, turn| {
            let holder = holder.clone();
            async move {
                let producer = holder.producer().map_err(|error| error.to_string())?;
                let sent = sent(&producer, "users", &format!("{worker} {turn}")).await;
                sent.map_err(|error| error.to_string())
            }
        }
    });
    load.progress(50).await;
    rotate((&holder, &users), first.clone(), GENERATIONS - 1, Order::Drain, &load).await;
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(world.messages("users"), outcome.done, "each once");
    let refused = holder.probe(&first).await;
    assert!(matches!(refused, Err(HolderError::Refused { .. })), "{refused:?}");
    holder.withdraw().await;
    assert!(holder.producer().is_err(), "nothing begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_believes_any_token_is_found_out() {
    // What Kafka 4.1.0 does by itself. The name of this property has the listener and not the mechanism before it.
    let package = "org.apache.kafka.common.security.oauthbearer";
    let validator = format!("sasl.oauthbearer.jwt.validator.class={package}.ClientJwtValidator");
    let world = World::start(&[format!("listener.name.oauth.{validator}")], &[]).await;
    let client = world.client(&world.kafka.oauth, "OAUTHBEARER");
    let accepted = probe_forged_tokens(&client, &world.workload, &kafka_audience()).await;
    let accepted = accepted.expect("the good one is let in");
    assert!(accepted.broken_signature && accepted.other_audience, "{accepted:?}");
    world.stop().await;
}
