//! JWT-SVIDs for requests of plain HTTP.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{Request, Uri};
use tower::{Layer, Service};

use super::Address;
use crate::adapters::http::{Bearer, NoToken};
use crate::{Audience, Error, Workload};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A tower layer for clients of one HTTP server: each request carries this workload's JWT-SVID for it.
///
/// The token is sent to that server and to nobody else: a request whose URI names another scheme, host or
/// port fails with [`NotSent::Elsewhere`]. A URI that is only a path is taken for one of that server.
/// Whatever `authorization` a request brings along is replaced.
#[derive(Clone, Debug)]
pub struct AttachJwt(TokenFor);

/// The service that [`AttachJwt`] and [`AttachBearer`](crate::adapters::http::AttachBearer) make.
#[derive(Clone, Debug)]
pub struct Attached<S> {
    inner: S,
    token: TokenFor,
}

/// A token, and the only server that it is sent to.
#[derive(Clone, Debug)]
pub(crate) struct TokenFor {
    bearer: Bearer,
    /// `host:port`.
    authority: String,
}

/// Why a request was not sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// It would have carried a token to someone whom it is not meant for.
    #[error(
        "this request was not sent: its token is for https://{server}; make another client for other servers"
    )]
    Elsewhere {
        /// The server, `host:port`.
        server: String,
    },
    /// There is no token for it.
    #[error("this request was not sent")]
    NoToken(#[source] NoToken),
}

impl AttachJwt {
    /// For the server at `address` (`https://host:port`), which is addressed as `audience`.
    pub fn new(workload: &Workload, address: &str, audience: Audience) -> Result<Self, Error> {
        TokenFor::new(Bearer::jwt_svid(workload, audience), address).map(Self)
    }
}

impl<S> Layer<S> for AttachJwt {
    type Service = Attached<S>;

    fn layer(&self, inner: S) -> Attached<S> {
        self.0.attach_to(inner)
    }
}

impl TokenFor {
    pub(crate) fn new(bearer: Bearer, address: &str) -> Result<Self, Error> {
        Ok(Self { bearer, authority: Address::parse(address)?.authority })
    }

    pub(crate) fn attach_to<S>(&self, inner: S) -> Attached<S> {
        Attached { inner, token: self.clone() }
    }

    fn check(&self, uri: &Uri) -> Result<(), NotSent> {
        let ours = match (uri.scheme_str(), uri.authority()) {
            (None, None) => true,
            (Some("https"), Some(authority)) => self.is_ours(authority),
            _ => false,
        };
        if ours { Ok(()) } else { Err(NotSent::Elsewhere { server: self.authority.clone() }) }
    }

    /// Without a port, `https` means 443.
    fn is_ours(&self, authority: &http::uri::Authority) -> bool {
        let (host, port) = (authority.host(), authority.port_u16().unwrap_or(443));
        !authority.as_str().contains('@')
            && self.authority.eq_ignore_ascii_case(&format!("{host}:{port}"))
    }
}

impl<S, B> Service<Request<B>> for Attached<S>
where
    S: Service<Request<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The clone stays; the one that said it was ready makes the call.
        let clone = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, clone);
        let token = self.token.clone();
        Box::pin(async move {
            token.check(request.uri())?;
            let value = token.bearer.authorization().await.map_err(NotSent::NoToken)?;
            request.headers_mut().insert(AUTHORIZATION, value.clone());
            let answer = ready.call(request).await;
            // The server may look at the token until it has answered, so it is in use until then.
            drop(value);
            answer.map_err(Into::into)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt;

    use super::*;
    use crate::testing::{Authority, audience};

    /// Answers with the authorization that it was sent.
    async fn send(layer: &AttachJwt, uri: &str) -> Result<String, BoxError> {
        let echo = tower::service_fn(|request: Request<()>| async move {
            let values: Vec<_> = request.headers().get_all(AUTHORIZATION).iter().collect();
            assert_eq!(values.len(), 1, "exactly one authorization");
            Ok::<_, Infallible>(values[0].to_str().unwrap().to_owned())
        });
        let request = Request::get(uri).header(AUTHORIZATION, "Basic bWU6aHVudGVyMg==");
        layer.layer(echo).oneshot(request.body(()).unwrap()).await
    }

    #[tokio::test]
    async fn a_token_goes_to_its_server_and_to_nobody_else() {
        let authority = Authority::new("td");
        let stand = authority.workload("/client");
        let address = "https://Orders.example:8443";
        let layer = AttachJwt::new(&stand.workload, address, audience("orders.td")).unwrap();
        for ours in ["/a", "https://orders.example:8443/a", "https://ORDERS.example:8443"] {
            let sent = send(&layer, ours).await.unwrap();
            let token = sent.strip_prefix("Bearer ").expect("a bearer token");
            let server = authority.workload("/server");
            let jwt = server.workload.verify_jwt(token, &audience("orders.td")).unwrap();
            assert_eq!(jwt.spiffe_id().to_string(), "spiffe://td/client", "{ours}");
        }
        for other in [
            "http://orders.example:8443/a",
            "https://orders.example/a",
            "https://orders.example:8444/a",
            "https://orders.example.evil:8443/a",
            "https://x@orders.example:8443/a",
            "https://evil/orders.example:8443",
        ] {
            let refused = send(&layer, other).await.unwrap_err();
            assert!(refused.to_string().contains("its token is for https://Orders"), "{other}");
        }
    }

    #[tokio::test]
    async fn without_an_identity_nothing_is_sent() {
        let stand = Authority::new("td").workload("/client");
        let layer =
            AttachJwt::new(&stand.workload, "https://orders:1", audience("orders.td")).unwrap();
        stand.x509.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
        let error = send(&layer, "/a").await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(NotSent::NoToken(_))), "{error:?}");
    }
}
