#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::X509Material;
use crate::spiffe::verify::JwtTrust;
use crate::testing::{Authority, Stand, audience};

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

#[tokio::test]
async fn no_session_is_resumed_even_if_the_server_would() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client"));
    let mut eager = Arc::unwrap_or_clone(server_config(&server.workload).unwrap());
    eager.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    eager.send_tls13_tickets = 2;
    let eager = Arc::new(eager);
    let client = client_config(&client.workload, pattern("spiffe://td/server")).unwrap();
    for _ in 0..3 {
        let (kind, certificates) = handshake(&eager, &client).await;
        assert!(!matches!(kind, HandshakeKind::Resumed), "{kind:?}");
        assert_eq!(certificates, 1);
    }
}

fn pattern(text: &str) -> IdPattern {
    IdPattern::parse(text).unwrap()
}

/// One connection between a server and a client of these versions: the version that both speak.
async fn negotiate(server: Versions, client: Versions) -> rustls::ProtocolVersion {
    let authority = Authority::new("td");
    let (near, far) = (authority.workload("/server"), authority.workload("/client"));
    let server = server_config_for(&near.workload, server).unwrap();
    let mut client = Arc::unwrap_or_clone(
        client_config_for(&far.workload, pattern("spiffe://td/server"), client).unwrap(),
    );
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    let mut spoken = None;
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("td").unwrap();
        let connector = TlsConnector::from(Arc::clone(&client));
        let acceptor = TlsAcceptor::from(Arc::clone(&server));
        let (connected, accepted) =
            tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let (_connected, accepted) = (connected.unwrap(), accepted.unwrap());
        let session = accepted.get_ref().1;
        assert!(!matches!(session.handshake_kind(), Some(HandshakeKind::Resumed)));
        assert_eq!(session.peer_certificates().map_or(0, <[_]>::len), 1);
        spoken = session.protocol_version();
    }
    spoken.unwrap()
}

/// What a client that knows nothing newer than TLS 1.2 meets.
async fn with_an_old_client(server: Versions) -> bool {
    let authority = Authority::new("td");
    let (near, far) = (authority.workload("/server"), authority.workload("/client"));
    let server = server_config_for(&near.workload, server).unwrap();
    let authorities = Authorities::Current(far.workload.clone());
    let verifier = Verifier::new(authorities, Some(pattern("spiffe://td/server")));
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(CurrentSvid(far.workload.clone())));
    let old = Arc::new(old);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("td").unwrap();
        let (connected, accepted) = tokio::join!(
            TlsConnector::from(Arc::clone(&old)).connect(name, near),
            TlsAcceptor::from(Arc::clone(&server)).accept(far)
        );
        if let (Ok(_), Ok(accepted)) = (connected, accepted) {
            let session = accepted.get_ref().1;
            assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
            kinds.push(session.handshake_kind().unwrap());
        }
    }
    assert!(!kinds.contains(&HandshakeKind::Resumed), "{kinds:?}");
    kinds.len() == 2
}

#[tokio::test]
async fn tls_1_2_is_spoken_only_where_a_switch_says_so_and_never_resumed() {
    use Versions::{DangerTls12Too, Tls13};
    assert!(!with_an_old_client(Tls13).await);
    assert!(with_an_old_client(DangerTls12Too).await);
    for (server, client) in [
        (Tls13, Tls13),
        (DangerTls12Too, DangerTls12Too),
        (DangerTls12Too, Tls13),
        (Tls13, DangerTls12Too),
    ] {
        let spoken = negotiate(server, client).await;
        assert_eq!(spoken, rustls::ProtocolVersion::TLSv1_3, "{server:?} and {client:?}");
    }
}

/// A connection over loopback: what either side says of the other.
async fn meet(
    server: &Stand,
    clients: &str,
    client: &Stand,
    servers: &str,
) -> (Result<String, std::io::Error>, Result<String, std::io::Error>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (clients, servers) = (pattern(clients), pattern(servers));
    let accepted = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, id) = accept(&server.workload, &clients, tcp).await?;
        stream.write_all(b"!").await?;
        Ok(id.to_string())
    };
    let connected = async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut stream, id) = connect(&client.workload, servers, tcp).await?;
        stream.read_exact(&mut [0]).await?;
        Ok(id.to_string())
    };
    tokio::join!(accepted, connected)
}

