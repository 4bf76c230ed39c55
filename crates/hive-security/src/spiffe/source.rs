//! The Workload API's streams, turned into values that rotate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use secrecy::SecretString;
use spiffe::jwt_source::JwtSourceState;
use spiffe::x509_source::X509SourceState;
use spiffe::{
    JwtSource, JwtSourceError, WorkloadApiClient, WorkloadApiError, X509Source, X509SourceError,
};
use std::sync::Arc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::rotating::{Publisher, Rotating};
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::jwt::{Fetch, Fetching};
use crate::spiffe::keys;
use crate::spiffe::svid::{JwtSvid, X509Svid};
use crate::spiffe::trust::X509Trust;
use crate::spiffe::verify::JwtTrust;
use crate::workload::WorkloadConfig;

/// The pause between two attempts to reach the Workload API doubles from the first to the second.
const RECONNECT_MIN: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// After a deadline passed in vain, one more call may take so long to learn why.
const DIAGNOSIS_DEADLINE: Duration = Duration::from_secs(2);

/// What the X.509 stream said last, or why it may not be used.
pub(crate) type X509State = Result<X509Material, Error>;

/// What the stream of JWT bundles said last, or why it may not be used.
pub(crate) type JwtState = Result<JwtTrust, Error>;

/// This workload's X.509-SVID, if it has one at the moment, and everyone's bundles.
#[derive(Debug)]
pub(crate) struct X509Material {
    pub(crate) svid: Option<Arc<X509Svid>>,
    pub(crate) trust: X509Trust,
}

/// The two streams, and who is told.
#[derive(Debug)]
pub(crate) struct Streams {
    x509: X509Source,
    jwt: JwtSource,
    x509_publisher: Publisher<X509State>,
    jwt_publisher: Publisher<JwtState>,
}

/// What a new [`Workload`](crate::Workload) is made of.
pub(crate) struct Attached {
    pub(crate) x509: Rotating<X509State>,
    pub(crate) jwt: Rotating<JwtState>,
    pub(crate) fetch: Arc<dyn Fetch>,
    pub(crate) streams: Streams,
}

/// Opens both streams and waits for the first answer of each.
pub(crate) async fn attach(config: &WorkloadConfig) -> Result<Attached, Error> {
    let endpoint = &config.endpoint;
    let x509 = X509Source::builder()
        .endpoint(endpoint)
        .reconnect_backoff(RECONNECT_MIN, RECONNECT_MAX)
        .initial_sync_timeout(config.attach_deadline);
    let jwt = JwtSource::builder()
        .endpoint(endpoint)
        .reconnect_backoff(RECONNECT_MIN, RECONNECT_MAX)
        .initial_sync_timeout(config.attach_deadline);
    // One after the other is enough: the first answer proves that the second is a moment away.
    let x509 = match x509.build().await {
        Ok(source) => source,
        Err(X509SourceError::InitialSyncTimeout) => return Err(no_identity(config).await),
        Err(X509SourceError::Source(WorkloadApiError::Endpoint(error))) => {
            return Err(Error::invalid("Workload API endpoint", endpoint, &error));
        }
        Err(error) => return Err(failed(config, &error)),
    };
    let jwt = match jwt.build().await {
        Ok(source) => source,
        Err(JwtSourceError::InitialSyncTimeout) => return Err(no_identity(config).await),
        Err(error) => return Err(failed(config, &error)),
    };
    start(x509, jwt)
}

fn start(x509: X509Source, jwt: JwtSource) -> Result<Attached, Error> {
    let (x509_publisher, x509_state) = Rotating::new(Ok(x509_material(&x509.state())?));
    let (jwt_publisher, jwt_state) = Rotating::new(Ok(jwt_trust(&jwt.state())?));
    let fetch = Arc::new(FromWorkloadApi(jwt.clone()));
    let streams = Streams { x509, jwt, x509_publisher, jwt_publisher };
    Ok(Attached { x509: x509_state, jwt: jwt_state, fetch, streams })
}

impl Streams {
    /// Tells everyone what the streams say, until `stop`. What was said last then stays, until it expires:
    /// a process that stops still has work to finish.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut x509, mut jwt) = (self.x509.updated(), self.jwt.updated());
        // Both may have moved on since they were first read.
        self.publish_x509();
        self.publish_jwt();
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
        match x509_material(&self.x509.state()) {
            Ok(material) => {
                let expires_at = material.svid.as_ref().map(|svid| svid.expires_at());
                tracing::debug!(?expires_at, "the Workload API sent an X.509-SVID and bundles");
                self.x509_publisher.publish(Ok(material));
            }
            // What cannot be used replaces nothing (Workload API §4.5).
            Err(error @ Error::UnusableSvid { .. }) => {
                tracing::error!(%error, "the previous X.509-SVID stays in use until it expires");
            }
            Err(error) => {
                tracing::error!(%error, "X.509-SVID and bundles are not used any more");
                self.x509_publisher.publish(Err(error));
            }
        }
    }

    fn publish_jwt(&self) {
        let state = jwt_trust(&self.jwt.state());
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

fn x509_material(state: &X509SourceState) -> Result<X509Material, Error> {
    let context = state.context().map_err(|error| withdrawn(&error))?;
    let svid = match state.svid() {
        Ok(svid) => {
            let chain = svid
                .cert_chain()
                .iter()
                .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
                .collect();
            Some(Arc::new(X509Svid::from_der(chain, svid.private_key().as_bytes())?))
        }
        // The bundles are good all the same.
        Err(_) => None,
    };
    let bundles = context.bundle_set().iter().map(|(trust_domain, bundle)| {
        (trust_domain.clone().into(), bundle.authorities().iter().map(|c| c.as_bytes()).collect())
    });
    Ok(X509Material { svid, trust: X509Trust::new(bundles) })
}

fn jwt_trust(state: &JwtSourceState) -> Result<JwtTrust, Error> {
    let bundles = state.bundle_set().map_err(|error| withdrawn(&error))?;
    let keys = bundles.iter().map(|(trust_domain, bundle)| {
        let trust_domain = trust_domain.clone().into();
        let keys = keys::read(
            &trust_domain,
            bundle.jwt_authorities().map(|authority| authority.jwk_json()),
        );
        (trust_domain, keys)
    });
    Ok(JwtTrust::new(keys.collect()))
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
    let ask = async {
        let client = WorkloadApiClient::connect_to(&config.endpoint).await?;
        client.fetch_x509_context().await
    };
    match timeout(DIAGNOSIS_DEADLINE, ask).await {
        Ok(Err(error)) => failed(config, &error),
        Ok(Ok(_)) => failed(config, &"it answers only now"),
        Err(_) => failed(config, &"it accepts the connection but does not answer"),
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
    Ok(JwtSvid { spiffe_id: spiffe_id.clone(), audience: audience.clone(), token, expires_at })
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
