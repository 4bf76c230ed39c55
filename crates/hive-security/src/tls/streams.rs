//! TLS over any stream, with the peer known by name.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{client_config, explain, refused, server_config};
use crate::spiffe::trust::workload_id;
use crate::{Error, IdPattern, Refusal, SpiffeId, Workload};

/// Two round trips and two signatures, on a busy machine; whoever says nothing is dropped after this.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Does a server's handshake on `stream`, with a deadline of 5 seconds: the connection, and who is at its other
/// end. The client must present an X.509-SVID, and be one of `clients`.
///
/// The SVID and the bundles of this moment are used. A connection outlives them, so the caller gives it a
/// maximum age. Dropping the future drops the stream.
///
/// # Errors
///
/// `PermissionDenied` where the client is not welcome, `TimedOut`, or what the stream or TLS say. A client
/// that is not welcome learns it by the end of its stream.
pub async fn accept<IO>(
    workload: &Workload,
    clients: &IdPattern,
    stream: IO,
) -> io::Result<(server::TlsStream<IO>, SpiffeId)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config: Arc<ServerConfig> = server_config(workload).map_err(io::Error::other)?;
    let stream = in_time(TlsAcceptor::from(config).accept(stream)).await?;
    let client = peer(stream.get_ref().1.peer_certificates())?;
    if !clients.matches(&client) {
        let refusal = Refusal::UnexpectedIdentity { expected: clients.clone(), seen: client };
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal));
    }
    Ok((stream, client))
}

/// Does a client's handshake on `stream`, with a deadline of 5 seconds: the connection, and who is at its other
/// end, which is one of `servers`.
///
/// In TLS 1.3 a client learns only when it first reads that the server did not welcome it.
///
/// # Errors
///
/// [`Error`] inside where this workload has no identity, `TimedOut`, or what the stream or TLS say.
pub async fn connect<IO>(
    workload: &Workload,
    servers: IdPattern,
    stream: IO,
) -> io::Result<(client::TlsStream<IO>, SpiffeId)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // Without a certificate of its own it would only be refused at the other end.
    let own: Result<_, Error> = workload.x509_svid();
    own.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
    let config = client_config(workload, servers).map_err(io::Error::other)?;
    // Neither sent nor looked at: a server is known by its SPIFFE ID.
    let name = ServerName::try_from("server").expect("it is a name");
    let stream = in_time(TlsConnector::from(config).connect(name, stream)).await?;
    let server = peer(stream.get_ref().1.peer_certificates())?;
    Ok((stream, server))
}

async fn in_time<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), explain(&error))),
        Err(_) => {
            let message = format!("no TLS handshake within {HANDSHAKE_DEADLINE:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        }
    }
}

/// Whose certificate the handshake has verified.
fn peer(chain: Option<&[CertificateDer<'_>]>) -> io::Result<SpiffeId> {
    let Some(leaf) = chain.and_then(<[_]>::first) else {
        let message = "the client presented no X.509-SVID";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    };
    workload_id(leaf).map_err(|refusal| io::Error::other(refused(refusal)))
}
