//! How an endpoint proves who it is: TLS by the profile of the relationship (SPIFFE_Federation.md §5.2).

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use super::Error;
use super::relationship::{EndpointBundle, Profile, Relationship, Roots};
use crate::spiffe::id::SpiffeId;
use crate::spiffe::pattern::IdPattern;
use crate::spiffe::trust::X509Trust;
use crate::spiffe::verify::BundleDocument;
use crate::tls::{self, Authorities, Verifier};

/// TLS for one fetch. It is made anew each time, so that no session outlives the bundle it was verified by.
///
/// No certificate is presented: a bundle endpoint must not ask for one (§5.2.1.3).
pub(super) async fn client_config(
    relationship: &Relationship,
    latest: Option<&BundleDocument>,
) -> Result<ClientConfig, Error> {
    // Cipher suites and groups of rustls are within Mozilla's intermediate recommendation (§5.2).
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let mut config = match &relationship.profile {
        Profile::HttpsSpiffe { endpoint_id, bundle } => {
            let trust = endpoint_trust(endpoint_id, bundle, latest)?;
            let endpoint = IdPattern::exactly(endpoint_id);
            let verifier = Verifier::new(Authorities::Fixed(trust), Some(endpoint));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Profile::HttpsWeb(roots) => {
            let roots = match &roots.0 {
                Roots::Given(roots) => Arc::clone(roots),
                Roots::System => Arc::new(system_roots().await?),
            };
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The latest bundle of the trust domain that the endpoint belongs to, and no other's (§5.2.2.4).
fn endpoint_trust(
    endpoint_id: &SpiffeId,
    bundle: &EndpointBundle,
    latest: Option<&BundleDocument>,
) -> Result<X509Trust, Error> {
    let trust_domain = endpoint_id.trust_domain();
    let of = |document: &BundleDocument| X509Trust::of_bundles([document.x509_bundle()]);
    let ours = |document: &&BundleDocument| *document.trust_domain() == trust_domain;
    if let Some(latest) = latest.filter(ours) {
        return Ok(of(latest));
    }
    let followed = match bundle {
        EndpointBundle::Given(given) => return Ok(of(given)),
        EndpointBundle::Followed(followed) => followed.current(),
    };
    followed.as_ref().as_ref().filter(ours).map(of).ok_or(Error::NoBundle { trust_domain })
}

/// They are read from a file of some 200 KiB, and again at each fetch: who updates them need not restart us.
async fn system_roots() -> Result<RootCertStore, Error> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(|error| unusable(&error))?;
    let mut roots = RootCertStore::empty();
    // Some in a system's list are too old to be read, and are no reason to do without the others.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let reason =
            loaded.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(Error::NoRoots { reason });
    }
    Ok(roots)
}

fn unusable(error: &dyn std::fmt::Display) -> Error {
    Error::NoRoots { reason: error.to_string() }
}
