//! Connections that a server closes under a call.

use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::server::TlsStream;

use super::*;

const DATA: u8 = 0;
const PREFACE_BYTES: usize = 24;

/// An empty SETTINGS, which a server begins with.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// GOAWAY without an error: `last` is the last stream that is taken.
fn go_away(last: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]
}

/// Reads frames until a call was sent whole.
async fn read_call(stream: &mut TlsStream<TcpStream>) {
    let mut preface = [0; PREFACE_BYTES];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == DATA {
            return;
        }
    }
}

/// What comes of a call whose connection closes once it was sent, when the server says that `last` is the last stream
/// that it takes. The next connection is served as any other.
async fn call_into(last: u8) -> Result<String, Status> {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let server_pattern = pattern("spiffe://td/server");
    let mut channel =
        channel(&client.workload, &address, server_pattern, audience(AUDIENCE)).unwrap();
    let closing = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let clients = pattern("spiffe://td/client/**");
        let (mut stream, _) = tls::accept(&server.workload, &clients, tcp).await.unwrap();
        stream.write_all(&SETTINGS).await.unwrap();
        read_call(&mut stream).await;
        stream.write_all(&go_away(last)).await.unwrap();
        stream.shutdown().await.unwrap();
        serve_at(&server, listener)
    };
    let calling = async {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
        let request = http::Request::post("/test.WhoAmI/Ask")
            .header("content-type", "application/grpc")
            .body(Body::new(Full::new(bytes::Bytes::from_static(b"a message"))));
        let response = channel.call(request.unwrap()).await?;
        Ok(response.headers()["peer"].to_str().unwrap().to_owned())
    };
    let both = async { tokio::join!(closing, calling) };
    let (_running, answer) = timeout(Duration::from_secs(10), both).await.expect("it ends");
    answer
}

#[tokio::test]
async fn a_call_that_a_closing_server_did_not_take_is_made_again() {
    assert_eq!(call_into(0).await.unwrap(), "spiffe://td/client/a");
}

#[tokio::test]
async fn a_call_that_a_closing_server_may_have_taken_is_not_made_again() {
    assert_eq!(call_into(1).await.unwrap_err().code(), Code::Unavailable);
}
