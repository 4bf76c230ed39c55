//! Connections whose TLS handshake is done.
//!
//! ```text
//!   accept ──▶ outside ───────────────▶ a turn ──▶ begun ─────────────────▶ ready ──▶ the server
//!              says nothing so far,     newest     waits for its client,
//!              or waits for a turn      first      takes turns
//! ```
//!
//! A flood of handshakes must not starve the connections that exist, and must not be served so late that whoever is served has
//! gone ([`turns`]). The door is never shut: each room is bounded, and at its bound the one who has waited longest leaves ([`room`]).

mod connection;
mod counts;
mod room;
#[cfg(test)]
mod tests;
mod turns;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::StartHandshake;

pub use self::connection::TlsConnection;
pub(crate) use self::counts::HandshakeCounts;
pub use self::counts::Handshakes;
use self::room::{Place, Room};
use self::turns::{Rank, Turn, Turns};
use crate::{Error, Workload, tls};

/// Whoever connects and then says nothing is dropped after this; and so is whoever has begun and does not come to an end.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Whoever has not been given a turn is dropped after this. Our clients wait as long, and hang up when they do not.
const TURN_DEADLINE: Duration = Duration::from_secs(10);

/// So many may not have begun. Two processors serve about as many in a few seconds: those at the end of a longer line would
/// have gone. Each costs a file, and ten kilobytes at most.
const OUTSIDE_MAX: usize = 4096;

/// So many may have begun, and wait for their clients mostly. Each costs some forty kilobytes. Whoever begins at the
/// greatest rate that two processors allow still has two hundred milliseconds for his answer.
const BEGUN_MAX: usize = 1024;

/// So many connections may wait to be picked up by the server, which does nothing else between two of them.
const READY_MAX: usize = 16;

/// The pause after accepting failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So many are shown out then, if there are so many: more than are accepted in a pause.
const RELIEF: usize = 256;

/// Connections as they come; see [`incoming`].
#[derive(Debug)]
#[must_use = "connections are accepted only while this is held and polled"]
pub struct Incoming {
    connections: mpsc::Receiver<TlsConnection>,
}

/// Accepts connections on `listener`, for `serve_with_incoming` of a tonic server.
///
/// Handshakes run concurrently, each with a deadline, so a slow or silent client holds up nobody: 5 seconds for the client's first
/// word, 10 in the line where there is one, 5 for the handshake itself. Those that fail are logged and never end the
/// stream. `TCP_NODELAY` is on. The listener is closed when the stream is dropped. Must be called within a Tokio
/// runtime.
///
/// When more clients come than can be served, whoever connected last is served first, a handshake that has begun before any that
/// has not, and the calls of connections that exist before both. Clients that hang up before their turn cost no more than a look.
/// Up to 4,096 connections wait without having begun, up to 1,024 have begun. One more closes the one that has waited longest;
/// so does a lack of file descriptors. [`Workload::handshakes`] counts all of that.
pub fn incoming(listener: TcpListener, workload: &Workload) -> Result<Incoming, Error> {
    incoming_speaking(&[b"h2"], listener, workload)
}

/// The same for the protocols that a client may choose from, the best one first.
pub(super) fn incoming_speaking(
    protocols: &[&[u8]],
    listener: TcpListener,
    workload: &Workload,
) -> Result<Incoming, Error> {
    let mut config = Arc::unwrap_or_clone(tls::server_config(workload)?);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let (ready, connections) = mpsc::channel(READY_MAX);
    let door = Door {
        config: Arc::new(config),
        outside: Room::new(OUTSIDE_MAX),
        begun: Room::new(BEGUN_MAX),
        // As many as can run at once.
        turns: Turns::new(Handle::current().metrics().num_workers()),
        counts: workload.handshake_counts(),
        ready,
    };
    tokio::spawn(Arc::new(door).open(listener));
    Ok(Incoming { connections })
}

impl Stream for Incoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// Where clients come in.
struct Door {
    config: Arc<ServerConfig>,
    outside: Arc<Room>,
    begun: Arc<Room>,
    turns: Arc<Turns>,
    counts: Arc<HandshakeCounts>,
    ready: mpsc::Sender<TlsConnection>,
}

