//! As much of HTTP/1.1 as it takes to find out which call this is and where it ends.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// Longer than any answer is worth waiting for.
const SERVER_DEADLINE: Duration = Duration::from_secs(60);
const REQUEST_MAX_BYTES: usize = 1 << 20;
const ANSWER_MAX_BYTES: u64 = 16 << 20;

/// A request, whole, as it is passed on. It holds a token.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    bytes: Zeroizing<Vec<u8>>,
}

/// Reads up to the end of the body.
pub(super) async fn read_request(client: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let end = loop {
        if let Some(end) = end_of_head(&bytes) {
            break end;
        }
        read_more(client, &mut bytes).await?;
    };
    let (method, path, length) = parse(&bytes[..end]).ok_or(ErrorKind::InvalidData)?;
    while bytes.len() < end + length {
        read_more(client, &mut bytes).await?;
    }
    let bytes = without_keep_alive(&bytes, end);
    Ok(Request { method, path, bytes })
}

async fn read_more(client: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let got = client.read_buf(bytes).await?;
    if got == 0 || bytes.len() > REQUEST_MAX_BYTES {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Method, path below `/v1/`, and the length of the body.
fn parse(head: &[u8]) -> Option<(String, String, usize)> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?.trim_start_matches("/v1").trim_start_matches('/');
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())
    });
    Some((method.to_owned(), path.to_owned(), length.flatten().unwrap_or(0)))
}

/// The answer then ends with the connection, whatever it looks like.
fn without_keep_alive(bytes: &[u8], end: usize) -> Zeroizing<Vec<u8>> {
    let mut request = Zeroizing::new(Vec::with_capacity(bytes.len() + 32));
    for line in bytes[..end - 2].split_inclusive(|byte| *byte == b'\n') {
        if !line.to_ascii_lowercase().starts_with(b"connection:") {
            request.extend_from_slice(line);
        }
    }
    request.extend_from_slice(b"connection: close\r\n\r\n");
    request.extend_from_slice(&bytes[end..]);
    request
}

/// Has the server answer. What it answers holds a secret.
pub(super) async fn ask(server: SocketAddr, request: &Request) -> io::Result<Zeroizing<Vec<u8>>> {
    let asked = async {
        let mut server = TcpStream::connect(server).await?;
        server.write_all(&request.bytes).await?;
        let mut reply = Zeroizing::new(Vec::with_capacity(16 << 10));
        server.take(ANSWER_MAX_BYTES).read_to_end(&mut reply).await?;
        Ok(reply)
    };
    tokio::time::timeout(SERVER_DEADLINE, asked).await.map_err(|_| ErrorKind::TimedOut)?
}

/// `HTTP/1.1 200 …`
pub(super) fn status(reply: &[u8]) -> Option<u16> {
    std::str::from_utf8(reply.get(9..12)?).ok()?.parse().ok()
}

pub(super) async fn send(client: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    client.write_all(bytes).await?;
    client.flush().await
}

/// Waits until the client gives up.
pub(super) async fn await_end(client: &mut TcpStream) -> io::Result<()> {
    let mut ignored = [0; 64];
    while client.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// The client sees a reset, not an end.
pub(super) fn break_off(client: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?)
}
