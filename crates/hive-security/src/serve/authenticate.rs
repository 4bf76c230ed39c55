//! The tower layer that knows who calls.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::admission::Admission;
use super::answer::Wire;
use super::counts::{Counted, Counts};
use super::guarded::{Guarded, Side};
use super::log::{DecisionLog, excerpt};
use super::peer::Peer;
use super::policy::PolicyHandle;
use super::proof::Proof;
use crate::{Audience, Workload};

/// Services that anyone may ask, by full name: whether a server is healthy, and what it offers.
const EXEMPT: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Lets through only callers who prove who they are and may use the method.
///
/// Who does not show what the [`Proof`] asks for is answered `UNAUTHENTICATED` with a reason; a known caller
/// whom the policy does not allow, `PERMISSION_DENIED`. A server of plain HTTP ([`for_http`](Self::for_http))
/// answers 401 and 403. A gRPC stream ends with `UNAUTHENTICATED` when the first of its caller's documents
/// expires (see [`Peer::expires_at`]), and with `PERMISSION_DENIED` when the policy is replaced by one that does not
/// allow it; unary calls are not touched.
///
/// Each decision is counted ([`counts`](Self::counts)) and logged once, under the target
/// `hive_security::policy`: at debug level if allowed, else as a warning, at most 60 of each kind a minute.
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
pub(super) struct Rules {
    workload: Workload,
    proof: Proof,
    pub(super) policy: PolicyHandle,
    wire: Wire,
    pub(super) counts: Arc<Counts>,
    pub(super) log: DecisionLog,
}

/// Why a call is not passed on.
#[derive(Debug)]
pub(super) enum Refused {
    Denied(String),
    Unauthenticated(String),
}

impl Authenticate {
    /// For a gRPC server that is addressed as `audience` and answers whom `policy` allows. Callers prove who
    /// they are twice: [`Proof::Both`].
    pub fn new(workload: &Workload, audience: Audience, policy: impl Into<PolicyHandle>) -> Self {
        Self::with_proof(workload, Proof::Both(audience), policy)
    }

    /// For a gRPC server that asks for this proof.
    pub fn with_proof(workload: &Workload, proof: Proof, policy: impl Into<PolicyHandle>) -> Self {
        Self::assemble(workload, proof, policy.into(), Wire::Grpc)
    }

    /// For a server of plain HTTP, such as axum's. No path is exempt.
    ///
    /// Refusals are 401 (with `WWW-Authenticate: Bearer`) and 403, with a JSON body
    /// `{"error": …, "reason": …}`. A response of unknown length breaks off when the first of its caller's
    /// documents expires, or a new policy does not allow it.
    pub fn for_http(workload: &Workload, proof: Proof, policy: impl Into<PolicyHandle>) -> Self {
        Self::assemble(workload, proof, policy.into(), Wire::Http)
    }

    /// How often it decided what.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.rules.counts)
    }

    fn assemble(workload: &Workload, proof: Proof, policy: PolicyHandle, wire: Wire) -> Self {
        let (workload, counts, log) = (workload.clone(), Arc::default(), DecisionLog::default());
        Self { rules: Arc::new(Rules { workload, proof, policy, wire, counts, log }) }
    }
}

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { inner, rules: Arc::clone(&self.rules) }
    }
}

impl<S, B, R> Service<Request<B>> for Authenticated<S>
where
    S: Service<Request<Guarded<B>>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes>,
{
    type Response = Response<Guarded<R>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Whatever came in under this type did not come from us.
        request.extensions_mut().remove::<Peer>();
        let rules = &self.rules;
        match rules.admit(&request) {
            Ok(None) => {
                let inner = self.inner.call(request.map(Guarded::free));
                Answering::Asked { inner, admission: None, wire: rules.wire }
            }
            Ok(Some(admission)) => {
                let (admission, wire) = (Arc::new(admission), rules.wire);
                request.extensions_mut().insert(admission.peer().clone());
                let request = request.map(|body| match wire {
                    Wire::Grpc => Guarded::by(Arc::clone(&admission), body, Side::GrpcRequest),
                    Wire::Http => Guarded::free(body),
                });
                let inner = self.inner.call(request);
                Answering::Asked { inner, admission: Some(admission), wire }
            }
            Err(refused) => Answering::Refused { answer: Some(rules.wire.answer(refused)) },
        }
    }
}

pin_project! {
    /// The answer of an [`Authenticated`] service, to come.
    #[project = AnsweringProjection]
    #[derive(Debug)]
    #[doc(hidden)]
    pub enum Answering<F> {
        Asked { #[pin] inner: F, admission: Option<Arc<Admission>>, wire: Wire },
        Refused { answer: Option<Response<Option<Bytes>>> },
    }
}

impl<F, R, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Guarded<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            AnsweringProjection::Asked { inner, admission, wire } => {
                let response = ready!(inner.poll(cx))?;
                Ok(response.map(|body| match admission.take() {
                    Some(admission) => guard(admission, body, *wire),
                    None => Guarded::free(body),
                }))
            }
            AnsweringProjection::Refused { answer } => {
                let answer = answer.take().expect("a future is not polled after it is done");
                Ok(answer.map(Guarded::own))
            }
        })
    }
}

impl Rules {
    /// Who calls what; `None` where nobody is asked.
    fn admit<B>(self: &Arc<Self>, request: &Request<B>) -> Result<Option<Admission>, Refused> {
        let path = request.uri().path();
        if self.wire == Wire::Grpc && is_exempt(path) {
            self.counts.add(Counted::Exempt);
            return Ok(None);
        }
        let proven = self.proof.check(&self.workload, request.headers(), request.extensions());
        let peer = proven.map_err(|reason| {
            self.counts.add(Counted::Unauthenticated);
            self.log.unauthenticated(path, &reason);
            Refused::Unauthenticated(reason)
        })?;
        let verb = (self.wire == Wire::Http).then(|| request.method().clone());
        let revision = self.policy.revision();
        let as_text = verb.as_ref().map(http::Method::as_str);
        let decision = self.policy.load().decide(as_text, path, &peer.spiffe_id);
        if !decision.allowed {
            self.counts.add(Counted::Denied);
            self.log.denied(path, &peer, &decision);
            let sentence = format!("{} may not call {}", peer.spiffe_id, excerpt(path));
            return Err(Refused::Denied(sentence));
        }
        self.counts.add(Counted::Allowed);
        self.log.allowed(path, &peer, &decision);
        Ok(Some(Admission::new(self, request, verb, peer, revision)))
    }
}

fn guard<R>(admission: Arc<Admission>, body: R, wire: Wire) -> Guarded<R>
where
    R: http_body::Body<Data = Bytes>,
{
    match wire {
        Wire::Grpc => Guarded::by(admission, body, Side::GrpcResponse),
        // A body of known length is an answer, not a stream.
        Wire::Http if body.size_hint().exact().is_some() => Guarded::free(body),
        Wire::Http => Guarded::by(admission, body, Side::HttpResponse),
    }
}

fn is_exempt(path: &str) -> bool {
    let mut parts = path.split('/');
    matches!((parts.next(), parts.next()), (Some(""), Some(service)) if EXEMPT.contains(&service))
}
