//! Producers whose user is leased.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{
    BaseProducer, DeliveryResult, FutureProducer, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaErrorCode;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::sleep;

use super::log;
use crate::adapters::Barred;
use crate::adapters::login::Login;
use crate::credentials::{Credential, Holder, HolderError};

const HOLDER: &str = "the Kafka producer";
const SERVER: &str = "Kafka";
/// So often it is looked whether an old producer has delivered everything. Nothing says so by itself.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// A TCP connection, a SASL exchange with thousands of hashes, and one question.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// One look at the broker; after it librdkafka's own errors are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Sends what librdkafka says to `tracing`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for LogContext {}

/// Moves sends from the producer of one user to that of the next. Clones share it.
#[derive(Clone)]
pub struct ProducerHolder(Arc<Shared>);

struct Shared {
    config: ClientConfig,
    current: ArcSwapOption<Generation>,
    older: Mutex<Vec<Arc<Generation>>>,
    /// Nobody waits for generations below this one any more.
    cut: watch::Sender<u64>,
}

struct Generation {
    number: u64,
    producer: FutureProducer<LogContext>,
}

/// The current producer, for one send; its user is in use as long as this is held. Do not clone what is in it.
pub struct LentProducer(Arc<Generation>);

impl Deref for LentProducer {
    type Target = FutureProducer<LogContext>;

    fn deref(&self) -> &Self::Target {
        &self.0.producer
    }
}

impl ProducerHolder {
    /// Producers that are made of `config`, in which `sasl.username` and `sasl.password` are set for each generation.
    pub fn new(config: ClientConfig) -> Self {
        let (current, older, cut) = (ArcSwapOption::empty(), Mutex::default(), watch::channel(0).0);
        Self(Arc::new(Shared { config, current, older, cut }))
    }

    /// The producer of the current generation. Ask for it before each send.
    pub fn producer(&self) -> Result<LentProducer, Barred> {
        self.0.current.load_full().map(LentProducer).ok_or(Barred { server: SERVER })
    }

    fn config(&self, credential: &Credential) -> Result<ClientConfig, HolderError> {
        let login = Login::of(credential, HOLDER)?;
        let mut config = self.0.config.clone();
        config.set("sasl.username", login.username.expose_secret());
        config.set("sasl.password", login.password.expose_secret());
        Ok(config)
    }

    async fn try_out(&self, fresh: &Credential) -> Result<(), HolderError> {
        let config = self.config(fresh)?;
        let answers = Answers::to(LogContext);
        let answer = off_the_runtime(move || ask(&config, answers, PROBE_DEADLINE)).await;
        let credential = fresh.name().to_owned();
        match answer {
            Ok(Answer::Accepted) => Ok(()),
            Ok(Answer::Refused) => {
                Err(HolderError::Refused { server: SERVER, credential, cause: None })
            }
            Ok(Answer::Silence | Answer::Untrusted) => {
                Err(HolderError::Unreachable { server: SERVER, credential, cause: None })
            }
            Err(_) => Err(unusable(fresh)),
        }
    }

    async fn replace(&self, fresh: &Credential) -> Result<(), HolderError> {
        let config = self.config(fresh)?;
        let made = off_the_runtime(move || config.create_with_context(LogContext)).await;
        // Its cause may quote a value.
        let producer = made.map_err(|_| unusable(fresh))?;
        self.swap(Some(Arc::new(Generation { number: fresh.generation(), producer })));
        Ok(())
    }

    fn swap(&self, fresh: Option<Arc<Generation>>) {
        let mut older = self.0.older();
        older.extend(self.0.current.swap(fresh));
    }

    async fn await_drained(&self, generation: u64) {
        let mut cut = self.0.cut.subscribe();
        loop {
            self.0.retire_idle(generation).await;
            let left = self.0.older().iter().any(|older| older.number < generation);
            if !left || *cut.borrow_and_update() >= generation {
                return;
            }
            tokio::select! {
                () = sleep(DRAIN_INTERVAL) => {}
                _ = cut.changed() => {}
            }
        }
    }

    async fn cut_below(&self, generation: u64) {
        let below = self.0.below(generation);
        off_the_runtime(move || {
            for older in &below {
                // Whoever waits for a delivery learns that there will be none.
                older.producer.purge(PurgeConfig::default().queue().inflight());
            }
        })
        .await;
        self.0.cut.send_modify(|cut| *cut = generation.max(*cut));
    }
}

impl Shared {
    fn older(&self) -> MutexGuard<'_, Vec<Arc<Generation>>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, generation: u64) -> Vec<Arc<Generation>> {
        self.older().iter().filter(|older| older.number < generation).cloned().collect()
    }

    /// Drops the producers that nobody holds and that have delivered everything.
    async fn retire_idle(&self, generation: u64) {
        let mut idle = Vec::new();
        self.older().retain(|older| {
            let lent = Arc::strong_count(older) > 1;
            let stays = older.number >= generation || lent || older.producer.in_flight_count() > 0;
            if !stays {
                idle.push(Arc::clone(older));
            }
            stays
        });
        // Their threads are waited for.
        if !idle.is_empty() {
            off_the_runtime(move || drop(idle)).await;
        }
    }
}

