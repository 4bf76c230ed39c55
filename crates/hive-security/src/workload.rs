//! The one entry point: who this workload is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;

use crate::rotating::Rotating;
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::jwt::{Fetch, JwtSvids};
use crate::spiffe::pattern::IdPattern;
use crate::spiffe::source::{self, JwtState, Streams, X509State};
use crate::spiffe::svid::{JwtSvid, X509Svid};
use crate::spiffe::trust::Usage;
use crate::spiffe::verify::VerifiedJwt;
use crate::{Envelope, Error, Refusal, sign};

/// Where this workload's identity comes from.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// The Workload API's address as in `SPIFFE_ENDPOINT_SOCKET`: `unix:///…`.
    pub endpoint: String,
    /// How long to wait for the first identity: an entry may be younger than the process it names.
    pub attach_deadline: Duration,
}

/// This workload: its SVIDs, and the bundles by which it knows others. Cheap to clone.
///
/// Everything it hands out is current: nobody who holds a `Workload` notices that an SVID was replaced. Once
/// the Workload API withdraws the identity, everything fails with [`Error::Withdrawn`]
/// (or [`Refusal::NoTrust`]) until it is given back.
#[derive(Clone, Debug)]
pub struct Workload {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    x509: Rotating<X509State>,
    jwt: Rotating<JwtState>,
    jwt_svids: JwtSvids,
}

/// The task that keeps a [`Workload`] current; spawn its [`run`](Self::run).
#[must_use = "a workload whose upkeep does not run never learns of rotation or withdrawal"]
#[derive(Debug)]
pub struct Upkeep {
    streams: Streams,
}

impl Workload {
    /// Connects to the Workload API and waits until there is an identity to use.
    ///
    /// Fails at once where waiting cannot help (the endpoint is not an address), and after
    /// `attach_deadline` with the Workload API's last word.
    pub async fn attach(config: WorkloadConfig) -> Result<(Self, Upkeep), Error> {
        let attached = source::attach(&config).await?;
        let workload = Self::assemble(attached.x509, attached.jwt, attached.fetch)?;
        Ok((workload, Upkeep { streams: attached.streams }))
    }

    /// A workload from what changes under it; its trust domain stays.
    pub(crate) fn assemble(
        x509: Rotating<X509State>,
        jwt: Rotating<JwtState>,
        fetch: Arc<dyn Fetch>,
    ) -> Result<Self, Error> {
        let trust_domain = current_svid(&x509)?.spiffe_id().trust_domain();
        let inner = Inner { trust_domain, x509, jwt, jwt_svids: JwtSvids::new(fetch) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This workload's SPIFFE ID.
    pub fn spiffe_id(&self) -> Result<SpiffeId, Error> {
        Ok(self.x509_svid()?.spiffe_id().clone())
    }

    /// The trust domain of this workload.
    pub fn trust_domain(&self) -> TrustDomain {
        self.inner.trust_domain.clone()
    }

    /// The current X.509-SVID; an error once it was withdrawn, or has expired without being replaced.
    pub fn x509_svid(&self) -> Result<Arc<X509Svid>, Error> {
        current_svid(&self.inner.x509)
    }

    /// A JWT-SVID for `audience`, and for nobody else.
    ///
    /// It is fetched once for all who ask, refreshed in the background past half of its life, and kept while
    /// the Workload API is out of reach, until it expires.
    pub async fn jwt_svid(&self, audience: &Audience) -> Result<Arc<JwtSvid>, Error> {
        let spiffe_id = self.spiffe_id()?;
        self.inner.jwt_svids.svid(&spiffe_id, audience).await
    }

    /// Verifies a JWT-SVID that someone presented as meant for `audience`.
    ///
    /// `exp` and `nbf` are held against this machine's clock with a leeway of 30 seconds. A token that was
    /// verified is believed for 60 seconds, or until it expires or a JWT bundle changes, whichever is first.
    pub fn verify_jwt(&self, token: &str, audience: &Audience) -> Result<VerifiedJwt, Refusal> {
        match &*self.inner.jwt.current() {
            Ok(trust) => trust.verify(token, audience, SystemTime::now()),
            Err(error) => Err(Refusal::no_trust(error)),
        }
    }

    /// Signs `payload` with the key of the X.509-SVID.
    ///
    /// The envelope can be opened until that SVID expires.
    pub fn sign(&self, payload_type: &str, payload: &[u8]) -> Result<Envelope, Error> {
        sign::sign(&*self.x509_svid()?, payload_type, payload)
    }

    /// Opens an envelope: checks that one of `from` signed a payload of this type, and says who.
    ///
    /// The signer's chain must lead to the bundle of its own trust domain, now.
    pub fn open(
        &self,
        envelope: &Envelope,
        payload_type: &str,
        from: &IdPattern,
    ) -> Result<SpiffeId, Refusal> {
        sign::open(self, envelope, payload_type, from)
    }

    /// Whose certificate it is, by the bundles of this moment.
    pub(crate) fn verify_certificate(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<SpiffeId, Refusal> {
        match &*self.inner.x509.current() {
            Ok(material) => material.trust.verify(leaf, intermediates, usage, now),
            Err(error) => Err(Refusal::no_trust(error)),
        }
    }
}

impl Upkeep {
    /// Follows the Workload API until `stop`. The material of that moment then serves for draining, until it
    /// expires.
    pub async fn run(self, stop: CancellationToken) {
        self.streams.run(stop).await;
    }
}

fn current_svid(x509: &Rotating<X509State>) -> Result<Arc<X509Svid>, Error> {
    let current = x509.current();
    let material = current.as_ref().as_ref().map_err(Error::clone)?;
    let Some(svid) = &material.svid else {
        return Err(Error::Withdrawn {
            reason: "it sent bundles and no SVID that is still good".to_owned(),
        });
    };
    if svid.expires_at() <= SystemTime::now() {
        return Err(Error::Expired { spiffe_id: svid.spiffe_id().to_string() });
    }
    Ok(Arc::clone(svid))
}
