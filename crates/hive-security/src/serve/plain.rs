//! A server of plain HTTP.

use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use hyper::body::Incoming as Received;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};

use super::age::ConnectionAge;
use super::incoming::{TlsConnection, incoming_speaking};
use crate::{Error, Workload};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whoever begins a request and does not get to the end of its head is dropped after this.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// A connection without traffic is asked for a sign of life, and given up after the second without one (HTTP/2).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(10);

/// Serves HTTP/1.1 and HTTP/2 over TLS with `service`, such as axum's `Router`, until `stop`.
///
/// Each request carries the [`PeerCertificate`](super::PeerCertificate) of its connection in its extensions, where
/// [`Authenticate::for_http`](super::Authenticate::for_http) looks for it. Handshakes are as those of
/// [`incoming`](super::incoming()).
///
/// A connection that is as old as `age` says is closed as soon as what it carries is done: HTTP/1.1 is answered with
/// `Connection: close`, HTTP/2 is sent `GOAWAY`, and an idle one just ends. Its client opens another, with the SVIDs
/// and bundles of that moment. After `stop` the same happens to all of them, and this resolves when the last one is
/// closed; whoever waits gives it a deadline. Dropping the future breaks them all.
///
/// # Errors
///
/// That this workload has no TLS config. A connection that fails is logged, and the others are served.
///
/// ```no_run
/// use hive_security::serve::{self, Authenticate, ConnectionAge, MethodPolicy, Proof};
/// use hive_security::{Audience, Workload};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example<S, B>(workload: &Workload, app: S) -> Result<(), Box<dyn std::error::Error>>
/// # where
/// #     S: tower::Service<http::Request<serve::Guarded<hyper::body::Incoming>>, Response = http::Response<B>>
/// #         + Clone + Send + 'static,
/// #     S::Future: Send,
/// #     S::Error: std::error::Error + Send + Sync + 'static,
/// #     B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
/// #     B::Error: std::error::Error + Send + Sync + 'static,
/// # {
/// let proof = Proof::Both(Audience::of_service("hello", &workload.trust_domain())?);
/// let layer = Authenticate::for_http(workload, proof, MethodPolicy::new());
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7000").await?;
/// let (age, stop) = (ConnectionAge::default(), CancellationToken::new());
/// serve::serve_http(listener, workload, tower::Layer::layer(&layer, app), age, stop).await?;
/// # Ok(())
/// # }
/// ```
pub async fn serve_http<S, B>(
    listener: TcpListener,
    workload: &Workload,
    service: S,
    age: ConnectionAge,
    stop: CancellationToken,
) -> Result<(), Error>
where
    S: Service<Request<Received>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut connections = incoming_speaking(&[b"h2", b"http/1.1"], listener, workload)?;
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            connection = connections.next() => match connection {
                Some(Ok(connection)) => {
                    let closing = closing(age.drawn(), stop.clone());
                    open.spawn(serve(connection, service.clone(), closing));
                }
                // The task that accepts ended with the runtime; nobody comes any more.
                Some(Err(_)) | None => break,
            },
            // What is done is forgotten; without any, this branch is off.
            Some(_) = open.join_next() => {}
        }
    }
    drop(connections);
    while open.join_next().await.is_some() {}
    Ok(())
}

/// When a connection has lived long enough.
async fn closing(age: Duration, stop: CancellationToken) {
    tokio::select! {
        () = sleep(age) => {}
        () = stop.cancelled() => {}
    }
}

async fn serve<S, B>(connection: TlsConnection, service: S, closing: impl Future<Output = ()>)
where
    S: Service<Request<Received>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let peer = connection.connect_info();
    let service = service_fn(move |mut request: Request<Received>| {
        request.extensions_mut().insert(peer.clone());
        service.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_DEADLINE);
    let mut served = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = closing => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of plain HTTP broke");
    }
}
