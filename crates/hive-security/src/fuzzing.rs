//! Doors for the fuzz targets, which feed what the Workload API would send. Compiled with `--cfg fuzzing` only.

use std::time::SystemTime;

use spiffe::{JwtBundle, JwtBundleSet, X509BundleSet, X509Context, X509Svid};
use std::sync::Arc;

use crate::spiffe::source::{own_jwt_bundles, x509_material as material};
use crate::{Audience, JwtBundles, Refusal, TrustDomain, VerifiedJwt, X509Material};

/// What a message of the stream of JWT bundles becomes; `None` if the message is discarded.
pub fn jwt_bundles(trust_domain: &TrustDomain, jwks: &[u8]) -> Option<JwtBundles> {
    let trust_domain = spiffe::TrustDomain::new(trust_domain.as_str()).ok()?;
    let bundle = JwtBundle::from_jwt_authorities(trust_domain, jwks).ok()?;
    let mut set = JwtBundleSet::new();
    set.add_bundle(bundle);
    Some(own_jwt_bundles(&set))
}

/// Judges a token by them, as a server does.
pub fn verify_jwt(
    bundles: &JwtBundles,
    token: &str,
    audience: &Audience,
    now: SystemTime,
) -> Result<VerifiedJwt, Refusal> {
    bundles.trust.verify(token, audience, now)
}

/// What an X.509-SVID in a message of the X.509 stream becomes; `None` if the message is discarded.
pub fn x509_material(chain: &[u8], private_key: &[u8]) -> Option<X509Material> {
    let svid = X509Svid::parse_from_der(chain, private_key).ok()?;
    material(&X509Context::new([Arc::new(svid)], X509BundleSet::new())).ok()
}
