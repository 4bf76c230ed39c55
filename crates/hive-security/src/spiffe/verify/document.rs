//! SPIFFE bundle documents (SPIFFE_Trust_Domain_and_Bundle.md §4): the keys of one trust domain, as it publishes
//! them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::Value;

use crate::Refusal;
use crate::spiffe::bundle::{JwtBundle, PublishedKey, X509Bundle};
use crate::spiffe::id::TrustDomain;
use crate::spiffe::keys::Key;
use crate::spiffe::trust::check_authority;

/// A trust domain's bundle document: its keys of both kinds, their sequence number, and when to ask again.
///
/// The document does not say whose it is, so whoever reads it must know (SPIFFE_Federation.md §7.3). The order of
/// its keys says nothing: two are equal when the keys are.
///
/// ```
/// use hive_security::{BundleDocument, TrustDomain};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let trust_domain = TrustDomain::parse("example.org")?;
/// let json = br#"{"keys":[],"spiffe_sequence":7,"spiffe_refresh_hint":300}"#;
/// let document = BundleDocument::parse(&trust_domain, json)?;
/// assert_eq!(document.sequence(), Some(7));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleDocument {
    x509: X509Bundle,
    jwt: JwtBundle,
    sequence: Option<u64>,
    pub(super) refresh_hint: Option<Duration>,
}

/// What of a document is read; whatever else is in it is ignored (§4.1).
#[derive(Deserialize)]
pub(super) struct JwkSet {
    keys: Vec<Value>,
    spiffe_sequence: Option<Value>,
    spiffe_refresh_hint: Option<Value>,
}

impl BundleDocument {
    /// Reads the document of `trust_domain`. An element that is of another kind, or that cannot be used, is left
    /// out; a document without `keys`, or whose `spiffe_sequence` is no whole number of 64 bits, is none.
    pub fn parse(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, Refusal> {
        let refused = |what| Refusal::Bundle { trust_domain: trust_domain.clone(), what };
        let text = std::str::from_utf8(json).map_err(|_| refused("it is not UTF-8"))?;
        // The message of the parser would repeat what a stranger sent.
        let set = serde_json::from_str(text).map_err(|_| refused("it is not a JWK set"))?;
        Self::read(trust_domain, &set)
    }

    pub(super) fn read(trust_domain: &TrustDomain, set: &JwkSet) -> Result<Self, Refusal> {
        let what = "its spiffe_sequence is not a whole number of 64 bits";
        let refused = || Refusal::Bundle { trust_domain: trust_domain.clone(), what };
        let sequence = set.spiffe_sequence.as_ref().map(|value| value.as_u64().ok_or_else(refused));
        let mut document = Self {
            x509: X509Bundle { trust_domain: trust_domain.clone(), authorities: Vec::new() },
            jwt: JwtBundle { trust_domain: trust_domain.clone(), keys: Vec::new() },
            sequence: sequence.transpose()?,
            refresh_hint: set.spiffe_refresh_hint.as_ref().and_then(seconds),
        };
        document.take_over_all(&set.keys);
        Ok(document)
    }

    /// Whose keys they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.x509.trust_domain()
    }

    /// By what its X.509-SVIDs are known.
    pub fn x509_bundle(&self) -> &X509Bundle {
        &self.x509
    }

    /// By what its JWT-SVIDs are known.
    pub fn jwt_bundle(&self) -> &JwtBundle {
        &self.jwt
    }

    /// Its number, which grows with each change (§4.1.1); `None` if it says none.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How often it wants to be asked for (§4.1.2), in whole seconds and as it was said: 0, or for ever; `None` if
    /// it says none, or what is no number of seconds.
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// Whether nothing of this trust domain is trusted, because it revoked all keys, or has only such as are not
    /// understood here (§4.1.3).
    pub fn is_empty(&self) -> bool {
        self.x509.authorities.is_empty() && self.jwt.keys.is_empty()
    }

    /// Whether it may take the place of `known`, which was the latest so far: not if its number is smaller. Where
    /// one of them has no number, the one that came later is the latest (SPIFFE_Federation.md §4.2).
    pub fn supersedes(&self, known: &Self) -> bool {
        match (self.sequence, known.sequence) {
            (Some(new), Some(old)) => new >= old,
            _ => true,
        }
    }

    fn take_over_all(&mut self, keys: &[Value]) {
        let left_out: Vec<_> = keys.iter().filter_map(|jwk| self.take_over(jwk).err()).collect();
        // Once, however many there are: a document is a stranger's, and comes again and again.
        if let Some(reason) = left_out.first() {
            let (trust_domain, elements) = (self.trust_domain(), left_out.len());
            tracing::warn!(%trust_domain, elements, reason, "elements of a bundle are left out");
        }
        // SPIRE serves the keys of an unchanged bundle in another order each time.
        self.x509.authorities.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        self.jwt.keys.sort_by(|a, b| (&a.kid, &a.json).cmp(&(&b.kid, &b.json)));
    }

    /// Unlike in the Workload API's answers, `use` decides, and must be there (§4.2.2).
    fn take_over(&mut self, jwk: &Value) -> Result<(), &'static str> {
        match text(jwk, "use") {
            Some("jwt-svid") => {
                // Without a name it could not be told from others (JWT-SVID.md §6).
                let kid =
                    text(jwk, "kid").filter(|kid| !kid.is_empty()).ok_or("its kid is missing")?;
                let json = jwk.to_string();
                Key::from_jwk(json.as_bytes())?;
                self.jwt.keys.push(PublishedKey { kid: kid.to_owned(), json });
            }
            Some("x509-svid") => {
                text(jwk, "kty")
                    .filter(|kty| matches!(*kty, "EC" | "RSA" | "OKP"))
                    .ok_or("its key type is unknown")?;
                self.x509.authorities.push(certificate(jwk)?);
            }
            _ => return Err("its use is missing or unknown"),
        }
        Ok(())
    }
}

/// The first certificate counts, and the others do not (X509-SVID.md §6.2).
fn certificate(jwk: &Value) -> Result<CertificateDer<'static>, &'static str> {
    let first = jwk.get("x5c").and_then(|chain| chain.get(0)).and_then(Value::as_str);
    let first = first.ok_or("it has no certificate")?;
    let der = STANDARD.decode(first).map_err(|_| "its certificate is not base64")?;
    check_authority(&der)?;
    Ok(CertificateDer::from(der))
}

/// A hint is no reason to refuse the keys that come with it: what is none is as good as absent. One that is too
/// large for 64 bits still says "rarely".
fn seconds(hint: &Value) -> Option<Duration> {
    let seconds = hint.as_u64().or_else(|| {
        let large = hint.as_f64().is_some_and(|hint| hint >= u64::MAX as f64);
        large.then_some(u64::MAX)
    });
    seconds.map(Duration::from_secs)
}

fn text<'a>(jwk: &'a Value, name: &str) -> Option<&'a str> {
    jwk.get(name).and_then(Value::as_str)
}
