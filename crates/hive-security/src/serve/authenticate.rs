//! The tower layer that knows who calls.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use std::future::{Ready, ready};
use tonic::Status;
use tower::{Layer, Service};

use super::peer::{Peer, PeerCertificate};
use super::policy::MethodPolicy;
use crate::{Audience, Workload};

/// Services that anyone may ask, by full name: whether a server is healthy, and what it offers.
const EXEMPT: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Lets through only callers who prove who they are and may use the method.
///
/// A caller must present an X.509-SVID in the handshake **and** a JWT-SVID for this server's audience with
/// the call, and both must name the same SPIFFE ID. Otherwise the answer is `UNAUTHENTICATED` with a reason;
/// for a known caller whom the policy does not allow, it is `PERMISSION_DENIED`.
#[derive(Clone, Debug)]
pub struct Authenticate {
    rules: Arc<Rules>,
}

/// The service that [`Authenticate`] makes.
#[derive(Clone, Debug)]
pub struct Authenticated<S> {
    inner: S,
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    workload: Workload,
    audience: Audience,
    policy: MethodPolicy,
}

impl Authenticate {
    /// For a server that is addressed as `audience` and answers whom `policy` allows.
    pub fn new(workload: &Workload, audience: Audience, policy: MethodPolicy) -> Self {
        Self { rules: Arc::new(Rules { workload: workload.clone(), audience, policy }) }
    }
}

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { inner, rules: Arc::clone(&self.rules) }
    }
}

impl<S, B, R> Service<http::Request<B>> for Authenticated<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Default,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // Whatever came in under this type did not come from us.
        request.extensions_mut().remove::<Peer>();
        match self.rules.admit(&request) {
            Ok(Some(peer)) => {
                request.extensions_mut().insert(peer);
                Either::Left(self.inner.call(request))
            }
            Ok(None) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

impl Rules {
    /// The caller; `None` where nobody is asked.
    #[allow(clippy::result_large_err, reason = "it becomes the answer at once")]
    fn admit<B>(&self, request: &http::Request<B>) -> Result<Option<Peer>, Status> {
        let path = request.uri().path();
        if is_exempt(path) {
            return Ok(None);
        }
        let peer = self.authenticate(request).map_err(|reason| {
            tracing::info!(method = path, reason, "a call was not authenticated");
            Status::unauthenticated(reason)
        })?;
        if !self.policy.allows(path, &peer.spiffe_id) {
            tracing::info!(method = path, caller = %peer.spiffe_id, "a call was denied");
            return Err(Status::permission_denied(format!(
                "{} may not call {path}",
                peer.spiffe_id
            )));
        }
        Ok(Some(peer))
    }

    fn authenticate<B>(&self, request: &http::Request<B>) -> Result<Peer, String> {
        let certificate = match request.extensions().get::<PeerCertificate>() {
            Some(PeerCertificate(Some(spiffe_id))) => spiffe_id,
            Some(PeerCertificate(None)) | None => {
                return Err("the connection presented no X.509-SVID".to_owned());
            }
        };
        let token = bearer(request.headers())?;
        let verified = self
            .workload
            .verify_jwt(token, &self.audience)
            .map_err(|refusal| format!("the JWT-SVID was refused: {refusal}"))?;
        if verified.spiffe_id() != certificate {
            return Err(format!(
                "the JWT-SVID is of {}, but the connection's X.509-SVID is of {certificate}",
                verified.spiffe_id()
            ));
        }
        Ok(Peer { spiffe_id: certificate.clone() })
    }
}

fn is_exempt(path: &str) -> bool {
    let mut parts = path.split('/');
    matches!((parts.next(), parts.next()), (Some(""), Some(service)) if EXEMPT.contains(&service))
}

/// The token of the one `authorization` header; several of them would leave open which one counts.
fn bearer(headers: &http::HeaderMap) -> Result<&str, String> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let value =
        values.next().ok_or("the call carries no JWT-SVID (metadata authorization: Bearer …)")?;
    if values.next().is_some() {
        return Err("the call carries more than one authorization".to_owned());
    }
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or("the authorization is not of the form Bearer <JWT-SVID>")?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("the authorization is not of the form Bearer <JWT-SVID>".to_owned());
    }
    Ok(token)
}
