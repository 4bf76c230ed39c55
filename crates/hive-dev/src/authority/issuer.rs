//! Issues documents with the current keys, and rotates the keys.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_security::{SpiffeId, TrustDomain};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::ca::{X509Authority, X509Document};
use super::jwt::{self, Invalid, JwtAuthority, Use, Wanted};
use super::rotation::Rotation;
use super::{AuthorityConfig, Error};
use crate::witness::Witness;

/// A document may be used a moment longer than it says, where clocks differ.
const RETIREMENT_GRACE: Duration = Duration::from_secs(10);
/// How soon a rotation that failed is tried again.
const ROTATION_RETRY: Duration = Duration::from_secs(60);
/// Deadlines are on the system's clock, which may be set: it is looked at this often.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// The trust domain's keys and what can be made with them.
pub(super) struct Issuer {
    pub(super) trust_domain: TrustDomain,
    x509: Ring<X509Authority>,
    jwt: Ring<JwtAuthority>,
    keys_base: String,
    settings: Settings,
    witness: Witness,
}

#[derive(Clone, Copy)]
struct Settings {
    x509_ttl: Duration,
    jwt_ttl: Duration,
    authority_ttl: Duration,
    publish_ahead: Duration,
}

/// Keys of one kind, and news of them.
struct Ring<T> {
    rotation: Mutex<Rotation<T>>,
    changed: watch::Sender<u64>,
    /// One rotation at a time: a second one waits until the first one's key signs.
    turn: tokio::sync::Mutex<()>,
}

impl Issuer {
    /// Makes the first keys. `keys_base` is what tokens name as their issuer.
    pub(super) fn new(
        config: &AuthorityConfig,
        trust_domain: TrustDomain,
        keys_base: String,
    ) -> Result<Self, Error> {
        let settings = Settings::check(config)?;
        let now = SystemTime::now();
        let x509 = X509Authority::new(&trust_domain, now, settings.authority_ttl)?;
        let jwt = JwtAuthority::new(now, settings.authority_ttl)?;
        Ok(Self {
            trust_domain,
            x509: Ring::new(x509),
            jwt: Ring::new(jwt),
            keys_base,
            settings,
            witness: config.witness.clone(),
        })
    }

    /// The issuer in tokens, and the base of the addresses where keys are served.
    pub(super) fn keys_base(&self) -> &str {
        &self.keys_base
    }

    /// A new X.509-SVID for `id`, with a new key.
    pub(super) async fn x509_svid(&self, id: &SpiffeId) -> Result<X509Document, Error> {
        let authority = self.x509.state().active();
        let document = authority.issue(id, SystemTime::now(), self.settings.x509_ttl)?;
        let key = Zeroizing::new(STANDARD.encode(&document.key));
        self.witness.note("x509-key", &key).await?;
        Ok(document)
    }

    /// The certificates that verify X.509-SVIDs: concatenated DER.
    pub(super) fn x509_bundle(&self) -> Vec<u8> {
        let published = self.x509.state().published();
        published.iter().flat_map(|authority| authority.certificate()).copied().collect()
    }

    /// A JWT-SVID for `id`, good for exactly these audiences.
    pub(super) async fn jwt_svid(
        &self,
        id: &SpiffeId,
        audience: &[String],
    ) -> Result<SecretString, Error> {
        let authority = self.jwt.state().active();
        let wanted = Wanted {
            subject: &id.to_string(),
            audience,
            issuer: &self.keys_base,
            now: SystemTime::now(),
            ttl: self.settings.jwt_ttl,
        };
        let token = authority.sign(&wanted)?;
        self.witness.note("jwt-svid", token.expose_secret()).await?;
        Ok(token)
    }

    /// The keys that verify JWT-SVIDs, and no others.
    pub(super) fn jwks(&self, purpose: Use) -> Value {
        let published = self.jwt.state().published();
        let keys: Vec<Value> = published.iter().map(|authority| authority.jwk(purpose)).collect();
        json!({ "keys": keys })
    }