impl Holder for ProducerHolder {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.try_out(fresh).boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.replace(fresh).boxed()
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.await_drained(generation).boxed()
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.cut_below(generation).boxed()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        async { self.swap(None) }.boxed()
    }
}

impl fmt::Debug for ProducerHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.0.current.load().as_ref().map(|current| current.number);
        f.debug_struct("ProducerHolder").field("generation", &generation).finish_non_exhaustive()
    }
}

impl fmt::Debug for LentProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentProducer").field("generation", &self.0.number).finish_non_exhaustive()
    }
}

fn unusable(credential: &Credential) -> HolderError {
    HolderError::Unusable {
        holder: HOLDER,
        credential: credential.name().to_owned(),
        what: "librdkafka does not take the configuration with it",
    }
}

/// What becomes of a client that a broker was asked to let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    Refused,
    Silence,
    /// The TLS handshake failed.
    Untrusted,
}

/// The context of a client that only wants to be let in.
pub(super) struct Answers<C> {
    inner: C,
    refused: AtomicBool,
    untrusted: AtomicBool,
}

impl<C: ClientContext> Answers<C> {
    pub(super) fn to(inner: C) -> Self {
        Self { inner, refused: AtomicBool::new(false), untrusted: AtomicBool::new(false) }
    }

    /// What librdkafka complained of, if that is the end of it.
    fn complaint(&self) -> Option<Answer> {
        let has_come = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        match () {
            () if has_come(&self.refused) => Some(Answer::Refused),
            () if has_come(&self.untrusted) => Some(Answer::Untrusted),
            () => None,
        }
    }
}

impl<C: ClientContext> ClientContext for Answers<C> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = C::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a broker was asked to let us in");
        let complaint = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                &self.refused
            }
            Some(RDKafkaErrorCode::SSL) => &self.untrusted,
            _ => return,
        };
        complaint.store(true, Ordering::Relaxed);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
        self.inner.generate_oauth_token(config)
    }
}

impl<C: ClientContext> ProducerContext for Answers<C> {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Asks for the list of brokers, which only those who were let in get. Blocks.
pub(super) fn ask<C: ClientContext + 'static>(
    config: &ClientConfig,
    answers: Answers<C>,
    deadline: Duration,
) -> KafkaResult<Answer> {
    let client: BaseProducer<Answers<C>> = config.create_with_context(answers)?;
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        client.poll(Duration::from_millis(10));
        if client.client().fetch_metadata(None, LOOK).is_ok() {
            return Ok(Answer::Accepted);
        }
        client.poll(Duration::ZERO);
        if let Some(complaint) = client.context().complaint() {
            return Ok(complaint);
        }
    }
    Ok(Answer::Silence)
}

/// librdkafka waits for its own threads.
pub(super) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use rdkafka::producer::FutureRecord;
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::SecretJson;

    /// Producers for a broker that is not there.
    fn holder() -> ProducerHolder {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("security.protocol", "SASL_PLAINTEXT");
        config.set("sasl.mechanisms", "SCRAM-SHA-256");
        ProducerHolder::new(config)
    }

    fn credential(generation: u64) -> Credential {
        let data = json!({ "username": format!("u{generation}"), "password": "p" });
        Credential::new("orders", generation, SecretJson::new(data))
    }

    async fn is_in_use(holder: &ProducerHolder) -> bool {
        timeout(Duration::from_millis(300), holder.drained(2)).await.is_err()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_user_is_in_use_while_its_producer_is_lent_or_has_messages_and_a_cut_ends_them() {
        let holder = holder();
        holder.adopt(&credential(1)).await.unwrap();
        let lent = holder.producer().unwrap();
        holder.adopt(&credential(2)).await.unwrap();
        assert!(is_in_use(&holder).await, "somebody may still send");
        let record = FutureRecord::<(), str>::to("orders").payload("paid");
        let delivery = lent.send_result(record).unwrap();
        drop(lent);
        assert!(is_in_use(&holder).await, "a message is not delivered yet");
        holder.cut(2).await;
        let told = timeout(Duration::from_secs(10), delivery).await.expect("it is told at once");
        assert!(told.unwrap().is_err(), "there will be no delivery");
        timeout(Duration::from_secs(10), holder.drained(2)).await.expect("it was cut");
        assert_eq!(holder.producer().unwrap().0.number, 2);
        holder.withdraw().await;
        assert!(holder.producer().is_err(), "nothing begins");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_broker_that_does_not_answer_says_nothing_about_a_login() {
        let silence = holder().probe(&credential(1)).await;
        assert!(matches!(silence, Err(HolderError::Unreachable { .. })), "{silence:?}");
    }
}
