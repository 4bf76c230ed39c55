//! One loopback port for each server: free ones, or a run of ports that the user chose.

use super::Failure;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Chooses a port for each of `servers`. All are held until all are chosen, so no two are the same.
pub(super) fn choose(base: Option<u16>, servers: &[&str]) -> Result<Vec<SocketAddr>, Failure> {
    let held: Vec<TcpListener> = servers
        .iter()
        .zip(0_u16..)
        .map(|(server, index)| hold(base, index, server))
        .collect::<Result<_, _>>()?;
    held.iter()
        .map(|listener| listener.local_addr().map_err(|error| Failure::error(error.to_string())))
        .collect()
}

fn hold(base: Option<u16>, index: u16, server: &str) -> Result<TcpListener, Failure> {
    let port = match base {
        None => 0,
        Some(base) => base.checked_add(index).ok_or_else(|| {
            Failure::bad_input(format!("--port-base {base} leaves no port for the {server}"))
        })?,
    };
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        Failure::error(format!(
            "port {port}, meant for the {server}, cannot be used: {error}; choose another \
             --port-base, or leave it out to take free ports"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let chosen = choose(None, &["a", "b", "c"]).expect("there are free ports");
        assert!(chosen[0] != chosen[1] && chosen[1] != chosen[2]);
    }

    #[test]
    fn a_port_in_use_is_named_with_its_server_and_the_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let refused = choose(Some(port), &["registry"]).expect_err("it is taken").message;
        for part in [port.to_string().as_str(), "registry", "--port-base"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}