    /// The identity and the claims in `token`, if this trust domain issued it for `audience`.
    pub(super) fn validate(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<(SpiffeId, Map<String, Value>), Invalid> {
        let published = self.jwt.state().published();
        let authorities = published.iter().map(Arc::as_ref);
        let claims = jwt::validate(token, audience, authorities, SystemTime::now())?;
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(Invalid::Claims)?;
        let id = member(&self.trust_domain, subject).ok_or(Invalid::Claims)?;
        Ok((id, claims))
    }

    pub(super) fn x509_changes(&self) -> watch::Receiver<u64> {
        self.x509.changed.subscribe()
    }

    pub(super) fn jwt_changes(&self) -> watch::Receiver<u64> {
        self.jwt.changed.subscribe()
    }

    /// Publishes a new X.509 authority, then lets it sign.
    pub(super) async fn rotate_x509(&self) -> Result<(), Error> {
        let Settings { x509_ttl, authority_ttl, publish_ahead, .. } = self.settings;
        let make =
            |now| X509Authority::new(&self.trust_domain, now, authority_ttl).map_err(Error::from);
        self.x509.rotate(make, publish_ahead, x509_ttl).await
    }

    /// Publishes a new JWT key, then lets it sign.
    pub(super) async fn rotate_jwt(&self) -> Result<(), Error> {
        let Settings { jwt_ttl, authority_ttl, publish_ahead, .. } = self.settings;
        let make = |now| JwtAuthority::new(now, authority_ttl).map_err(Error::from);
        self.jwt.rotate(make, publish_ahead, jwt_ttl).await
    }

    /// Rotates keys at half of their life and retires old ones. Never ends; its caller drops it.
    pub(super) async fn upkeep(&self) {
        let (mut x509, mut jwt) = (self.x509_changes(), self.jwt_changes());
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.next_upkeep(SystemTime::now())) => {}
                _ = x509.changed() => continue,
                _ = jwt.changed() => continue,
            }
            if let Err(error) = self.keep(SystemTime::now()).await {
                tracing::error!(%error, "a signing key could not be rotated; the old one stays in use");
                tokio::time::sleep(ROTATION_RETRY).await;
            }
        }
    }

    async fn keep(&self, now: SystemTime) -> Result<(), Error> {
        self.x509.retire(now);
        self.jwt.retire(now);
        if self.rotation_due(self.x509.state().active().not_after()) <= now {
            self.rotate_x509().await?;
        }
        if self.rotation_due(self.jwt.state().active().not_after()) <= now {
            self.rotate_jwt().await?;
        }
        Ok(())
    }

    fn next_upkeep(&self, now: SystemTime) -> Duration {
        let (x509, jwt) = (self.x509.state(), self.jwt.state());
        let rotations =
            [x509.active().not_after(), jwt.active().not_after()].map(|end| self.rotation_due(end));
        let retirements = [x509.next_retirement(), jwt.next_retirement()];
        let next = rotations.into_iter().chain(retirements.into_iter().flatten()).min();
        next.and_then(|next| next.duration_since(now).ok()).unwrap_or_default().min(CLOCK_CHECK)
    }

    fn rotation_due(&self, not_after: SystemTime) -> SystemTime {
        not_after - self.settings.authority_ttl / 2
    }
}

/// The SPIFFE ID in `text`, if it is a workload of `domain`.
pub(super) fn member(domain: &TrustDomain, text: &str) -> Option<SpiffeId> {
    let id = SpiffeId::parse(text).ok()?;
    (id.trust_domain() == *domain && !id.path().is_empty()).then_some(id)
}

impl<T> Ring<T> {
    fn new(first: T) -> Self {
        let rotation = Mutex::new(Rotation::new(first));
        Self { rotation, changed: watch::Sender::new(0), turn: tokio::sync::Mutex::default() }
    }

