//! The bundles of other trust domains: taken over as documents or followed at their endpoints, kept apart, and handed
//! to the workloads that they are for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hive_security::federation::{Relationship, follow};
use hive_security::{BundleDocument, TrustDomain};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;
use super::attest::Identity;
use super::jwk::PublicKey;

/// More than any deployment that is known of.
const DOMAINS_MAX: usize = 1_024;

/// What is known of other trust domains. Never mixed, neither with each other nor with our own.
#[derive(Debug)]
pub(super) struct Federation {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    bundles: BTreeMap<TrustDomain, BundleDocument>,
    relationships: BTreeMap<TrustDomain, Following>,
    next: u64,
}

/// A relationship that is followed until this is dropped.
#[derive(Debug)]
struct Following {
    /// Tells it from those before and after it.
    number: u64,
    _stop: DropGuard,
}

/// Whose bundles a workload gets besides its own trust domain's: those that any of its entries names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    Only(BTreeSet<TrustDomain>),
}

impl Reach {
    pub(super) fn of(identities: &[Identity]) -> Self {
        let mut named = BTreeSet::new();
        for identity in identities {
            match &identity.terms.federates_with {
                Some(some) => named.extend(some.iter().cloned()),
                None => return Self::All,
            }
        }
        Self::Only(named)
    }

    fn includes(&self, domain: &TrustDomain) -> bool {
        match self {
            Self::All => true,
            Self::Only(named) => named.contains(domain),
        }
    }
}

impl Default for Federation {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Federation {
    /// Takes over a bundle document; false if a newer one is known already.
    pub(super) fn set(&self, domain: &TrustDomain, document: &str) -> Result<bool, Error> {
        let refused = |refusal: hive_security::Refusal| refused(refusal.to_string());
        let document = BundleDocument::parse(domain, document.as_bytes()).map_err(refused)?;
        let mut state = self.state();
        state.has_room_for(domain)?;
        let taken = state.take_over(document);
        drop(state);
        self.announce_if(taken == Taken::Changed);
        Ok(taken != Taken::Older)
    }

    /// Follows the endpoint of a relationship, in place of one with the same trust domain, while the future that is
    /// returned runs: until `stop`, or until the relationship ends.
    pub(super) fn follow(
        self: &Arc<Self>,
        relationship: Relationship,
        stop: &CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
        let (domain, stop) = (relationship.trust_domain().clone(), stop.child_token());
        let (mut bundle, follower) = follow(relationship);
        let mut state = self.state();
        state.has_room_for(&domain)?;
        state.next += 1;
        let number = state.next;
        let following = Following { number, _stop: stop.clone().drop_guard() };
        state.relationships.insert(domain, following);
        drop(state);
        let federation = Arc::clone(self);
        let taken_over = async move {
            loop {
                if let Some(document) = &*bundle.current() {
                    federation.take_over(number, document.clone());
                }
                if bundle.changed().await.is_none() {
                    return;
                }
            }
        };
        Ok(async move {
            tokio::join!(follower.run(stop), taken_over);
        })
    }

    /// Takes over what a relationship fetched, if it is still the one with its trust domain.
    fn take_over(&self, number: u64, document: BundleDocument) {
        let mut state = self.state();
        let current = state.relationships.get(document.trust_domain());
        if current.is_none_or(|current| current.number != number) {
            return;
        }
        let taken = state.take_over(document);
        drop(state);
        self.announce_if(taken == Taken::Changed);
    }

