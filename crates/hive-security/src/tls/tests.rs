#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::testing::Authority;

/// One handshake without a socket: how the server saw it.
async fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (HandshakeKind, usize) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("td").unwrap();
    let connector = TlsConnector::from(Arc::clone(client));
    let acceptor = TlsAcceptor::from(Arc::clone(server));
    let (connected, accepted) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    // Tickets come with the first bytes after the handshake.
    accepted.write_all(b"!").await.unwrap();
    connected.read_exact(&mut [0]).await.unwrap();
    let session = accepted.get_ref().1;
    (session.handshake_kind().unwrap(), session.peer_certificates().map_or(0, <[_]>::len))
}

#[tokio::test]
async fn no_session_is_resumed_even_if_the_client_would() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client"));
    let server = server_config(&server.workload).unwrap();
    let client =
        client_config(&client.workload, IdPattern::parse("spiffe://td/server").unwrap()).unwrap();
    let mut eager = Arc::unwrap_or_clone(client);
    eager.resumption = Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    for _ in 0..3 {
        let (kind, certificates) = handshake(&server, &eager).await;
        assert!(!matches!(kind, HandshakeKind::Resumed), "{kind:?}");
        assert_eq!(certificates, 1);
    }
}
