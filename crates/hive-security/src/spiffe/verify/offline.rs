//! Verification by bundles at hand, without a Workload API.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::document::Document;
use super::{JwtTrust, VerifiedJwt};
use crate::Refusal;
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::trust::{Usage, X509Trust};

/// Verifies SVIDs by SPIFFE bundle documents, such as `spire-server bundle show -format spiffe` prints.
///
/// A service rather asks its [`Workload`](crate::Workload), whose bundles follow every rotation; this one knows
/// only what it was given, which is right for tests, tools and audits.
///
/// ```
/// use hive_security::{Audience, Refusal, TrustDomain, Verifier};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let verifier = Verifier::new([(TrustDomain::parse("example.org")?, r#"{"keys":[]}"#)])?;
/// let audience = Audience::parse("registry.example.org")?;
/// let now = std::time::SystemTime::now();
/// assert!(matches!(verifier.verify_jwt("a.b", &audience, now), Err(Refusal::Malformed { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Verifier {
    jwt: JwtTrust,
    x509: X509Trust,
}

impl Verifier {
    /// Takes over the bundle document of each trust domain. Keys of unknown types or uses are left out, as are
    /// those that cannot be used; a trust domain without keys is known, and nothing of it is trusted.
    pub fn new<D: AsRef<[u8]>>(
        bundles: impl IntoIterator<Item = (TrustDomain, D)>,
    ) -> Result<Self, Refusal> {
        let mut jwt_keys = HashMap::new();
        let mut authorities = Vec::new();
        for (trust_domain, json) in bundles {
            let document = Document::parse(&trust_domain, json.as_ref())?;
            if jwt_keys.insert(trust_domain.clone(), document.jwt_keys).is_some() {
                let what = "it was given twice, and bundles are never merged";
                return Err(Refusal::Bundle { trust_domain, what });
            }
            authorities.push((trust_domain, document.x509_authorities));
        }
        let borrowed = authorities.iter().map(|(trust_domain, certificates)| {
            (trust_domain.clone(), certificates.iter().map(Vec::as_slice).collect())
        });
        Ok(Self { jwt: JwtTrust::new(jwt_keys), x509: X509Trust::new(borrowed) })
    }

    /// Verifies a JWT-SVID that is meant for `audience`, as
    /// [`Workload::verify_jwt`](crate::Workload::verify_jwt) does, at `now`.
    pub fn verify_jwt(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        self.jwt.verify(token, audience, now)
    }

    /// The same for a token that will not be seen again: nothing is remembered, and nothing recalled.
    pub fn verify_jwt_afresh(
        &self,
        token: &str,
        audience: &Audience,
        now: SystemTime,
    ) -> Result<VerifiedJwt, Refusal> {
        self.jwt.verify_afresh(token, audience, now)
    }

    /// Whose X.509-SVID it is: `chain` has the leaf first, and is presented for `usage` at `now`.
    pub fn verify_x509(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<SpiffeId, Refusal> {
        let (leaf, intermediates) =
            chain.split_first().ok_or(Refusal::Certificate { what: "there is none" })?;
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since_epoch);
        self.x509.verify(leaf, intermediates, usage, now)
    }
}
