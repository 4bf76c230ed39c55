//! The one entry point: who this workload is.

mod config;
mod endpoint;

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::rotating::Rotating;
use crate::serve::{HandshakeCounts, Handshakes};
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::jwt::{Fetch, JwtSvidFetches, JwtSvids};
use crate::spiffe::pattern::IdPattern;
use crate::spiffe::source::{self, JwtBundles, JwtState, Streams, X509Material, X509State};
use crate::spiffe::svid::{JwtSvid, X509Svid};
use crate::spiffe::trust::Usage;
use crate::spiffe::verify::VerifiedJwt;
use crate::{Envelope, Error, Refusal, sign};

pub use config::{WorkloadConfig, WrongSetting};
pub use endpoint::Endpoint;

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
    handshakes: Arc<HandshakeCounts>,
}

/// The task that keeps a [`Workload`] current; spawn its [`run`](Self::run).
#[must_use = "a workload whose upkeep does not run never learns of rotation or withdrawal"]
#[derive(Debug)]
pub struct Upkeep {
    streams: Streams,
    workload: Workload,
}

impl Workload {
    /// Connects to the Workload API and waits until there is an identity to use.
    ///
    /// Fails at once where waiting cannot help (the endpoint is not an address), and after
    /// `attach_deadline` with the Workload API's last word.
    pub async fn attach(config: WorkloadConfig) -> Result<(Self, Upkeep), Error> {
        let attached = source::attach(&config).await?;
        let workload = Self::assemble(attached.x509, attached.jwt, attached.fetch)?;
        let upkeep = Upkeep { streams: attached.streams, workload: workload.clone() };
        Ok((workload, upkeep))
    }

    /// A workload from what changes under it; its trust domain stays.
    pub(crate) fn assemble(
        x509: Rotating<X509State>,
        jwt: Rotating<JwtState>,
        fetch: Arc<dyn Fetch>,
    ) -> Result<Self, Error> {
        let trust_domain = current_svid(&x509)?.spiffe_id().trust_domain();
        let jwt_svids = JwtSvids::new(fetch);
        let inner = Inner { trust_domain, x509, jwt, jwt_svids, handshakes: Arc::default() };
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

    /// Everything that the Workload API says about X.509: all X.509-SVIDs with their hints, and the bundles of this
    /// trust domain and of those it federates with.
    ///
    /// A value is one message of the Workload API, whole: SVIDs and bundles that belong together. It is an error
    /// while the identity is withdrawn.
    pub fn x509(&self) -> Rotating<Result<X509Material, Error>> {
        self.inner.x509.subscribe()
    }

    /// The JWT bundles of this trust domain and of those it federates with; an error while they are withdrawn.
    pub fn jwt_bundles(&self) -> Rotating<Result<JwtBundles, Error>> {
        self.inner.jwt.subscribe()
    }

    /// The current X.509-SVID that the operator marked with `hint`; see [`x509_svid`](Self::x509_svid).
    pub fn x509_svid_by_hint(&self, hint: &str) -> Result<Arc<X509Svid>, Error> {
        let unknown = || Error::UnknownHint { hint: hint.chars().take(200).collect() };
        current(&self.inner.x509, |material| material.svid_by_hint(hint).ok_or_else(unknown))
    }

    /// The current default X.509-SVID, the first that the Workload API names; an error once it was withdrawn, or has expired without being replaced.
    pub fn x509_svid(&self) -> Result<Arc<X509Svid>, Error> {
        current_svid(&self.inner.x509)
    }

    /// A JWT-SVID for `audience`, and for nobody else.
    ///
    /// It is fetched once for all who ask, refreshed in the background between 50 and 70 % of its life, and kept while
    /// the Workload API is out of reach, until it expires. It is replaced at once when its key leaves the JWT bundle.
    pub async fn jwt_svid(&self, audience: &Audience) -> Result<Arc<JwtSvid>, Error> {
        let x509_svid = self.x509_svid()?;
        self.inner.jwt_svids.svid(x509_svid.spiffe_id(), audience).await
    }

    /// How the fetches of JWT-SVIDs so far have ended.
    pub fn jwt_svid_fetches(&self) -> JwtSvidFetches {
        self.inner.jwt_svids.fetches()
    }

    /// How the handshakes of this workload's servers ([`serve`](crate::serve)) have ended so far.
    pub fn handshakes(&self) -> Handshakes {
        self.inner.handshakes.tally()
    }

    pub(crate) fn handshake_counts(&self) -> Arc<HandshakeCounts> {
        Arc::clone(&self.inner.handshakes)
    }

    /// Verifies a JWT-SVID that someone presented as meant for `audience`.
    ///
    /// `exp` and `nbf` are held against this machine's clock with a leeway of 30 seconds. A token that was
    /// verified is believed until it expires or a JWT bundle changes, whichever is first.
    pub fn verify_jwt(&self, token: &str, audience: &Audience) -> Result<VerifiedJwt, Refusal> {
        match &*self.inner.jwt.current() {
            Ok(bundles) => bundles.trust.verify(token, audience, SystemTime::now()),
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

    /// Forgets the JWT-SVIDs of each key that leaves the bundle, for as long as bundles come.
    async fn forget_revoked_tokens(&self) {
        let mut bundles = self.jwt_bundles();
        while let Some(current) = bundles.changed().await {
            let Ok(bundles) = &*current else { continue };
            let revoked = |svid: &JwtSvid| {
                let (token, now) = (svid.token().expose_secret(), SystemTime::now());
                let judged = bundles.trust.verify_afresh(token, svid.audience(), now);
                matches!(judged, Err(Refusal::UnknownKey(_)))
            };
            self.inner.jwt_svids.forget(self.spiffe_id().ok().as_ref(), revoked);
        }
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
        let workload = &self.workload;
        let jwt_svids = workload.inner.jwt_svids.keep_ahead(|| workload.spiffe_id().ok());
        tokio::select! {
            () = self.streams.run(stop) => {}
            () = jwt_svids => {}
            () = workload.forget_revoked_tokens() => {}
        }
    }
}

fn current_svid(x509: &Rotating<X509State>) -> Result<Arc<X509Svid>, Error> {
    let none = || Error::Withdrawn { reason: "it sent bundles and no X.509-SVID".to_owned() };
    current(x509, |material| material.svids().first().ok_or_else(none))
}

fn current(
    x509: &Rotating<X509State>,
    choose: impl FnOnce(&X509Material) -> Result<&Arc<X509Svid>, Error>,
) -> Result<Arc<X509Svid>, Error> {
    let current = x509.current();
    let svid = choose(current.as_ref().as_ref().map_err(Error::clone)?)?;
    if svid.expires_at() <= SystemTime::now() {
        return Err(Error::Expired { spiffe_id: svid.spiffe_id().to_string() });
    }
    Ok(Arc::clone(svid))
}
