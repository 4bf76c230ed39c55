//! Listening, and where.

use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// So many connections may wait to be accepted, if the kernel allows (`net.core.somaxconn`): a fleet that comes back at once
/// comes within milliseconds, and whoever is turned away here tries again only after a second.
const BACKLOG: u32 = 4096;

/// Listens at `address`, and says where that is when its port was 0.
pub async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // So that a service which is started again finds its port, although connections of the one before still end.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_was_left_open_is_told() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (_listener, bound) = listen(any).await.expect("there are free ports");
        assert_ne!(bound.port(), 0);
        assert!(listen(bound).await.is_err());
    }
}
