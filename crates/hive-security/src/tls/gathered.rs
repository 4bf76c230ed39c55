//! Few records and system calls for much that is small.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Writer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// From here on, h2 writes a payload by itself, and waits until it is flushed.
const PUT_OFF_BELOW: usize = 1024;

/// Either side of TLS over TCP, after its handshake.
pub(crate) trait Session: AsyncRead + AsyncWrite + Unpin {
    /// What takes plain bytes and only encrypts them.
    fn writer(&mut self) -> Writer<'_>;
}

impl Session for client::TlsStream<TcpStream> {
    fn writer(&mut self) -> Writer<'_> {
        self.get_mut().1.writer()
    }
}

impl Session for server::TlsStream<TcpStream> {
    fn writer(&mut self) -> Writer<'_> {
        self.get_mut().1.writer()
    }
}

/// A connection that carries many calls or streams.
///
/// What is written is encrypted, and sent when it is flushed. A flush of little is put off until the tasks that are ready
/// now had their turn, for each of them may have a call or an event of its own: together they are one record and one
/// system call.
#[derive(Debug)]
pub(crate) struct Gathered<S> {
    stream: S,
    /// Bytes that were taken since the last flush.
    unsent: usize,
    /// Whether the flush of this moment was put off already.
    is_late: bool,
}

impl<S> Gathered<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, unsent: 0, is_late: false }
    }

    pub(crate) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: Session> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Session> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.stream.writer().write(bytes)?;
        if taken > 0 || bytes.is_empty() {
            self.unsent += taken;
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
        if !self.is_late && (1..PUT_OFF_BELOW).contains(&self.unsent) {
            self.is_late = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        (self.unsent, self.is_late) = (0, false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::Duration;

    use futures_util::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::testing::Authority;
    use crate::{IdPattern, tls};

    type Server = Gathered<server::TlsStream<TcpStream>>;

    async fn pair() -> (Server, client::TlsStream<TcpStream>) {
        let authority = Authority::new("td");
        let (server, client) = (authority.workload("/server"), authority.workload("/client"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let pattern = |path: &str| IdPattern::parse(&format!("spiffe://td{path}")).unwrap();
        let (clients, servers) = (pattern("/client"), pattern("/server"));
        let (server, client) = tokio::join!(
            tls::accept(&server.workload, &clients, accepted),
            tls::connect(&client.workload, servers, tcp),
        );
        (Gathered::new(server.unwrap().0), client.unwrap().0)
    }

    async fn nothing_comes(client: &mut client::TlsStream<TcpStream>) {
        let read = timeout(Duration::from_millis(50), client.read_u8()).await;
        assert!(read.is_err(), "{read:?}");
    }

    #[tokio::test]
    async fn what_is_little_waits_a_turn_for_more() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"one, ").await.unwrap();
        {
            let mut flush = std::pin::pin!(server.flush());
            assert!(poll!(flush.as_mut()).is_pending(), "put off");
            nothing_comes(&mut client).await;
        }
        server.write_all(b"two").await.unwrap();
        let flushed = poll!(std::pin::pin!(server.flush()));
        assert!(flushed.is_ready(), "only once");
        let mut heard = [0; 8];
        // Sent together: a read returns all that has come.
        let read = timeout(Duration::from_secs(10), client.read(&mut heard)).await;
        assert_eq!((read.unwrap().unwrap(), &heard), (8, b"one, two"));
    }

    #[tokio::test]
    async fn what_is_much_waits_for_nothing_and_a_flush_alone_sends_all() {
        let (mut server, mut client) = pair().await;
        server.write_all(&[7; PUT_OFF_BELOW]).await.unwrap();
        assert!(poll!(std::pin::pin!(server.flush())).is_ready());
        let mut heard = [0; PUT_OFF_BELOW];
        let read = timeout(Duration::from_secs(10), client.read_exact(&mut heard)).await;
        read.unwrap().unwrap();
        server.write_all(b"little").await.unwrap();
        // A task of its own, for a deadline in the same one would poll the flush again.
        let flushing = tokio::spawn(async move { server.flush().await.map(|()| server) });
        let flushed = timeout(Duration::from_secs(10), flushing).await;
        let _server = flushed.expect("it is woken").unwrap().unwrap();
        let read = timeout(Duration::from_secs(10), client.read_exact(&mut heard[..6])).await;
        read.unwrap().unwrap();
        assert_eq!(&heard[..6], b"little");
    }
}
