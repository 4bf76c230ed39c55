//! The bundles of other trust domains: read from SPIFFE bundle documents, kept apart, and handed to workloads.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_security::TrustDomain;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Error;
use super::jwk::PublicKey;

/// More than any deployment that is known of.
const DOMAINS_MAX: usize = 1_024;

/// What is known of other trust domains. Never mixed, neither with each other nor with our own.
#[derive(Debug)]
pub(super) struct Federation {
    bundles: Mutex<BTreeMap<TrustDomain, Bundle>>,
    changed: watch::Sender<u64>,
}

/// One trust domain's keys.
#[derive(Clone, Debug, Default)]
struct Bundle {
    sequence: Option<u64>,
    /// Concatenated DER.
    x509: Vec<u8>,
    jwt: Vec<Value>,
}

/// Trust Domain and Bundle standard, section 4. Members that are not known are ignored.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
    spiffe_sequence: Option<u64>,
}

impl Default for Federation {
    fn default() -> Self {
        Self { bundles: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Federation {
    /// Takes over a bundle document; false if a newer one is known already.
    pub(super) fn set(&self, domain: TrustDomain, document: &str) -> Result<bool, Error> {
        let bundle = parse(document)?;
        let mut bundles = self.bundles();
        let known = bundles.get(&domain);
        if known.is_some_and(|known| bundle.sequence < known.sequence) {
            return Ok(false);
        }
        if known.is_none() && bundles.len() >= DOMAINS_MAX {
            return Err(Error::Bundle {
                reason: "too many trust domains are federated with".into(),
            });
        }
        bundles.insert(domain, bundle);
        drop(bundles);
        self.announce();
        Ok(true)
    }

    pub(super) fn remove(&self, domain: &TrustDomain) -> bool {
        let removed = self.bundles().remove(domain).is_some();
        if removed {
            self.announce();
        }
        removed
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes every open stream say its state again.
    pub(super) fn announce(&self) {
        self.changed.send_modify(|revision| *revision += 1);
    }

    /// By the SPIFFE ID of the trust domain. A bundle without X.509 authorities is not among them.
    pub(super) fn x509_bundles(&self) -> HashMap<String, Vec<u8>> {
        let bundles = self.bundles();
        let some = bundles.iter().filter(|(_, bundle)| !bundle.x509.is_empty());
        some.map(|(domain, bundle)| (id(domain), bundle.x509.clone())).collect()
    }

    /// By the SPIFFE ID of the trust domain: JWKS documents with JWT keys only.
    pub(super) fn jwt_bundles(&self) -> HashMap<String, Vec<u8>> {
        let jwks = |bundle: &Bundle| json!({ "keys": bundle.jwt }).to_string().into_bytes();
        self.bundles().iter().map(|(domain, bundle)| (id(domain), jwks(bundle))).collect()
    }

    /// None if the trust domain is unknown.
    pub(super) fn jwt_keys(&self, domain: &TrustDomain) -> Option<Vec<PublicKey>> {
        let bundles = self.bundles();
        Some(bundles.get(domain)?.jwt.iter().filter_map(PublicKey::parse).collect())
    }

    /// Every change is one call, so a panicking holder leaves it whole.
    fn bundles(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, Bundle>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

fn parse(document: &str) -> Result<Bundle, Error> {
    let refused = |reason: String| Error::Bundle { reason };
    let document: Document =
        serde_json::from_str(document).map_err(|error| refused(error.to_string()))?;
    let mut bundle = Bundle { sequence: document.spiffe_sequence, ..Bundle::default() };
    for jwk in document.keys {
        match jwk.get("use").and_then(Value::as_str) {
            Some("x509-svid") => {
                bundle.x509.extend(x509(&jwk).map_err(refused)?.unwrap_or_default());
            }
            Some("jwt-svid") if PublicKey::parse(&jwk).is_some() => bundle.jwt.push(jwk),
            // Whatever is not known is ignored, and nothing else for its sake.
            _ => {}
        }
    }
    Ok(bundle)
}

/// The certificate of a key, if it has one; what follows the first is ignored (X509-SVID standard, section 6.2).
fn x509(jwk: &Value) -> Result<Option<Vec<u8>>, String> {
    let Some(first) = jwk.pointer("/x5c/0").and_then(Value::as_str) else { return Ok(None) };
    let der = STANDARD.decode(first).map_err(|_| "an `x5c` is not base64".to_owned())?;
    webpki::anchor_from_trusted_cert(&CertificateDer::from(der.as_slice()))
        .map_err(|error| format!("an `x5c` is not a certificate: {error}"))?;
    Ok(Some(der))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::ca::X509Authority;
    use crate::authority::jwt::{JwtAuthority, Use};
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
    fn keys_go_to_the_bundle_of_their_use_and_unknown_ones_nowhere() {
        let (x509, jwt) = jwks();
        let strange = json!({ "kty": "OKP", "use": "jwt-svid", "kid": "k" });
        let useless = json!({ "kty": "EC", "crv": "P-256" });
        let bare = json!({ "kty": "EC", "use": "x509-svid" });
        let document = json!({ "keys": [x509, strange, useless, bare, jwt], "spiffe_sequence": 7 });
        let federation = Federation::default();
        assert!(federation.set(other(), &document.to_string()).expect("a bundle"));
        let x509_bundles = federation.x509_bundles();
        let der = STANDARD.decode(x509["x5c"][0].as_str().expect("text")).expect("base64");
        assert_eq!(x509_bundles.get("spiffe://other.org"), Some(&der));
        let jwt_bundles = federation.jwt_bundles();
        let found: Value =
            serde_json::from_slice(&jwt_bundles["spiffe://other.org"]).expect("JSON");
        assert_eq!(found, json!({ "keys": [jwt] }));
        assert_eq!(federation.jwt_keys(&other()).map(|keys| keys.len()), Some(1));
    }

    #[test]
    fn an_older_document_does_not_replace_a_newer_one() {
        let document =
            |sequence: u64| json!({ "keys": [], "spiffe_sequence": sequence }).to_string();
        let federation = Federation::default();
        for (sequence, taken) in [(7, true), (6, false), (7, true), (8, true)] {
            assert_eq!(federation.set(other(), &document(sequence)).expect("a bundle"), taken);
        }
        assert!(federation.remove(&other()) && !federation.remove(&other()));
        assert!(federation.set(other(), &document(1)).expect("a bundle"));
    }

    #[test]
    fn a_document_without_keys_or_with_a_broken_certificate_is_refused_whole() {
        let federation = Federation::default();
        for document in [
            "{}".to_owned(),
            "[]".to_owned(),
            json!({ "keys": [{ "use": "x509-svid", "x5c": ["AAAA"] }] }).to_string(),
            json!({ "keys": [{ "use": "x509-svid", "x5c": ["?"] }] }).to_string(),
        ] {
            let refused = federation.set(other(), &document);
            assert!(matches!(refused, Err(Error::Bundle { .. })), "{document}");
        }
        assert!(federation.jwt_keys(&other()).is_none());
    }
}
