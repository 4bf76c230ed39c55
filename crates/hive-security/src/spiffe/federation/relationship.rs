//! What is configured: whose bundle, where, and how the endpoint is known (SPIFFE_Federation.md §5.1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Error, Polling, fetch};
use crate::rotating::Rotating;
use crate::spiffe::id::{SpiffeId, TrustDomain};
use crate::spiffe::verify::BundleDocument;

/// From the first packet to the last byte, redirects included: bundles have kilobytes.
const DEADLINE: Duration = Duration::from_secs(30);

/// From whom and how the bundle of one trust domain is fetched. It is one-way: the other side needs its own.
#[derive(Clone)]
pub struct Relationship {
    pub(super) trust_domain: TrustDomain,
    pub(super) url: Url,
    pub(super) profile: Profile,
    pub(super) polling: Polling,
    pub(super) deadline: Duration,
}

/// How the endpoint is known (§5.2). Both are HTTPS, with TLS 1.2 or newer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Profile {
    /// `https_spiffe`: by an X.509-SVID.
    HttpsSpiffe {
        /// Whose X.509-SVID it must be: exactly this one's.
        endpoint_id: SpiffeId,
        /// By which bundle the X.509-SVID is verified: that of the endpoint's own trust domain.
        bundle: EndpointBundle,
    },
    /// `https_web`: by the host in its URL, and a certificate of one of these authorities.
    HttpsWeb(WebRoots),
}

/// The bundle of the trust domain that an `https_spiffe` endpoint belongs to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EndpointBundle {
    /// The bundle that [`follow`](super::follow) keeps for another relationship; for an endpoint that belongs to
    /// another trust domain than the one it serves. As soon as it is known, the endpoint is asked.
    Followed(Rotating<Option<BundleDocument>>),
    /// This one. An endpoint that belongs to the trust domain it serves is known by it once, and from then on by
    /// what was fetched last (§5.2.2.4).
    Given(BundleDocument),
}

/// The certificate authorities that may vouch for an `https_web` endpoint.
#[derive(Clone)]
pub struct WebRoots(pub(super) Roots);

#[derive(Clone)]
pub(super) enum Roots {
    Given(Arc<RootCertStore>),
    System,
}

impl Relationship {
    /// The bundle of `trust_domain` is at `url`, and the endpoint is known by `profile`.
    ///
    /// The URL's scheme must be `https`, and it must not hold user information. The bundle of an `https_spiffe`
    /// endpoint must be that of the endpoint's trust domain. All else is an [`Error::Setting`].
    pub fn new(trust_domain: TrustDomain, url: &str, profile: Profile) -> Result<Self, Error> {
        let refused =
            |what, reason| Error::Setting { trust_domain: trust_domain.clone(), what, reason };
        let url = endpoint_url(url).map_err(|reason| refused("URL", reason))?;
        if let Profile::HttpsSpiffe { endpoint_id, bundle } = &profile {
            check(&trust_domain, endpoint_id, bundle).map_err(|(what, why)| refused(what, why))?;
        }
        let (polling, deadline) = (Polling::default(), DEADLINE);
        Ok(Self { trust_domain, url, profile, polling, deadline })
    }

    /// With other bounds for the pause between two polls.
    #[must_use]
    pub fn polled(mut self, polling: Polling) -> Self {
        self.polling = polling;
        self
    }

    /// With another deadline than 30 seconds for one fetch, redirects included.
    #[must_use]
    pub fn answered_within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whose bundle it is about.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Fetches the bundle once. `latest` is what was fetched last, if anything was: it is what an endpoint of that
    /// same trust domain must prove itself by. Whether the answer [supersedes](BundleDocument::supersedes) it is
    /// for the caller to see.
    ///
    /// Redirects are followed, at most 5, and not remembered. Nothing of the environment is looked at, so no proxy
    /// is used. Dropping the future ends the attempt.
    pub async fn fetch(&self, latest: Option<&BundleDocument>) -> Result<BundleDocument, Error> {
        fetch::fetch(self, latest).await
    }

