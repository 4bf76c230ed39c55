//! The Workload API's streams, turned into values that rotate.
//!
//! Following the streams, reconnecting and taking messages apart is the work of the crate `spiffe`: a message that
//! cannot be read replaces nothing there (Workload API §4.5), and a stream that ends costs nothing that is still
//! good. What is decided here is what may be used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use rustls_pki_types::CertificateDer;
use secrecy::SecretString;
use spiffe::jwt_source::JwtSourceState;
use spiffe::x509_source::X509SourceState;
use spiffe::{
    JwtBundleSet, JwtSource, JwtSourceError, WorkloadApiError, X509Context, X509Source,
    X509SourceError,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::rotating::{Publisher, Rotating};
use crate::spiffe::bundle::{JwtBundle, PublishedKey, X509Bundle};
use crate::spiffe::id::{Audience, SpiffeId, TrustDomain};
use crate::spiffe::jwt::{Fetch, Fetching};
use crate::spiffe::keys;
use crate::spiffe::probe::{ProbeError, probe};
use crate::spiffe::svid::{JwtSvid, X509Svid};
use crate::spiffe::trust::X509Trust;
use crate::spiffe::verify::JwtTrust;
use crate::workload::{Endpoint, WorkloadConfig};

/// The pause between two attempts to reach the Workload API doubles from the first to the second.
const RECONNECT_MIN: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// What the X.509 stream said last, or why it may not be used.
pub(crate) type X509State = Result<X509Material, Error>;

/// What the stream of JWT bundles said last, or why it may not be used.
pub(crate) type JwtState = Result<JwtBundles, Error>;

/// One message of the X.509 stream: this workload's X.509-SVIDs, and everyone's bundles.
#[derive(Debug)]
pub struct X509Material {
    svids: Vec<Arc<X509Svid>>,
    bundles: Vec<X509Bundle>,
    received_at: SystemTime,
    pub(crate) trust: X509Trust,
}

/// One message of the stream of JWT bundles: this trust domain's, and those it federates with.
#[derive(Debug)]
pub struct JwtBundles {
    bundles: Vec<JwtBundle>,
    received_at: SystemTime,
    pub(crate) trust: JwtTrust,
}

/// The two streams, and who is told.
#[derive(Debug)]
pub(crate) struct Streams {
    x509: X509Source,
    jwt: JwtSource,
    x509_publisher: Publisher<X509State>,
    jwt_publisher: Publisher<JwtState>,
    expected: Option<TrustDomain>,
}

/// What a new [`Workload`](crate::Workload) is made of.
pub(crate) struct Attached {
    pub(crate) x509: Rotating<X509State>,
    pub(crate) jwt: Rotating<JwtState>,
    pub(crate) fetch: Arc<dyn Fetch>,
    pub(crate) streams: Streams,
}

impl X509Material {
    pub(crate) fn new(svids: Vec<Arc<X509Svid>>, mut bundles: Vec<X509Bundle>) -> Self {
        bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
        let trust = X509Trust::of_bundles(&bundles);
        Self { svids, bundles, received_at: SystemTime::now(), trust }
    }

    /// When the Workload API sent it.
    pub fn received_at(&self) -> SystemTime {
        self.received_at
    }

    /// The X.509-SVIDs, the default one first (Workload API §8). Some may have expired.
    pub fn svids(&self) -> &[Arc<X509Svid>] {
        &self.svids
    }

    /// The X.509-SVID that the operator marked with `hint`; the first one, should there be several.
    pub fn svid_by_hint(&self, hint: &str) -> Option<&Arc<X509Svid>> {
        self.svids.iter().find(|svid| svid.hint() == Some(hint))
    }

    /// The bundles, own and federated, by the name of their trust domains.
    pub fn bundles(&self) -> &[X509Bundle] {
        &self.bundles
    }

    /// The bundle of `trust_domain`.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&X509Bundle> {
        self.bundles.iter().find(|bundle| bundle.trust_domain == *trust_domain)
    }
}

impl JwtBundles {
    fn new(mut bundles: Vec<JwtBundle>) -> Self {
        bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
        let keys = bundles.iter().map(|bundle| {
            let jwks = bundle.keys.iter().map(|key| key.json.as_bytes());
            (bundle.trust_domain.clone(), keys::read(&bundle.trust_domain, jwks))
        });
        let trust = JwtTrust::new(keys.collect());
        Self { bundles, received_at: SystemTime::now(), trust }
    }

    /// When the Workload API sent it.
    pub fn received_at(&self) -> SystemTime {
        self.received_at
    }

    /// The bundles, own and federated, by the name of their trust domains.
    pub fn bundles(&self) -> &[JwtBundle] {
        &self.bundles
    }

    /// The bundle of `trust_domain`.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&JwtBundle> {
        self.bundles.iter().find(|bundle| bundle.trust_domain == *trust_domain)
    }
}

/// Keys without their documents, for tests of what is done with them.
#[cfg(test)]
impl From<JwtTrust> for JwtBundles {
    fn from(trust: JwtTrust) -> Self {
        Self { bundles: Vec::new(), received_at: SystemTime::now(), trust }
    }
}

