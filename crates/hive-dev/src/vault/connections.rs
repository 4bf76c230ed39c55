//! Connections that can be cut, and a port that can close and open again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Out of file descriptors, say: try again then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// What ends a server: politely, or at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Calls under way are answered.
    pub(super) drain: CancellationToken,
    /// Connections break.
    pub(super) cut: CancellationToken,
}

/// Serves until `drain`, then waits for the calls under way; `cut` ends it at once.
pub(super) async fn serve(listener: TcpListener, router: Router, ends: Ends) {
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
                open.spawn(connection(stream, router, ends));
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

async fn connection(stream: TcpStream, router: Arc<Router>, ends: Ends) {
    // Small answers at once.
    let _ = stream.set_nodelay(true);
    let hang_up = HangUp { cut: CancellationToken::new(), stop: ends.cut.clone() };
    let cut = hang_up.cut.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(hang_up.clone());
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
