//! Issues documents with the current keys, and rotates the keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_security::{SpiffeId, TrustDomain};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::attest::Identity;
use super::ca::{X509Authority, X509Document};
use super::clock::Clock;
use super::entries::Terms;
use super::federation::{Federation, Reach};
use super::jwk::PublicKey;
use super::jwt::{self, Invalid, JwtAuthority, Use, Wanted};
use super::ring::{RETIREMENT_GRACE, Ring};
use super::rotation::{KeyKind, SigningKey, Stage};
use super::{AuthorityConfig, Error};
use crate::witness::Witness;

/// How soon a rotation that failed is tried again.
const ROTATION_RETRY: Duration = Duration::from_secs(60);
/// Deadlines are on the system's clock, which may be set: it is looked at this often.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// How long ago a document expired that is issued expired: longer than anyone's leeway.
const EXPIRED_SINCE: Duration = Duration::from_secs(10 * 60);

/// The trust domain's keys and what can be made with them.
pub(super) struct Issuer {
    pub(super) trust_domain: TrustDomain,
    pub(super) clock: Clock,
    pub(super) federation: Arc<Federation>,
    x509: Ring<X509Authority>,
    jwt: Ring<JwtAuthority>,
    keys_base: String,
    settings: Settings,
    witness: Witness,
    /// Sequence numbers of bundles count from here: a later authority of the same trust domain continues upwards.
    first_sequence: u64,
}

#[derive(Clone, Copy)]
struct Settings {
    x509_ttl: Duration,
    jwt_ttl: Duration,
    authority_ttl: Duration,
    publish_ahead: Duration,
}

/// Whether a document is made to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Good,
    Expired,
}

impl Issuer {
    /// Makes the first keys. `keys_base` is what tokens name as their issuer.
    pub(super) fn new(
        config: &AuthorityConfig,
        trust_domain: TrustDomain,
        keys_base: String,
    ) -> Result<Self, Error> {
        let settings = Settings::check(config)?;
        let clock = Clock::default();
        let now = clock.now();
        let x509 = X509Authority::new(&trust_domain, now, settings.authority_ttl)?;
        let jwt = JwtAuthority::new(now, settings.authority_ttl)?;
        Ok(Self {
            trust_domain,
            federation: Arc::default(),
            x509: Ring::new(KeyKind::X509, x509, settings.x509_ttl, clock.clone()),
            jwt: Ring::new(KeyKind::Jwt, jwt, settings.jwt_ttl, clock.clone()),
            clock,
            keys_base,
            settings,
            witness: config.witness.clone(),
            first_sequence: jwt::unix_seconds(now),
        })
    }

    /// The issuer in tokens, and the base of the addresses where keys are served.
    pub(super) fn keys_base(&self) -> &str {
        &self.keys_base
    }

    /// Refuses terms under which a document would be born expired, or could outlive its key.
    pub(super) fn check_terms(&self, terms: &Terms) -> Result<(), Error> {
        let mut given = [terms.jwt_ttl, terms.x509_ttl].into_iter().flatten();
        given.try_for_each(|ttl| self.settings.check_ttl(ttl))
    }

    /// A new X.509-SVID for a workload, with a new key.
    pub(super) async fn x509_svid(
        &self,
        identity: &Identity,
        validity: Validity,
    ) -> Result<X509Document, Error> {
        let ttl = identity.terms.x509_ttl.unwrap_or(self.settings.x509_ttl);
        let terms = &identity.terms;
        let document = self.sign_x509(&identity.spiffe_id, &terms.dns_names, ttl, validity)?;
        let key = Zeroizing::new(STANDARD.encode(&document.key));
        self.witness.note("x509-key", &key).await?;
        Ok(document)
    }

    /// A new X.509-SVID for a server of the authority itself: its key never leaves this process.
    pub(super) fn own_x509_svid(&self, id: &SpiffeId) -> Result<X509Document, Error> {
        self.sign_x509(id, &[], self.settings.x509_ttl, Validity::Good)
    }

    fn sign_x509(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
        validity: Validity,
    ) -> Result<X509Document, Error> {
        self.x509.will_sign(ttl);
        let authority = self.x509.state().active();
        Ok(authority.issue(id, dns_names, self.issued_at(ttl, validity), ttl)?)
    }

