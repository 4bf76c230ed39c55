//! SPIFFE bundle documents (SPIFFE_Trust_Domain_and_Bundle.md §4): the keys of one trust domain, as it publishes
//! them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::Refusal;
use crate::spiffe::id::TrustDomain;
use crate::spiffe::keys::Key;

/// What a document says that is of use to a verifier.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) jwt_keys: Vec<Key>,
    /// The certificates of X.509 authorities, DER.
    pub(super) x509_authorities: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

impl Document {
    /// Reads the document of `trust_domain`. An element that is of another kind, or that cannot be used, is left
    /// out; a document without `keys` is none.
    pub(super) fn parse(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, Refusal> {
        let unusable =
            |_| Refusal::Bundle { trust_domain: trust_domain.clone(), what: "it is not a JWK set" };
        let set: JwkSet = serde_json::from_slice(json).map_err(unusable)?;
        let mut document = Self { jwt_keys: Vec::new(), x509_authorities: Vec::new() };
        for jwk in &set.keys {
            if let Err(reason) = document.take_over(jwk) {
                tracing::warn!(%trust_domain, reason, "an element of a bundle is left out");
            }
        }
        Ok(document)
    }

    /// Unlike in the Workload API's answers, `use` decides, and must be there (§4.2.2).
    fn take_over(&mut self, jwk: &Value) -> Result<(), &'static str> {
        match text(jwk, "use") {
            Some("jwt-svid") => {
                // Without a name it could not be told from others (JWT-SVID.md §6).
                text(jwk, "kid").filter(|kid| !kid.is_empty()).ok_or("its kid is missing")?;
                self.jwt_keys.push(Key::from_jwk(jwk.to_string().as_bytes())?);
            }
            Some("x509-svid") => {
                text(jwk, "kty")
                    .filter(|kty| matches!(*kty, "EC" | "RSA" | "OKP"))
                    .ok_or("its key type is unknown")?;
                self.x509_authorities.push(certificate(jwk)?);
            }
            _ => return Err("its use is missing or unknown"),
        }
        Ok(())
    }
}

/// The first certificate counts, and the others do not (X509-SVID.md §6.2).
fn certificate(jwk: &Value) -> Result<Vec<u8>, &'static str> {
    let first = jwk.get("x5c").and_then(|chain| chain.get(0)).and_then(Value::as_str);
    let first = first.ok_or("it has no certificate")?;
    STANDARD.decode(first).map_err(|_| "its certificate is not base64")
}

fn text<'a>(jwk: &'a Value, name: &str) -> Option<&'a str> {
    jwk.get(name).and_then(Value::as_str)
}
