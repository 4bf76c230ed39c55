//! Connections whose calls have given up.

use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that answers a client's first word when it is told to.
async fn accepted(server: &Stand, listener: &TcpListener) -> (TlsAcceptor, TcpStream) {
    let mut config = Arc::unwrap_or_clone(tls::server_config(&server.workload).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (tcp, _) = listener.accept().await.unwrap();
    (TlsAcceptor::from(Arc::new(config)), tcp)
}

#[tokio::test]
async fn a_handshake_goes_on_when_its_call_has_given_up() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let mut channel =
        channel(&client.workload, &address, pattern("spiffe://td/server"), audience(AUDIENCE))
            .unwrap();
    let (acceptor, tcp) = tokio::select! {
        accepted = accepted(&server, &listener) => accepted,
        told = whoami(&mut channel) => panic!("{told:?}"),
    };
    // The call is dropped by now, and nobody calls again.
    let shaken = timeout(Duration::from_secs(5), acceptor.accept(tcp)).await;
    shaken.expect("the client does its half").unwrap();
}

#[tokio::test]
async fn an_old_failure_is_nobodys_answer() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut channel = channel(
        &client.workload,
        &format!("https://{address}"),
        pattern("spiffe://td/server"),
        audience(AUDIENCE),
    )
    .unwrap();
    let (_, tcp) = tokio::select! {
        accepted = accepted(&server, &listener) => accepted,
        told = whoami(&mut channel) => panic!("{told:?}"),
    };
    drop(tcp);
    tokio::time::sleep(STALE_AFTER + Duration::from_millis(200)).await;
    let _running = serve_at(&server, listener);
    assert_eq!(whoami(&mut channel).await.unwrap(), "spiffe://td/client/a");
}