    async fn rotate(
        &self,
        make: impl FnOnce(SystemTime) -> Result<T, Error>,
        publish_ahead: Duration,
        documents_ttl: Duration,
    ) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let next = make(SystemTime::now())?;
        self.state().prepare(next);
        self.announce();
        // The federation standard, section 4.1: a key is published before it is used.
        tokio::time::sleep(publish_ahead).await;
        self.state().activate(SystemTime::now() + documents_ttl + RETIREMENT_GRACE);
        self.announce();
        Ok(())
    }

    fn retire(&self, now: SystemTime) {
        if self.state().retire(now) {
            self.announce();
        }
    }

    fn announce(&self) {
        self.changed.send_modify(|revision| *revision += 1);
    }

    /// Every change is one call, so a panicking holder leaves it whole.
    fn state(&self) -> MutexGuard<'_, Rotation<T>> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn check(config: &AuthorityConfig) -> Result<Self, Error> {
        let longest = config.x509_ttl.max(config.jwt_ttl);
        // Certificates and tokens count whole seconds: anything shorter could be born expired.
        if config.x509_ttl.min(config.jwt_ttl) < Duration::from_secs(2) {
            return Err(Error::Lifetimes { reason: "documents must live at least 2 s" });
        }
        if config.authority_ttl / 2 < longest + config.publish_ahead + RETIREMENT_GRACE {
            return Err(Error::Lifetimes {
                reason: "half of a signing key's life must outlast every document",
            });
        }
        Ok(Self {
            x509_ttl: config.x509_ttl,
            jwt_ttl: config.jwt_ttl,
            authority_ttl: config.authority_ttl,
            publish_ahead: config.publish_ahead,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(change: impl FnOnce(&mut AuthorityConfig)) -> Result<Issuer, Error> {
        let mut config = AuthorityConfig::new("/unused");
        config.publish_ahead = Duration::ZERO;
        change(&mut config);
        let domain = TrustDomain::parse("dev.hive.internal").expect("a good name");
        Issuer::new(&config, domain, "http://127.0.0.1:1".to_owned())
    }

    fn keys(issuer: &Issuer) -> usize {
        issuer.jwks(Use::OpenId)["keys"].as_array().map_or(0, Vec::len)
    }

    #[test]
    fn lifetimes_that_leave_a_gap_are_refused() {
        let second = Duration::from_secs(1);
        for refused in [
            issuer(|config| config.x509_ttl = second),
            issuer(|config| config.jwt_ttl = second),
            issuer(|config| config.authority_ttl = config.x509_ttl * 2),
        ] {
            assert!(matches!(refused.map(|_| ()), Err(Error::Lifetimes { .. })));
        }
    }

    #[tokio::test]
    async fn a_token_stays_valid_across_a_rotation_until_its_key_retires() {
        let issuer = issuer(|_| {}).expect("good settings");
        let id = SpiffeId::parse("spiffe://dev.hive.internal/a").expect("a good ID");
        let token = issuer.jwt_svid(&id, &["vault".to_owned()]).await.expect("a token");
        issuer.rotate_jwt().await.expect("rotated");
        assert_eq!(keys(&issuer), 2);
        assert_eq!(issuer.validate(token.expose_secret(), "vault").map(|(id, _)| id), Ok(id));
        let retired = SystemTime::now() + issuer.settings.jwt_ttl + RETIREMENT_GRACE;
        issuer.keep(retired).await.expect("kept");
        assert_eq!(keys(&issuer), 1);
        assert_eq!(
            issuer.validate(token.expose_secret(), "vault").map(|_| ()),
            Err(Invalid::Signature)
        );
    }

    #[tokio::test]
    async fn keys_are_rotated_at_half_of_their_life() {
        let issuer = issuer(|_| {}).expect("good settings");
        let half = issuer.settings.authority_ttl / 2;
        let now = SystemTime::now();
        issuer.keep(now + half - Duration::from_secs(60)).await.expect("kept");
        assert_eq!(keys(&issuer), 1);
        issuer.keep(now + half + Duration::from_secs(60)).await.expect("kept");
        assert_eq!((keys(&issuer), issuer.x509.state().published().len()), (2, 2));
    }
}
