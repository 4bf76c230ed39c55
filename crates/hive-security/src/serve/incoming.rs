//! Connections whose TLS handshake is done.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::peer::{PeerCertificate, VerifiedCertificate};
use crate::spiffe::svid::validity;
use crate::spiffe::trust::workload_id;
use crate::{Error, Workload, tls};

/// Whoever connects and then says nothing is dropped after this.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// So many handshakes may be under way; further connections wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 256;

/// So many connections may wait to be picked up by the server, which does nothing else between two of them.
const READY_MAX: usize = 16;

/// The pause after accepting failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection that we end is still listened to. Its client needs a round trip to learn of the end.
const LINGER_DEADLINE: Duration = Duration::from_secs(2);

/// A connection whose TLS handshake is done.
///
/// It ends without haste: what the client still sends is taken and dropped until it hangs up, for two seconds at most.
/// A socket that is closed while something is under way to it answers with a reset, and the client would lose what it
/// was told last: that a call was not taken, say, and can be made again.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: PeerCertificate,
    /// Runs once our side has said good-bye.
    linger: Option<Pin<Box<Sleep>>>,
}

/// Connections as they come; see [`incoming`].
#[derive(Debug)]
#[must_use = "connections are accepted only while this is held and polled"]
pub struct Incoming {
    connections: mpsc::Receiver<TlsConnection>,
}

/// Accepts connections on `listener`, for `serve_with_incoming` of a tonic server.
///
/// Handshakes run concurrently, each with a deadline of 5 seconds, so a slow or silent client holds up nobody;
/// those that fail are logged and never end the stream. `TCP_NODELAY` is on. The listener is closed when the
/// stream is dropped. Must be called within a Tokio runtime.
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
    tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), ready));
    Ok(Incoming { connections })
}

impl Stream for Incoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<TlsConnection>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    tokio::spawn(greet(acceptor.clone(), stream, address, ready.clone(), slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Does the handshake and hands the connection on; the slot is free once that is done.
async fn greet(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    ready: mpsc::Sender<TlsConnection>,
    slot: OwnedSemaphorePermit,
) {
    match timeout(HANDSHAKE_DEADLINE, handshake(acceptor, stream)).await {
        // Fails only when nobody serves any more.
        Ok(Ok(connection)) => drop(ready.send(connection).await),
        Ok(Err(error)) => {
            tracing::info!(%address, reason = tls::explain(&error), "a TLS handshake failed");
        }
        Err(_) => {
            tracing::info!(%address, "a TLS handshake took longer than {HANDSHAKE_DEADLINE:?}");
        }
    }
    drop(slot);
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsConnection> {
    // Nagle's algorithm and delayed acknowledgements together would cost 40 ms for some calls.
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // Parsed once per connection; every call on it reads the result.
    let peer = PeerCertificate(leaf.map(read).transpose()?);
    Ok(TlsConnection { stream, peer, linger: None })
}

fn read(leaf: &CertificateDer<'_>) -> io::Result<VerifiedCertificate> {
    let spiffe_id = workload_id(leaf).map_err(io::Error::other)?;
    let (_, expires_at) =
        validity(leaf).ok_or_else(|| io::Error::other("its validity cannot be read"))?;
    Ok(VerifiedCertificate { spiffe_id, expires_at })
}

impl Connected for TlsConnection {
    type ConnectInfo = PeerCertificate;

    fn connect_info(&self) -> PeerCertificate {
        self.peer.clone()
    }
}

impl TlsConnection {
    /// Ready when the client has hung up, or had time enough to.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.linger.as_mut().is_none_or(|linger| linger.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        let (tcp, _) = self.stream.get_mut();
        let mut scratch = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    /// Encrypts, and leaves the sending to [`poll_flush`](Self::poll_flush), so that many answers are one system call.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (_, session) = self.stream.get_mut();
        let taken = session.writer().write(bytes)?;
        if taken > 0 || bytes.is_empty() {
            return Poll::Ready(Ok(taken));
        }
        // As much is waiting as may.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// No: each piece would be a record and a system call of its own. h2 gathers what is small instead.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.linger = Some(Box::pin(sleep(LINGER_DEADLINE)));
        }
        self.poll_hung_up(cx).map(Ok)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::IdPattern;
    use crate::testing::Authority;

    #[tokio::test]
    async fn a_client_that_still_sends_hears_what_it_was_told_last() {
        let authority = Authority::new("td");
        let (server, client) = (authority.workload("/server"), authority.workload("/client"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = incoming(listener, &server.workload).unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let servers = IdPattern::parse("spiffe://td/server").unwrap();
        let (mut stream, _) = tls::connect(&client.workload, servers, tcp).await.unwrap();
        let mut connection = connections.next().await.unwrap().unwrap();
        let ending = tokio::spawn(async move {
            connection.write_all(b"the last word").await.unwrap();
            connection.shutdown().await.unwrap();
        });
        // A write to a socket that is closed succeeds once, and brings the reset that the next one meets.
        for _ in 0..3 {
            sleep(Duration::from_millis(50)).await;
            stream.write_all(b"one more call").await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(!ending.is_finished());
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "the last word");
        drop(stream);
        timeout(LINGER_DEADLINE / 2, ending).await.expect("the client has hung up").unwrap();
    }
}