/// Opens both streams and waits for the first answer of each.
pub(crate) async fn attach(config: &WorkloadConfig) -> Result<Attached, Error> {
    let endpoint = Endpoint::parse(&config.endpoint)?.to_string();
    // Workloads that lost the same SPIRE agent do not come back together.
    let reconnect_min = RECONNECT_MIN.mul_f64(rand::rng().random_range(0.75..1.25));
    let x509 = X509Source::builder()
        .endpoint(&endpoint)
        .reconnect_backoff(reconnect_min, RECONNECT_MAX)
        .initial_sync_timeout(config.attach_deadline);
    let jwt = JwtSource::builder()
        .endpoint(&endpoint)
        .reconnect_backoff(reconnect_min, RECONNECT_MAX)
        .initial_sync_timeout(config.attach_deadline);
    // One after the other is enough: the first answer proves that the second is a moment away.
    let x509 = match x509.build().await {
        Ok(source) => source,
        Err(X509SourceError::InitialSyncTimeout) => return Err(no_identity(config).await),
        Err(error) => return Err(failed(config, &error)),
    };
    let jwt = match jwt.build().await {
        Ok(source) => source,
        Err(JwtSourceError::InitialSyncTimeout) => return Err(no_identity(config).await),
        Err(error) => return Err(failed(config, &error)),
    };
    start(x509, jwt, config.trust_domain.clone())
}

fn start(
    x509: X509Source,
    jwt: JwtSource,
    expected: Option<TrustDomain>,
) -> Result<Attached, Error> {
    let (x509_publisher, x509_state) =
        Rotating::new(Ok(permitted(&x509.state(), expected.as_ref())?));
    let (jwt_publisher, jwt_state) = Rotating::new(Ok(jwt_bundles(&jwt.state())?));
    let fetch = Arc::new(FromWorkloadApi(jwt.clone()));
    let streams = Streams { x509, jwt, x509_publisher, jwt_publisher, expected };
    Ok(Attached { x509: x509_state, jwt: jwt_state, fetch, streams })
}

impl Streams {
    /// Tells everyone what the streams say, until `stop`. What was said last then stays, until it expires:
    /// a process that stops still has work to finish.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut x509, mut jwt) = (self.x509.updated(), self.jwt.updated());
        // Both may have moved on since they were first read.
        if self.x509.state().revision() != 0 {
            self.publish_x509();
        }
        if self.jwt.state().revision() != 0 {
            self.publish_jwt();
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = x509.changed() => match changed {
                    Ok(_) => self.publish_x509(),
                    Err(error) => return self.end(&error),
                },
                changed = jwt.changed() => match changed {
                    Ok(_) => self.publish_jwt(),
                    Err(error) => return self.end(&error),
                },
            }
        }
    }

    fn publish_x509(&self) {
        match permitted(&self.x509.state(), self.expected.as_ref()) {
            Ok(material) => {
                let expires_at = material.svids.first().map(|svid| svid.expires_at());
                tracing::debug!(?expires_at, "the Workload API sent X.509-SVIDs and bundles");
                self.x509_publisher.publish(Ok(material));
            }
            // What cannot be used replaces nothing (Workload API §4.5).
            Err(error @ Error::UnusableSvid { .. }) => {
                tracing::error!(%error, "the previous X.509-SVIDs stay in use until they expire");
            }
            Err(error) => {
                tracing::error!(%error, "X.509-SVIDs and bundles are not used any more");
                self.x509_publisher.publish(Err(error));
            }
        }
    }

    fn publish_jwt(&self) {
        let state = jwt_bundles(&self.jwt.state());
        if let Err(error) = &state {
            tracing::error!(%error, "JWT bundles are not used any more");
        }
        self.jwt_publisher.publish(state);
    }

    /// A stream that nobody follows any more would never tell of a withdrawal.
    fn end(&self, reason: &dyn std::fmt::Display) {
        tracing::error!(%reason, "the Workload API is not followed any more");
        let error = Error::Withdrawn { reason: reason.to_string() };
        self.x509_publisher.publish(Err(error.clone()));
        self.jwt_publisher.publish(Err(error));
    }
}

/// What the stream said last, if it may be used.
fn permitted(
    state: &X509SourceState,
    expected: Option<&TrustDomain>,
) -> Result<X509Material, Error> {
    let context = state.context().map_err(|error| withdrawn(&error))?;
    let material = x509_material(&context)?;
    let issued = material.svids.first().map(|svid| svid.spiffe_id().trust_domain());
    match (expected, issued) {
        (Some(expected), Some(issued)) if *expected != issued => {
            Err(Error::TrustDomain { expected: expected.clone(), issued })
        }
        _ => Ok(material),
    }
}