/// Why there is no connection.
#[derive(Debug)]
enum Unmet {
    Expired,
    Failed(io::Error),
    Gone,
    Shed,
}

impl Door {
    async fn open(self: Arc<Self>, listener: TcpListener) {
        loop {
            tokio::select! {
                () = self.ready.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        let place = self.outside.enter();
                        tokio::spawn(Arc::clone(&self).greet(stream, address, place));
                    }
                    Err(error) => self.recover(&error).await,
                },
            }
        }
    }

    /// Files are wanting, mostly: those who have waited longest give back theirs.
    async fn recover(&self, error: &io::Error) {
        if has_hung_up(error) {
            return;
        }
        let shed = self.outside.show_out(RELIEF);
        tracing::warn!(%error, shed, "a connection could not be accepted");
        sleep(ACCEPT_PAUSE).await;
    }

    /// Does the handshake and hands the connection on.
    async fn greet(self: Arc<Self>, stream: TcpStream, address: SocketAddr, place: Place) {
        let met = self.meet(stream, place).await;
        self.counts.add(&met);
        match met {
            // Nobody else begins or goes on while the server has no time for those who are ready: they keep their turns.
            // Fails only when nobody serves any more.
            Ok((connection, _turn)) => drop(self.ready.send(connection).await),
            Err(Unmet::Failed(error)) => {
                tracing::info!(%address, reason = tls::explain(&error), "a TLS handshake failed");
            }
            Err(Unmet::Expired) => {
                tracing::info!(%address, "no TLS handshake was done in time");
            }
            // There may be thousands of these at the moment at which there is no time for them.
            Err(unmet) => tracing::debug!(%address, ?unmet, "no TLS handshake was done"),
        }
    }

    async fn meet(
        &self,
        stream: TcpStream,
        mut outside: Place,
    ) -> Result<(TlsConnection, Turn), Unmet> {
        // Nagle's algorithm and delayed acknowledgements together would cost 40 ms for some calls.
        stream.set_nodelay(true)?;
        let hello = outside.hold(HANDSHAKE_DEADLINE, hear(stream)).await?;
        let turn = outside.hold(TURN_DEADLINE, self.queue(&hello.io)).await?;
        drop(outside);
        self.begun.enter().hold(HANDSHAKE_DEADLINE, self.shake(hello, turn)).await
    }

    /// Waits for a turn, as long as the client does.
    async fn queue(&self, stream: &TcpStream) -> Result<Turn, Unmet> {
        tokio::select! {
            // Also when both are true: the turn has just had the runtime look at the sockets.
            biased;
            () = hung_up(stream) => Err(Unmet::Gone),
            turn = self.turns.take(Rank::Fresh) => Ok(turn),
        }
    }

    async fn shake(
        &self,
        hello: StartHandshake<TcpStream>,
        turn: Turn,
    ) -> Result<(TlsConnection, Turn), Unmet> {
        let handshake = async {
            // Answers the client's word, which is half of the work.
            let stream = hello.into_stream(Arc::clone(&self.config)).await?;
            TlsConnection::new(stream)
        };
        let (connection, turn) = self.turns.pace(turn, handshake).await;
        Ok((connection?, turn))
    }
}

/// Waits for the client's first word, the whole of it. Nothing is computed so far.
async fn hear(stream: TcpStream) -> Result<StartHandshake<TcpStream>, Unmet> {
    // There are no buffers for whoever says nothing.
    stream.readable().await?;
    Ok(LazyConfigAcceptor::new(Acceptor::default(), stream).await?)
}

/// Waits until the client has hung up. It has said its first word and waits for ours; whoever says more cannot be watched.
async fn hung_up(stream: &TcpStream) {
    if matches!(stream.peek(&mut [0]).await, Ok(1..)) {
        pending::<()>().await;
    }
}

fn has_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

impl From<io::Error> for Unmet {
    fn from(error: io::Error) -> Self {
        if has_hung_up(&error) { Self::Gone } else { Self::Failed(error) }
    }
}