    /// Ends the relationship, if there is one, and forgets the bundle.
    pub(super) fn remove(&self, domain: &TrustDomain) -> bool {
        let mut state = self.state();
        let followed = state.relationships.remove(domain).is_some();
        let known = state.bundles.remove(domain).is_some();
        drop(state);
        self.announce_if(known);
        known || followed
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes every open stream say its state again.
    fn announce_if(&self, changed: bool) {
        if changed {
            self.changed.send_modify(|revision| *revision += 1);
        }
    }

    /// By the SPIFFE ID of the trust domain: concatenated DER. A bundle without X.509 authorities is not among them.
    pub(super) fn x509_bundles(&self, reach: &Reach) -> HashMap<String, Vec<u8>> {
        self.within(reach, |document| {
            let authorities = document.x509_bundle().authorities();
            let der: Vec<u8> = authorities.iter().flat_map(|der| der.iter()).copied().collect();
            (!der.is_empty()).then_some(der)
        })
    }

    /// By the SPIFFE ID of the trust domain: JWKS documents with JWT keys only.
    pub(super) fn jwt_bundles(&self, reach: &Reach) -> HashMap<String, Vec<u8>> {
        self.within(reach, |document| Some(document.jwt_bundle().to_jwks().into_bytes()))
    }

    /// None if the trust domain is unknown to workloads of this reach.
    pub(super) fn jwt_keys(&self, domain: &TrustDomain, reach: &Reach) -> Option<Vec<PublicKey>> {
        let state = self.state();
        let document = state.bundles.get(domain).filter(|_| reach.includes(domain))?;
        let jwks: Value = serde_json::from_str(&document.jwt_bundle().to_jwks()).ok()?;
        Some(jwks["keys"].as_array()?.iter().filter_map(PublicKey::parse).collect())
    }

    fn within(
        &self,
        reach: &Reach,
        encode: impl Fn(&BundleDocument) -> Option<Vec<u8>>,
    ) -> HashMap<String, Vec<u8>> {
        let state = self.state();
        let within = state.bundles.iter().filter(|(domain, _)| reach.includes(domain));
        within.filter_map(|(domain, document)| Some((id(domain), encode(document)?))).collect()
    }

    /// Every change is one call, so a panicking holder leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Changed,
    Older,
    Same,
}

impl State {
    fn has_room_for(&self, domain: &TrustDomain) -> Result<(), Error> {
        let known =
            |domain| self.bundles.contains_key(domain) || self.relationships.contains_key(domain);
        let full = self.bundles.len().max(self.relationships.len()) >= DOMAINS_MAX;
        if full && !known(domain) {
            return Err(refused("too many trust domains are federated with".to_owned()));
        }
        Ok(())
    }

