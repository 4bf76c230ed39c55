//! Verification by bundles at hand, without a Workload API.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::document::BundleDocument;
use super::{JwtTrust, VerifiedJwt};
use crate::Refusal;
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::keys;
use crate::spiffe::trust::{Usage, X509Trust};

/// Verifies SVIDs by SPIFFE bundle documents, such as `spire-server bundle show -format spiffe` prints.
///
/// A service rather asks its [`Workload`](crate::Workload), whose bundles follow every rotation; this one knows
/// only what it was given, which is right for tests, tools and audits. Who has no Workload API of its own and
/// verifies others by their bundle endpoints [follows them](crate::federation::follow_all).
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
        let read = |(trust_domain, json): (TrustDomain, D)| {
            BundleDocument::parse(&trust_domain, json.as_ref())
        };
        let documents = bundles.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Self::of_documents(&documents)
    }

    /// The same for documents that were read before. Two of one trust domain are refused, for bundles are never
    /// merged (SPIFFE_Federation.md §4.2).
    pub fn of_documents<'a>(
        documents: impl IntoIterator<Item = &'a BundleDocument>,
    ) -> Result<Self, Refusal> {
        let (mut jwt_keys, mut authorities) = (HashMap::new(), Vec::new());
        for document in documents {
            let trust_domain = document.trust_domain();
            let jwks = document.jwt_bundle().keys.iter().map(|key| key.json.as_bytes());
            let keys = keys::read(trust_domain, jwks);
            if jwt_keys.insert(trust_domain.clone(), keys).is_some() {
                let what = "it was given twice, and bundles are never merged";
                return Err(Refusal::Bundle { trust_domain: trust_domain.clone(), what });
            }
            authorities.push(document.x509_bundle());
        }
        let x509 = X509Trust::of_bundles(authorities);
        Ok(Self { jwt: JwtTrust::new(jwt_keys), x509 })
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
