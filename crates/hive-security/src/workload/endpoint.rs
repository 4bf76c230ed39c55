//! Where the Workload API listens (Workload Endpoint §4).

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::Error;

/// The address of a Workload API, as in `SPIFFE_ENDPOINT_SOCKET`.
///
/// `unix:///run/spire/agent.sock` (or `unix:/run/spire/agent.sock`): an absolute path and nothing else.
/// `tcp://127.0.0.1:8081` (or `tcp:127.0.0.1:8081`): an IP address and a port and nothing else. Over TCP nobody
/// knows which process asks, so it is for a network that does, such as a pod's loopback.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads an address; everything that the standard does not allow is refused with a sentence.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::invalid("Workload API endpoint", text, reason);
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(refuse("it must not contain white space or control characters"));
        }
        if text.contains(['?', '#', '%', '@']) {
            return Err(refuse(
                "it must not have user info, a query, a fragment or percent-encoding",
            ));
        }
        // The case of a scheme does not count (RFC 3986, section 3.1).
        match text.split_once(':') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("unix") => {
                unix(rest).map_err(refuse)
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp") => tcp(rest).map_err(refuse),
            _ => Err(refuse(
                "it must begin with unix: or tcp:, such as unix:///run/spire/agent.sock",
            )),
        }
    }

    /// The path of the socket, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

fn unix(rest: &str) -> Result<Endpoint, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(after) if after.starts_with('/') => after,
        Some(_) => return Err("unix: takes no host, so three slashes: unix:///path"),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err("unix: takes an absolute path, such as unix:///run/spire/agent.sock");
    }
    if path.ends_with('/') {
        return Err("its path names a directory and not a socket");
    }
    // Two names for one socket would only hide which one is meant.
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err("its path must not contain ..");
    }
    Ok(Endpoint::Unix(PathBuf::from(path)))
}

fn tcp(rest: &str) -> Result<Endpoint, &'static str> {
    let address = rest.strip_prefix("//").unwrap_or(rest);
    if address.contains('/') {
        return Err("tcp: takes an IP address and a port and no path");
    }
    let address: SocketAddr = address.parse().map_err(
        |_| "tcp: takes an IP address and a port, such as tcp://127.0.0.1:8081; names are not looked up",
    )?;
    if address.port() == 0 { Err("its port is 0") } else { Ok(Endpoint::Tcp(address)) }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_the_standard_allows_is_accepted_in_both_spellings() {
        for (text, canonical) in [
            ("unix:///run/agent.sock", "unix:///run/agent.sock"),
            ("unix:/run/agent.sock", "unix:///run/agent.sock"),
            ("UNIX:///run/Agent.sock", "unix:///run/Agent.sock"),
            ("tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
            ("Tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
            ("tcp:127.0.0.1:8081", "tcp://127.0.0.1:8081"),
            ("tcp://[::1]:8081", "tcp://[::1]:8081"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_sentence() {
        for (text, reason) in [
            ("", "must begin with unix: or tcp:"),
            ("/run/agent.sock", "must begin with unix: or tcp:"),
            ("https://127.0.0.1:8081", "must begin with unix: or tcp:"),
            ("unixes:///run/agent.sock", "must begin with unix: or tcp:"),
            ("unix:", "takes an absolute path"),
            ("unix:agent.sock", "takes an absolute path"),
            ("unix://run/agent.sock", "takes no host"),
            ("unix://", "takes no host"),
            ("unix:///", "names a directory"),
            ("unix:///run/", "names a directory"),
            ("unix:///run/../agent.sock", "must not contain .."),
            ("unix:///run/agent.sock?a=b", "a query"),
            ("unix:///run/agent.sock#a", "a fragment"),
            ("unix:///run/a%20b", "percent-encoding"),
            ("unix:///run/agent.sock ", "white space"),
            ("tcp://127.0.0.1", "takes an IP address and a port"),
            ("tcp://127.0.0.1:0", "port is 0"),
            ("tcp://127.0.0.1:70000", "takes an IP address and a port"),
            ("tcp://localhost:8081", "names are not looked up"),
            ("tcp://127.0.0.1:8081/", "no path"),
            ("tcp://user@127.0.0.1:8081", "user info"),
            ("tcp://::1:8081:x", "takes an IP address and a port"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