    /// Whether there is nothing to know the endpoint by, so that asking it is in vain.
    pub(super) fn endpoint_is_unknown(&self) -> bool {
        self.followed().is_some_and(|followed| followed.current().is_none())
    }

    /// Resolves when there is something to know the endpoint by; perhaps never.
    pub(super) async fn endpoint_becomes_known(&self) {
        if let Some(mut followed) = self.followed().cloned() {
            while followed.current().is_none() {
                if followed.changed().await.is_none() {
                    return std::future::pending().await;
                }
            }
        }
    }

    fn followed(&self) -> Option<&Rotating<Option<BundleDocument>>> {
        match &self.profile {
            Profile::HttpsSpiffe { bundle: EndpointBundle::Followed(followed), .. } => {
                Some(followed)
            }
            _ => None,
        }
    }

    /// What is known before anything was fetched.
    pub(super) fn bootstrap(&self) -> Option<&BundleDocument> {
        match &self.profile {
            Profile::HttpsSpiffe { bundle: EndpointBundle::Given(bundle), .. }
                if *bundle.trust_domain() == self.trust_domain =>
            {
                Some(bundle)
            }
            _ => None,
        }
    }
}

impl WebRoots {
    /// Those of this system, as they are at each fetch; `SSL_CERT_FILE` and `SSL_CERT_DIR` say otherwise.
    pub fn system() -> Self {
        Self(Roots::System)
    }

    /// The certificates in `pem`, and no others. What is wrong with them is said as a sentence.
    pub fn from_pem(pem: &str) -> Result<Self, &'static str> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| "the roots are not PEM")?;
            roots.add(certificate).map_err(|_| "one of the roots is no authority's certificate")?;
        }
        if roots.is_empty() {
            return Err("there is no certificate among the roots");
        }
        Ok(Self(Roots::Given(Arc::new(roots))))
    }
}

/// §5.2.1.1 and §5.2.2.1, for the address that is configured and for those that an endpoint redirects to.
pub(super) fn check_url(url: &Url) -> Result<(), &'static str> {
    if url.scheme() != "https" {
        return Err("its scheme is not https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds user information");
    }
    Ok(())
}

fn endpoint_url(text: &str) -> Result<Url, &'static str> {
    // A URL parser would take these away in silence, and an @ with nothing before it as well.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("it holds white space, control characters or backslashes");
    }
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    if authority.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@')) {
        return Err("it holds user information");
    }
    let url = Url::parse(text).map_err(|_| "it is not a URL")?;
    check_url(&url)?;
    Ok(url)
}

fn check(
    trust_domain: &TrustDomain,
    endpoint_id: &SpiffeId,
    bundle: &EndpointBundle,
) -> Result<(), (&'static str, &'static str)> {
    let home = endpoint_id.trust_domain();
    if endpoint_id.path().is_empty() {
        return Err(("endpoint SPIFFE ID", "it has no path, so it is no workload's"));
    }
    match bundle {
        EndpointBundle::Given(bundle) if *bundle.trust_domain() != home => {
            Err(("endpoint bundle", "it is not that of the endpoint's trust domain"))
        }
        EndpointBundle::Followed(_) if home == *trust_domain => {
            Err(("endpoint bundle", "the endpoint serves its own, so the first one must be given"))
        }
        _ => Ok(()),
    }
}

/// Host and port, which is all that is said of an address.
pub(super) fn name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

impl fmt::Debug for Relationship {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relationship")
            .field("trust_domain", &self.trust_domain)
            .field("endpoint", &name(&self.url))
            .field("profile", &self.profile)
            .field("polling", &self.polling)
            .field("deadline", &self.deadline)
            .finish()
    }
}

impl fmt::Debug for WebRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Roots::Given(roots) => write!(f, "WebRoots({} given)", roots.len()),
            Roots::System => f.write_str("WebRoots(system)"),
        }
    }
}
