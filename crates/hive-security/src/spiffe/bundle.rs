//! Bundles as their holders see them: the public keys of one trust domain.

use std::fmt::Write as _;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::spiffe::id::TrustDomain;
use crate::spiffe::svid::validity;

/// The authorities by which a trust domain's X.509-SVIDs are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Bundle {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
}

/// The keys by which a trust domain's JWT-SVIDs are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtBundle {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) keys: Vec<PublishedKey>,
}

/// One key, as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedKey {
    pub(crate) kid: String,
    /// The JWK.
    pub(crate) json: String,
}

impl X509Bundle {
    /// Whose authorities they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Their certificates; none means that nothing of this trust domain is trusted.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// When the last of them expires; `None` if there is none that can be read.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.authorities.iter().filter_map(|der| Some(validity(der)?.1)).max()
    }
}

impl JwtBundle {
    /// Whose keys they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The `kid` of each key; none means that nothing of this trust domain is trusted.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.kid.as_str())
    }

    /// The keys as a JWK set (RFC 7517 §5), for those who verify JWT-SVIDs elsewhere.
    pub fn to_jwks(&self) -> String {
        let mut text = r#"{"keys":["#.to_owned();
        for (index, key) in self.keys.iter().enumerate() {
            let _ = write!(text, "{}{}", if index == 0 { "" } else { "," }, key.json);
        }
        text + "]}"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_a_jwk_set_with_all_its_keys_or_none() {
        let key = |kid: &str| PublishedKey {
            kid: kid.to_owned(),
            json: serde_json::json!({ "kid": kid }).to_string(),
        };
        let trust_domain = TrustDomain::parse("td").unwrap();
        for keys in [vec![], vec![key("a")], vec![key("a"), key("b")]] {
            let count = keys.len();
            let bundle = JwtBundle { trust_domain: trust_domain.clone(), keys };
            let jwks: serde_json::Value = serde_json::from_str(&bundle.to_jwks()).unwrap();
            assert_eq!(jwks["keys"].as_array().unwrap().len(), count);
            assert_eq!(bundle.key_ids().count(), count);
        }
    }
}
