//! Kafka clients of librdkafka: with the JWT-SVID itself, or with a name and a password that are leased.
//!
//! # OAUTHBEARER, which needs no secret at all
//!
//! ```no_run
//! # async fn example(workload: hive_security::Workload) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::rdkafka::SvidContext;
//! use hive_security::Audience;
//! use rdkafka::config::ClientConfig;
//! use rdkafka::producer::FutureProducer;
//!
//! let context = SvidContext::new(&workload, Audience::parse("kafka")?).await?;
//! let mut config = ClientConfig::new();
//! config.set("bootstrap.servers", "kafka.shop:9093").set("security.protocol", "SASL_SSL");
//! config.set("sasl.mechanisms", "OAUTHBEARER");
//! let producer: FutureProducer<SvidContext> = config.create_with_context(context.clone())?;
//! // A consumer in the same way: `StreamConsumer<SvidContext>`.
//! # let _ = producer;
//! # Ok(())
//! # }
//! ```
//!
//! There is nothing to adopt. The client authenticates again on its connections (KIP-368), as often as the broker's
//! `connections.max.reauth.ms` says; without that property a connection outlives its token. The broker is Kafka 4.3.0 or
//! later with `OAuthBearerValidatorCallbackHandler`, whose `sasl.oauthbearer.jwks.endpoint.refresh.ms` is shorter than new keys
//! are published ahead. **Kafka 4.1.0 accepts forged tokens**: ask yours with [`probe_forged_tokens`].
//!
//! # SCRAM, whose users are leased
//!
//! ```no_run
//! # async fn example(credential: hive_security::credentials::Credential) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::rdkafka::ProducerHolder;
//! use rdkafka::config::ClientConfig;
//! use rdkafka::producer::FutureRecord;
//!
//! let mut config = ClientConfig::new();
//! config.set("bootstrap.servers", "kafka.shop:9094").set("security.protocol", "SASL_SSL");
//! config.set("sasl.mechanisms", "SCRAM-SHA-512").set("enable.idempotence", "true");
//! let holder = ProducerHolder::new(config);
//! # use hive_security::credentials::Holder;
//! # holder.adopt(&credential).await?;
//! // Hand `holder` to whoever rotates the credential.
//! let record = FutureRecord::to("orders").key("7").payload("paid");
//! holder.producer()?.send(record, std::time::Duration::from_secs(5)).await.map_err(|(error, _)| error)?;
//! # Ok(())
//! # }
//! ```
//!
//! The user name of a client cannot be changed, so each generation has a client of its own. For a moment there are two,
//! and the order of messages is kept within each only: who needs more waits for a delivery before the next send. Kafka
//! leaves the sessions of a removed user open, so only what is sent after `adopt` matters.
//!
//! A consumer moves in the same way, and has no holder here, because only its owner knows when a message has been dealt
//! with: make a consumer with the new credential and the same `group.id`, let the old one finish, `commit` and drop it;
//! with `partition.assignment.strategy = cooperative-sticky` the others of the group go on in the meantime.

mod forged;
mod scram;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use secrecy::ExposeSecret;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::forged::{Accepted, Unproven, probe_forged_tokens};
pub use self::scram::{LentProducer, LogContext, ProducerHolder};

use crate::{Audience, Error, JwtSvid, Workload};

/// The workload refreshes its token ahead; this is how soon a client can have the new one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The context of a client that authenticates with this workload's JWT-SVID. Clones share the token.
///
/// The token is kept current in the background, for librdkafka asks for it on the thread that delivers messages, where
/// nothing may wait.
#[derive(Clone)]
pub struct SvidContext {
    held: Arc<ArcSwap<Held>>,
    /// Ends the upkeep with the last client.
    _upkeep: Arc<DropGuard>,
}

type Held = Result<Arc<JwtSvid>, Error>;

impl SvidContext {
    /// Fetches the first JWT-SVID for `audience`: what the broker expects, such as `kafka`. Must be called within a tokio
    /// runtime.
    pub async fn new(workload: &Workload, audience: Audience) -> Result<Self, Error> {
        let first = workload.jwt_svid(&audience).await?;
        let (held, stop) = (Arc::new(ArcSwap::from_pointee(Ok(first))), CancellationToken::new());
        let upkeep = keep(Arc::clone(&held), workload.clone(), audience);
        tokio::spawn(stop.clone().run_until_cancelled_owned(upkeep));
        Ok(Self { held, _upkeep: Arc::new(stop.drop_guard()) })
    }
}

async fn keep(held: Arc<ArcSwap<Held>>, workload: Workload, audience: Audience) {
    loop {
        sleep(LOOK_INTERVAL).await;
        held.store(Arc::new(workload.jwt_svid(&audience).await));
    }
}

impl ClientContext for SvidContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "librdkafka");
    }

    fn generate_oauth_token(
        &self,
        _config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        match &**self.held.load() {
            Ok(svid) => Ok(oauth_token(svid)),
            Err(error) => Err(Box::new(error.clone())),
        }
    }
}

impl ConsumerContext for SvidContext {}

impl fmt::Debug for SvidContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SvidContext").field(&self.held.load()).finish()
    }
}

fn oauth_token(svid: &JwtSvid) -> OAuthToken {
    let expires = svid.expires_at().duration_since(UNIX_EPOCH).unwrap_or_default();
    OAuthToken {
        token: svid.token().expose_secret().to_owned(),
        principal_name: svid.spiffe_id().to_string(),
        lifetime_ms: i64::try_from(expires.as_millis()).unwrap_or(i64::MAX),
    }
}

/// What librdkafka says at length is for those who look for something.
fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
            tracing::debug!(facility, message, "librdkafka");
        }
        _ => tracing::warn!(facility, message, "librdkafka"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::testing::{Authority, audience};

    #[tokio::test(start_paused = true)]
    async fn a_client_is_handed_the_held_token_with_its_name_and_end_and_none_once_it_is_withdrawn()
    {
        let stand = Authority::new("td").workload("/client");
        let context = SvidContext::new(&stand.workload, audience("kafka")).await.unwrap();
        let svid = stand.workload.jwt_svid(&audience("kafka")).await.unwrap();
        let token = context.generate_oauth_token(None).unwrap();
        assert_eq!(token.token, svid.token().expose_secret());
        assert_eq!(token.principal_name, "spiffe://td/client");
        let expires = UNIX_EPOCH + Duration::from_millis(token.lifetime_ms.try_into().unwrap());
        assert!(svid.expires_at().duration_since(expires).unwrap() < Duration::from_millis(1));
        assert_eq!(stand.fetches.load(Ordering::SeqCst), 1);
        assert!(!format!("{context:?}").contains(&token.token));

        stand.x509.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
        sleep(2 * LOOK_INTERVAL).await;
        assert!(context.generate_oauth_token(None).is_err());
    }
}
