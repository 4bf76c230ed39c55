//! Connections that can be cut, over TLS or not, and a port that can close and open again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Out of file descriptors, say: try again then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// One connection, as its requests see it.
#[derive(Clone, Debug, Default)]
pub(super) struct HangUp {
    cut: CancellationToken,
    /// The server stops.
    pub(super) stop: CancellationToken,
}

impl HangUp {
    /// Breaks the connection; whoever calls this is gone with it.
    pub(super) async fn now(&self) {
        self.cut.cancel();
        // Nothing can be said any more.
        self.stop.cancelled().await;
    }
}

/// The certificates that the other side has shown, its own first, and whose key it has proved to hold. Nobody has asked
/// who vouches for them; empty where it has shown none.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer(pub(super) Arc<[CertificateDer<'static>]>);

/// What ends a server: politely, or at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Calls under way are answered.
    pub(super) drain: CancellationToken,
    /// Connections break.
    pub(super) cut: CancellationToken,
}

/// Serves until `drain`, then waits for the calls under way; `cut` ends it at once.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    ends: Ends,
) {
    let open = TaskTracker::new();
    let router = Arc::new(router);
    loop {
        let accepted = tokio::select! {
            () = ends.drain.cancelled() => break,
            () = ends.cut.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, ends) = (Arc::clone(&router), ends.clone());
                open.spawn(connection(stream, tls.clone(), router, ends));
            }
            Err(error) => {
                tracing::warn!(%error, "the development vault could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    open.close();
    open.wait().await;
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Arc<Router>, ends: Ends) {
    // Small answers at once.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return exchange(stream, Peer::default(), router, ends).await };
    let shaken = tokio::select! {
        () = ends.drain.cancelled() => return,
        () = ends.cut.cancelled() => return,
        shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let peer = peer(&stream);
            exchange(stream, peer, router, ends).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

fn peer(stream: &TlsStream<TcpStream>) -> Peer {
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Peer(shown.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

async fn exchange<S>(stream: S, peer: Peer, router: Arc<Router>, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let hang_up = HangUp { cut: CancellationToken::new(), stop: ends.cut.clone() };
    let cut = hang_up.cut.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(hang_up.clone());
        request.extensions_mut().insert(peer.clone());
        Router::clone(&router).oneshot(request)
    });
    let mut builder = http1::Builder::new();
    let serving = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = cut.cancelled() => return,
        () = ends.cut.cancelled() => return,
        () = ends.drain.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    tokio::select! {
        _ = serving => {}
        () = cut.cancelled() => {}
        () = ends.cut.cancelled() => {}
    }
}
