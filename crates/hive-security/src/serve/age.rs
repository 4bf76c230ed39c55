//! How long a connection may live.

use std::time::Duration;

/// How long a connection may live, so that rotation reaches those that would never end.
///
/// Then a server asks its client to open another connection (HTTP/2's `GOAWAY`, HTTP/1.1's `Connection: close`) and
/// finishes the calls that run; none is lost. An authenticated stream among them ends when its caller's documents
/// expire, and the connection with the last of them. [`serve_http`](super::serve_http) does this by itself, and so does the
/// client's side of a [`Channel`](crate::connect::Channel).
///
/// ```
/// use hive_security::serve::ConnectionAge;
///
/// let server = tonic::transport::Server::builder().max_connection_age(ConnectionAge::default().drawn());
/// # let _ = server;
/// ```
///
/// `max_connection_age_grace` of tonic 0.14 is better left alone: with it, no `GOAWAY` is sent, and the
/// connection breaks under its calls when both times have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionAge {
    /// The longest life.
    pub max: Duration,
}

impl ConnectionAge {
    /// An age between nine tenths of `max` and `max`: servers that started together do not send their clients
    /// away together.
    pub fn drawn(&self) -> Duration {
        self.max.mul_f64(rand::random_range(0.9..=1.0))
    }
}

impl Default for ConnectionAge {
    /// Half an hour: half of the life that SPIRE gives an X.509-SVID.
    fn default() -> Self {
        Self { max: Duration::from_secs(30 * 60) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_drawn_near_and_never_above_the_maximum() {
        let age = ConnectionAge::default();
        let drawn: Vec<Duration> = (0..100).map(|_| age.drawn()).collect();
        assert!(drawn.iter().all(|drawn| (age.max.mul_f64(0.9)..=age.max).contains(drawn)));
        assert!(drawn.iter().any(|other| *other != drawn[0]), "there is no jitter");
    }
}
