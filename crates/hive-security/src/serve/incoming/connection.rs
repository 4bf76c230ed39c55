//! One connection, and how it ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::serve::peer::{PeerCertificate, VerifiedCertificate};
use crate::spiffe::svid::validity;
use crate::spiffe::trust::workload_id;
use crate::tls::Gathered;

/// How long a connection that we end is still listened to. Its client needs a round trip to learn of the end.
const LINGER_DEADLINE: Duration = Duration::from_secs(2);

/// A connection whose TLS handshake is done.
///
/// It ends without haste: what the client still sends is taken and dropped until it hangs up, for two seconds at most.
/// A socket that is closed while something is under way to it answers with a reset, and the client would lose what it
/// was told last: that a call was not taken, say, and can be made again.
#[derive(Debug)]
pub struct TlsConnection {
    stream: Gathered<TlsStream<TcpStream>>,
    peer: PeerCertificate,
    /// Runs once our side has said good-bye.
    linger: Option<Pin<Box<Sleep>>>,
}

impl TlsConnection {
    /// Of a stream whose handshake is done.
    pub(super) fn new(stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        // Parsed once per connection; every call on it reads the result.
        let peer = PeerCertificate(leaf.map(read).transpose()?);
        Ok(Self { stream: Gathered::new(stream), peer, linger: None })
    }

    /// Ready when the client has hung up, or had time enough to.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.linger.as_mut().is_none_or(|linger| linger.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        let (tcp, _) = self.stream.get_mut().get_mut();
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
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::serve::incoming;
    use crate::testing::Authority;
    use crate::{IdPattern, tls};

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