#[tokio::test]
async fn both_ends_of_a_stream_are_known_by_name() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client"));
    let (seen, met) = meet(&server, "spiffe://td/client", &client, "spiffe://td/server").await;
    assert_eq!(seen.unwrap(), "spiffe://td/client");
    assert_eq!(met.unwrap(), "spiffe://td/server");
}

#[tokio::test]
async fn who_is_not_welcome_at_a_stream_is_refused_by_either_end() {
    let (authority, strangers) = (Authority::new("td"), Authority::new("td"));
    let (server, client) = (authority.workload("/server"), authority.workload("/client"));
    let (seen, met) = meet(&server, "spiffe://td/other", &client, "spiffe://td/server").await;
    let refused = seen.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(refused.to_string().contains("it comes from spiffe://td/client"), "{refused}");
    assert!(met.is_err(), "it reads the end of the stream");
    let (seen, met) = meet(&server, "spiffe://td/client", &client, "spiffe://td/other").await;
    assert!(seen.is_err());
    assert!(met.unwrap_err().to_string().contains("it comes from spiffe://td/server"));
    let stranger = strangers.workload("/client");
    let (seen, _) = meet(&server, "spiffe://td/client", &stranger, "spiffe://td/server").await;
    assert!(seen.is_err());
    client.x509.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
    let (_, met) = meet(&server, "spiffe://td/client", &client, "spiffe://td/server").await;
    assert!(met.unwrap_err().to_string().contains("withdrew this workload's identity"));
}

/// Workload API §5.2.1 and §6.2.2: bundles of the one kind must only be used to authenticate that kind.
#[tokio::test]
async fn bundles_for_certificates_verify_no_tokens_and_those_for_tokens_no_certificates() {
    let (ours, theirs) = (Authority::new("td"), Authority::new("other"));
    let (server, client) = (ours.workload("/server"), theirs.workload("/client"));
    let bundles = [ours.bundle(), theirs.bundle()].to_vec();
    let svid = |authority: &Authority, path| vec![Arc::new(authority.svid(path))];
    client.x509.publish(Ok(X509Material::new(svid(&theirs, "/client"), bundles.clone())));
    let audience = audience("a");
    let token = theirs.token("/client", &audience);
    let keys = |authorities: &[&Authority]| {
        JwtTrust::new(authorities.iter().flat_map(|authority| authority.keys()).collect())
    };
    for (x509, jwt) in [(true, false), (false, true)] {
        let known = if x509 { bundles.clone() } else { vec![ours.bundle()] };
        server.x509.publish(Ok(X509Material::new(svid(&ours, "/server"), known)));
        let known = if jwt { keys(&[&ours, &theirs]) } else { keys(&[&ours]) };
        server.jwt.publish(Ok(known.into()));
        let (seen, _) = meet(&server, "spiffe://other/**", &client, "spiffe://td/server").await;
        assert_eq!(seen.is_ok(), x509, "{seen:?}");
        let judged = server.workload.verify_jwt(&token, &audience);
        assert_eq!(judged.is_ok(), jwt, "{judged:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_stream() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client"));
    let config = client_config(&client.workload, pattern("spiffe://td/server")).unwrap();
    let mut config = Arc::unwrap_or_clone(config);
    config.client_auth_cert_resolver = Arc::new(Nothing);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let clients = pattern("spiffe://td/**");
    let (_, accepted) = tokio::join!(
        connector.connect(ServerName::try_from("td").unwrap(), near),
        accept(&server.workload, &clients, far)
    );
    let refused = accepted.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(refused.to_string(), "the client presented no X.509-SVID");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_dropped_at_the_deadline() {
    let server = Authority::new("td").workload("/server");
    let (_silent, far) = tokio::io::duplex(64);
    let refused = accept(&server.workload, &pattern("spiffe://td/**"), far).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