/// Takes over one message, whole or not at all.
pub(crate) fn x509_material(context: &X509Context) -> Result<X509Material, Error> {
    let der = |c: &spiffe::Certificate| CertificateDer::from(c.as_bytes().to_vec());
    let svids = context.svids().iter().map(|svid| {
        let chain = svid.cert_chain().iter().map(der).collect();
        let ours = X509Svid::from_der(chain, svid.private_key().as_bytes())?;
        Ok(Arc::new(ours.with_hint(svid.hint())))
    });
    let svids = svids.collect::<Result<_, Error>>()?;
    let bundles = context.bundle_set().iter().map(|(trust_domain, bundle)| X509Bundle {
        trust_domain: trust_domain.clone().into(),
        authorities: bundle.authorities().iter().map(der).collect(),
    });
    Ok(X509Material::new(svids, bundles.collect()))
}

fn jwt_bundles(state: &JwtSourceState) -> Result<JwtBundles, Error> {
    let bundles = state.bundle_set().map_err(|error| withdrawn(&error))?;
    Ok(own_jwt_bundles(&bundles))
}

pub(crate) fn own_jwt_bundles(bundles: &JwtBundleSet) -> JwtBundles {
    let bundles = bundles.iter().map(|(trust_domain, bundle)| {
        let keys = bundle.jwt_authorities().map(|authority| PublishedKey {
            kid: authority.key_id().to_owned(),
            json: String::from_utf8_lossy(authority.jwk_json()).into_owned(),
        });
        JwtBundle { trust_domain: trust_domain.clone().into(), keys: keys.collect() }
    });
    JwtBundles::new(bundles.collect())
}

fn withdrawn(error: &dyn std::fmt::Display) -> Error {
    Error::Withdrawn { reason: error.to_string() }
}

fn failed(config: &WorkloadConfig, error: &dyn std::fmt::Display) -> Error {
    let (endpoint, reason) = (config.endpoint.clone(), error.to_string());
    Error::NoIdentity { endpoint, waited: config.attach_deadline, reason }
}

/// The sources say only that time ran out; the operator wants to know whether the socket is missing or the
/// entry is.
async fn no_identity(config: &WorkloadConfig) -> Error {
    let seen = match probe(config).await {
        Err(ProbeError::Invalid(error)) => return error,
        Err(error) => return failed(config, &error),
        Ok(seen) => seen,
    };
    let now = SystemTime::now();
    match seen.x509().svids().first() {
        Some(svid) if svid.expires_at() <= now => {
            failed(config, &"the X.509-SVID that it hands out has expired by this machine's clock")
        }
        _ => failed(config, &"it answers only now"),
    }
}

/// JWT-SVIDs, each from one call.
struct FromWorkloadApi(JwtSource);

impl Fetch for FromWorkloadApi {
    fn fetch<'a>(&'a self, spiffe_id: &'a SpiffeId, audience: &'a Audience) -> Fetching<'a> {
        Box::pin(async move {
            // The lifetime is counted from before the question, so an answer that took long ends early.
            let asked_at = SystemTime::now();
            let fetched =
                self.0.fetch_jwt_svid_with_id([audience.as_str()], Some(spiffe_id.inner())).await;
            let svid = fetched.map_err(|error| no_jwt_svid(audience, &error))?;
            accept(&svid, spiffe_id, audience, asked_at)
        })
    }
}

fn accept(
    svid: &spiffe::JwtSvid,
    spiffe_id: &SpiffeId,
    audience: &Audience,
    asked_at: SystemTime,
) -> Result<JwtSvid, Error> {
    let refuse = |reason: &str| Error::NoJwtSvid {
        audience: audience.to_string(),
        reason: reason.to_owned(),
        denied: false,
    };
    if svid.audience() != [audience.as_str()] {
        return Err(refuse("it answered with a token for another audience"));
    }
    if svid.spiffe_id() != spiffe_id.inner() {
        return Err(refuse("it answered with a token of another identity"));
    }
    let expires_at =
        local_expiry(svid, asked_at).ok_or_else(|| refuse("its token has an impossible expiry"))?;
    let token = SecretString::from(svid.token());
    Ok(JwtSvid::new(spiffe_id.clone(), audience.clone(), token, expires_at))
}

/// The token's own word, or its lifetime counted from now where that is sooner: on a machine whose clock
/// is behind the issuer's, `exp` alone would come too late.
fn local_expiry(svid: &spiffe::JwtSvid, asked_at: SystemTime) -> Option<SystemTime> {
    #[derive(serde::Deserialize)]
    struct Issued {
        iat: Option<i64>,
    }
    let exp = svid.expiry().unix_timestamp();
    let by_its_word = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(exp).ok()?))?;
    let payload = URL_SAFE_NO_PAD.decode(svid.token().split('.').nth(1)?).ok()?;
    let issued: Issued = serde_json::from_slice(&payload).ok()?;
    let Some(life) = issued.iat.and_then(|iat| u64::try_from(exp.checked_sub(iat)?).ok()) else {
        return Some(by_its_word);
    };
    Some(asked_at.checked_add(Duration::from_secs(life))?.min(by_its_word))
}

fn no_jwt_svid(audience: &Audience, error: &JwtSourceError) -> Error {
    let denied = matches!(
        error,
        JwtSourceError::Withdrawn(_)
            | JwtSourceError::FetchJwtSvid(
                WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)
            )
    );
    Error::NoJwtSvid { audience: audience.to_string(), reason: error.to_string(), denied }
}