    fn take_over(&mut self, document: BundleDocument) -> Taken {
        let domain = document.trust_domain().clone();
        match self.bundles.get(&domain) {
            Some(known) if !document.supersedes(known) => return Taken::Older,
            Some(known) if *known == document => return Taken::Same,
            _ => {}
        }
        self.bundles.insert(domain, document);
        Taken::Changed
    }
}

fn refused(reason: String) -> Error {
    Error::Bundle { reason }
}

fn id(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Terms;
    use crate::authority::ca::X509Authority;
    use crate::authority::jwt::{JwtAuthority, Use};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hive_security::SpiffeId;
    use hive_security::federation::{Profile, WebRoots};
    use serde_json::json;
    use std::time::{Duration, SystemTime};

    fn other() -> TrustDomain {
        TrustDomain::parse("other.org").expect("a good name")
    }

    fn jwks() -> (Value, Value) {
        let (now, ttl) = (SystemTime::now(), Duration::from_secs(600));
        let x509 = X509Authority::new(&other(), now, ttl).expect("an authority");
        (x509.jwk(), JwtAuthority::new(now, ttl).expect("a key").jwk(Use::Spiffe))
    }

    #[test]
    fn keys_go_to_the_bundle_of_their_use_and_what_cannot_be_used_nowhere() {
        let (x509, jwt) = jwks();
        let strange = json!({ "kty": "OKP", "use": "jwt-svid", "kid": "k" });
        let useless = json!({ "kty": "EC", "crv": "P-256" });
        let bare = json!({ "kty": "EC", "use": "x509-svid" });
        let broken =
            ["AAAA", "?"].map(|x5c| json!({ "kty": "EC", "use": "x509-svid", "x5c": [x5c] }));
        let [torn, odd] = broken;
        let keys = json!([x509, strange, useless, bare, torn, odd, jwt]);
        let document = json!({ "keys": keys, "spiffe_sequence": 7 });
        let federation = Federation::default();
        assert!(federation.set(&other(), &document.to_string()).expect("a bundle"));
        let x509_bundles = federation.x509_bundles(&Reach::All);
        let der = STANDARD.decode(x509["x5c"][0].as_str().expect("text")).expect("base64");
        assert_eq!(x509_bundles.get("spiffe://other.org"), Some(&der));
        let jwt_bundles = federation.jwt_bundles(&Reach::All);
        let found: Value =
            serde_json::from_slice(&jwt_bundles["spiffe://other.org"]).expect("JSON");
        assert_eq!(found, json!({ "keys": [jwt] }));
        assert_eq!(federation.jwt_keys(&other(), &Reach::All).map(|keys| keys.len()), Some(1));
    }

    #[test]
    fn an_older_document_does_not_replace_a_newer_one() {
        let document =
            |sequence: u64| json!({ "keys": [], "spiffe_sequence": sequence }).to_string();
        let federation = Federation::default();
        for (sequence, taken) in [(7, true), (6, false), (7, true), (8, true)] {
            assert_eq!(federation.set(&other(), &document(sequence)).expect("a bundle"), taken);
        }
        assert!(federation.remove(&other()) && !federation.remove(&other()));
        assert!(federation.set(&other(), &document(1)).expect("a bundle"));
    }

    #[test]
    fn a_document_without_keys_is_refused() {
        let federation = Federation::default();
        for document in ["{}", "[]", r#"{"spiffe_sequence":1}"#] {
            let refused = federation.set(&other(), document);
            assert!(matches!(refused, Err(Error::Bundle { .. })), "{document}");
        }
        assert!(federation.jwt_keys(&other(), &Reach::All).is_none());
    }

    #[tokio::test]
    async fn what_an_ended_or_replaced_relationship_fetches_comes_too_late() {
        let federation = Arc::new(Federation::default());
        let stop = CancellationToken::new();
        let begin = || {
            let profile = Profile::HttpsWeb(WebRoots::system());
            let relationship = Relationship::new(other(), "https://127.0.0.1:1", profile);
            // It is not run: what it would fetch comes from here.
            drop(federation.follow(relationship.expect("good settings"), &stop).expect("room"));
            federation.state().next
        };
        let fetched = BundleDocument::parse(&other(), br#"{"keys":[]}"#).expect("a document");
        let arrives = |number| {
            federation.take_over(number, fetched.clone());
            federation.jwt_keys(&other(), &Reach::All).is_some()
        };
        let first = begin();
        assert!(arrives(first));
        assert!(federation.remove(&other()) && !arrives(first));
        let (second, third) = (begin(), begin());
        assert!(!arrives(first) && !arrives(second) && arrives(third));
    }

    #[test]
    fn a_workload_reaches_what_any_of_its_entries_names() {
        let domain = |name| TrustDomain::parse(name).expect("a good name");
        let identity = |federates_with: Option<Vec<TrustDomain>>| {
            let federates_with = federates_with.map(|some| some.into_iter().collect());
            let terms = Terms { federates_with, ..Terms::default() };
            Identity { spiffe_id: SpiffeId::parse("spiffe://here.org/a").expect("an ID"), terms }
        };
        let one = || identity(Some(vec![domain("one.org")]));
        let two = || identity(Some(vec![domain("two.org")]));
        for (identities, reaches) in [
            (vec![one()], [true, false]),
            (vec![one(), two()], [true, true]),
            (vec![identity(Some(vec![]))], [false, false]),
            (vec![one(), identity(None)], [true, true]),
        ] {
            let reach = Reach::of(&identities);
            let found = ["one.org", "two.org"].map(|name| reach.includes(&domain(name)));
            assert_eq!(found, reaches, "{reach:?}");
        }
    }
}
