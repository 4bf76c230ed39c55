//! What goes on while credentials are replaced: 64 operations at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hive_security::Audience;
use hive_security::adapters::rdkafka::SvidContext;
use hive_security::adapters::redis::RedisHolder;
use hive_security::adapters::sqlx::PgPoolHolder;
use hive_security::credentials::{Credentials, Hold};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use redis::RedisError;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::grpc::{self, Served};
use crate::load::{Load, Outcome};
use crate::world::World;

pub(crate) const WORKERS: u64 = 16;
const CONNECTIONS: u32 = 16;
const LONG_WORKERS: u64 = 2;
/// Transactions of PostgreSQL that are longer than the time between two rotations.
pub(crate) const OUTLASTING: &str = "outlasting";
/// Longer than the time between two rotations.
const LONG: Duration = Duration::from_millis(2500);
const SHORT: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(30);

type Producer = FutureProducer<SvidContext>;

/// One client of each kind.
pub(crate) struct Clients {
    pub(crate) postgres: PgPoolHolder,
    redis: RedisHolder,
    manager: Option<ConnectionManager>,
    producer: Producer,
    served: Served,
}

/// All kinds of work, going on.
pub(crate) struct Work(Vec<(&'static str, Load)>);

/// What came of each kind.
pub(crate) type Outcomes = Vec<(&'static str, Outcome)>;

/// Operations a second, by kind.
pub(crate) type Rates = BTreeMap<&'static str, f64>;

impl Clients {
    pub(crate) async fn new(world: &World) -> Self {
        let postgres = PgPoolHolder::new(options(), world.ledger.server());
        let audience = Audience::parse("kafka").expect("an audience");
        let context = SvidContext::new(&world.workload, audience).await.expect("a token");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &world.kafka.oauth);
        config.set("security.protocol", "SASL_PLAINTEXT").set("sasl.mechanisms", "OAUTHBEARER");
        config.set("enable.idempotence", "true").set("linger.ms", "1");
        config.set("message.timeout.ms", "30000");
        Self {
            postgres,
            redis: RedisHolder::new([world.cache.url()]).expect("an address"),
            manager: None,
            producer: config.create_with_context(context).expect("a producer"),
            served: Served::start(&world.workload).await,
        }
    }

    /// Hands both holders over; connects to Redis, which needs a login for that.
    pub(crate) async fn hold(&mut self, world: &World, credentials: &Credentials) -> [Hold; 2] {
        let (postgres, redis) = (Arc::new(self.postgres.clone()), Arc::new(self.redis.clone()));
        let held = [
            credentials.hold("ledger", postgres).await.expect("it adopts"),
            credentials.hold("cache", redis).await.expect("it adopts"),
        ];
        self.connect(world).await;
        held
    }

    async fn connect(&mut self, world: &World) {
        let settings = ConnectionManagerConfig::new()
            .set_response_timeout(Some(Duration::from_secs(10)))
            .set_credentials_provider(self.redis.provider());
        let manager = ConnectionManager::new_with_config(world.cache.client(), settings).await;
        self.manager = Some(manager.expect("it connects"));
    }
}

pub(crate) fn options() -> PgPoolOptions {
    PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(30))
}

impl Work {
    /// As much as each kind can, or so many operations a second.
    pub(crate) fn begin(clients: &Clients, rates: &Rates) -> Self {
        let manager = clients.manager.clone().expect("it has connected");
        let (pool, producer) = (clients.postgres.pool().clone(), clients.producer.clone());
        let (long, channel) = (pool.clone(), clients.served.channel.clone());
        let rate = |kind| rates.get(kind).copied();
        let write = move |worker, turn| write(pool.clone(), worker + LONG_WORKERS, turn);
        let send = move |worker, turn| send(producer.clone(), worker, turn);
        let count = move |_, _| count(manager.clone());
        let call = move |_, _| call(channel.clone());
        Self(vec![
            ("PostgreSQL", Load::paced(WORKERS - LONG_WORKERS, rate("PostgreSQL"), write)),
            (
                OUTLASTING,
                Load::start(LONG_WORKERS, move |w, turn| self::write(long.clone(), w, turn)),
            ),
            ("Redis", Load::paced(WORKERS, rate("Redis"), count)),
            ("Kafka", Load::paced(WORKERS, rate("Kafka"), send)),
            ("gRPC", Load::paced(WORKERS, rate("gRPC"), call)),
        ])
    }

    pub(crate) async fn end(self) -> Outcomes {
        let mut outcomes = Vec::new();
        for (name, load) in self.0 {
            outcomes.push((name, load.stop().await));
        }
        outcomes
    }
}

/// The first workers hold transactions that outlast rotations.
pub(crate) async fn write(pool: PgPool, worker: u64, turn: u64) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let insert = || sqlx::query("INSERT INTO entries (what) VALUES ($1)");
    let what = format!("{worker} {turn}");
    insert().bind(&what).execute(&mut *transaction).await?;
    tokio::time::sleep(if worker < LONG_WORKERS { LONG } else { SHORT }).await;
    insert().bind(&what).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// A pause of a millisecond keeps one client from taking all of a machine.
async fn count(mut manager: ConnectionManager) -> Result<(), RedisError> {
    let mut transaction = redis::pipe();
    transaction.atomic().incr("count", 1).incr("twice", 2).ignore();
    let done = transaction.query_async(&mut manager).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    done
}

async fn send(producer: Producer, worker: u64, turn: u64) -> Result<(), KafkaError> {
    let payload = format!("{worker} {turn}");
    let record = FutureRecord::<(), str>::to("entries").payload(&payload);
    producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| error)
}

async fn call(channel: hive_security::connect::Channel) -> Result<(), tonic::Status> {
    let done = grpc::call(channel).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    done
}
