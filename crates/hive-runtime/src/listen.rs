//! Listening, and where.

use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Listens at `address`, and says where that is when its port was 0.
pub async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
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