    /// The certificates that verify X.509-SVIDs: concatenated DER.
    pub(super) fn x509_bundle(&self) -> Vec<u8> {
        let published = self.x509.state().published();
        published.iter().flat_map(|authority| authority.certificate()).copied().collect()
    }

    /// A JWT-SVID for a workload, good for exactly these audiences.
    pub(super) async fn jwt_svid(
        &self,
        identity: &Identity,
        audience: &[String],
        validity: Validity,
    ) -> Result<SecretString, Error> {
        let ttl = identity.terms.jwt_ttl.unwrap_or(self.settings.jwt_ttl);
        self.jwt.will_sign(ttl);
        let authority = self.jwt.state().active();
        let wanted = Wanted {
            subject: &identity.spiffe_id.to_string(),
            audience,
            issuer: &self.keys_base,
            now: self.issued_at(ttl, validity),
            ttl,
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

    /// Our X.509 bundle and those within reach of the trust domains we federate with, by SPIFFE ID.
    pub(super) fn x509_bundles(&self, reach: &Reach) -> HashMap<String, Vec<u8>> {
        let mut bundles = self.federation.x509_bundles(reach);
        bundles.insert(self.trust_domain_id(), self.x509_bundle());
        bundles
    }

    /// The same for JWT bundles.
    pub(super) fn jwt_bundles(&self, reach: &Reach) -> HashMap<String, Vec<u8>> {
        let mut bundles = self.federation.jwt_bundles(reach);
        bundles.insert(self.trust_domain_id(), self.jwks(Use::Spiffe).to_string().into_bytes());
        bundles
    }

    /// The SPIFFE bundle document (Trust Domain and Bundle standard, section 4).
    pub(super) fn bundle_document(&self) -> Value {
        // Both are looked at together: no sequence number ever stands for two contents.
        let (x509, jwt) = (self.x509.state(), self.jwt.state());
        let sequence = self.first_sequence + x509.revision() + jwt.revision();
        let mut keys: Vec<Value> = x509.published().iter().map(|key| key.jwk()).collect();
        keys.extend(jwt.published().iter().map(|key| key.jwk(Use::Spiffe)));
        drop((x509, jwt));
        // A key is published for several refreshes before it signs (federation standard, section 4.1).
        let refresh_hint = (self.settings.publish_ahead / 3).as_secs().max(1);
        json!({
            "keys": keys,
            "spiffe_sequence": sequence,
            "spiffe_refresh_hint": refresh_hint,
        })
    }

    pub(super) fn trust_domain_id(&self) -> String {
        format!("spiffe://{}", self.trust_domain)
    }

    /// The identity and the claims in `token`, if it was issued for `audience`: by this trust domain, or by one within
    /// reach that we federate with. Only the keys of the trust domain that it names count.
    pub(super) fn validate(
        &self,
        token: &str,
        audience: &str,
        reach: &Reach,
    ) -> Result<(SpiffeId, Map<String, Value>), Invalid> {
        let mut subject = None;
        let keys_of = |named: &str| {
            let id = SpiffeId::parse(named).ok().filter(|id| !id.path().is_empty())?;
            let keys = self.keys_of(&id.trust_domain(), reach);
            subject = Some(id);
            keys
        };
        let claims = jwt::validate(token, audience, keys_of, self.clock.now())?;
        Ok((subject.ok_or(Invalid::Claims)?, claims))
    }

    /// The keys of a trust domain that we know.
    fn keys_of(&self, domain: &TrustDomain, reach: &Reach) -> Option<Vec<PublicKey>> {
        if *domain != self.trust_domain {
            return self.federation.jwt_keys(domain, reach);
        }
        let published = self.jwt.state().published();
        Some(published.iter().filter_map(|key| PublicKey::parse(&key.jwk(Use::Spiffe))).collect())
    }

    pub(super) fn x509_changes(&self) -> watch::Receiver<u64> {
        self.x509.changes()
    }

    pub(super) fn jwt_changes(&self) -> watch::Receiver<u64> {
        self.jwt.changes()
    }

    /// Publishes a new X.509 authority, then lets it sign.
    pub(super) async fn rotate_x509(&self) -> Result<(), Error> {
        self.x509.rotate(|now| self.new_x509(now), self.settings.publish_ahead).await
    }

    /// Publishes a new JWT key, then lets it sign.
    pub(super) async fn rotate_jwt(&self) -> Result<(), Error> {
        self.jwt.rotate(|now| self.new_jwt(now), self.settings.publish_ahead).await
    }

    pub(super) async fn prepare(&self, kind: KeyKind) -> Result<SigningKey, Error> {
        match kind {
            KeyKind::Jwt => self.jwt.prepare(|now| self.new_jwt(now)).await,
            KeyKind::X509 => self.x509.prepare(|now| self.new_x509(now)).await,
        }
    }

    pub(super) async fn activate(&self, key: &SigningKey) -> Result<(), Error> {
        match key.kind {
            KeyKind::Jwt => self.jwt.activate(&key.id).await,
            KeyKind::X509 => self.x509.activate(&key.id).await,
        }
    }

    pub(super) fn taint(&self, key: &SigningKey) -> Result<(), Error> {
        match key.kind {
            KeyKind::Jwt => self.jwt.taint(&key.id),
            KeyKind::X509 => self.x509.taint(&key.id),
        }
    }

    pub(super) fn revoke(&self, key: &SigningKey) -> Result<(), Error> {
        match key.kind {
            KeyKind::Jwt => self.jwt.revoke(&key.id),
            KeyKind::X509 => self.x509.revoke(&key.id),
        }
    }

    pub(super) fn signing_keys(&self, kind: KeyKind) -> Vec<(SigningKey, Stage)> {
        match kind {
            KeyKind::Jwt => self.jwt.stages(),
            KeyKind::X509 => self.x509.stages(),
        }
    }

    fn new_x509(&self, now: SystemTime) -> Result<X509Authority, Error> {
        Ok(X509Authority::new(&self.trust_domain, now, self.settings.authority_ttl)?)
    }

    fn new_jwt(&self, now: SystemTime) -> Result<JwtAuthority, Error> {
        Ok(JwtAuthority::new(now, self.settings.authority_ttl)?)
    }

    fn issued_at(&self, ttl: Duration, validity: Validity) -> SystemTime {
        let now = self.clock.now();
        match validity {
            Validity::Good => now,
            Validity::Expired => now.checked_sub(ttl + EXPIRED_SINCE).unwrap_or(UNIX_EPOCH),
        }
    }

    /// Rotates keys at half of their life and retires old ones. Never ends; its caller drops it.
    pub(super) async fn upkeep(&self) {
        let (mut x509, mut jwt) = (self.x509_changes(), self.jwt_changes());
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.next_upkeep(self.clock.now())) => {}
                _ = x509.changed() => continue,
                _ = jwt.changed() => continue,
            }
            if let Err(error) = self.keep(self.clock.now()).await {
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

impl Settings {
    fn check(config: &AuthorityConfig) -> Result<Self, Error> {
        let settings = Self {
            x509_ttl: config.x509_ttl,
            jwt_ttl: config.jwt_ttl,
            authority_ttl: config.authority_ttl,
            publish_ahead: config.publish_ahead,
        };
        settings.check_ttl(config.x509_ttl)?;
        settings.check_ttl(config.jwt_ttl)?;
        Ok(settings)
    }

    /// Whether a document may live so long.
    fn check_ttl(&self, ttl: Duration) -> Result<(), Error> {
        // Certificates and tokens count whole seconds: anything shorter could be born expired.
        if ttl < Duration::from_secs(2) {
            return Err(Error::Lifetimes { reason: "documents must live at least 2 s" });
        }
        if self.authority_ttl / 2 < ttl + self.publish_ahead + RETIREMENT_GRACE {
            return Err(Error::Lifetimes {
                reason: "half of a signing key's life must outlast every document",
            });
        }
        Ok(())
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
        let identity = Identity { spiffe_id: id.clone(), terms: Terms::default() };
        let audience = ["vault".to_owned()];
        let token = issuer.jwt_svid(&identity, &audience, Validity::Good).await.expect("a token");
        issuer.rotate_jwt().await.expect("rotated");
        assert_eq!(keys(&issuer), 2);
        assert_eq!(
            issuer.validate(token.expose_secret(), "vault", &Reach::All).map(|(id, _)| id),
            Ok(id)
        );
        let retired = SystemTime::now() + issuer.settings.jwt_ttl + RETIREMENT_GRACE;
        issuer.keep(retired).await.expect("kept");
        assert_eq!(keys(&issuer), 1);
        assert_eq!(
            issuer.validate(token.expose_secret(), "vault", &Reach::All).map(|_| ()),
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
