//! What the layers cost a call, and what the same job costs elsewhere: unary gRPC over mutual TLS on loopback.
//!
//! `cargo xtask bench layered [--rounds 5] [--seconds 5] [--connections 4] [--in-flight 64] [--only bare,layered]`
//! builds the rival and runs this. Three pairs of processes echo 128 bytes, by turns, with documents of one
//! development authority:
//!
//! - **bare**: tonic over the TLS of `hive_security`, with no layer on either side;
//! - **layered**: the same, and each call carries a JWT-SVID, which the server verifies (it has seen it before), holds
//!   against the certificate, and asks a policy about;
//! - **go**: grpc-go and go-spiffe (`benches/rivals`): mutual TLS, and each call carries a JWT-SVID, which the server
//!   verifies with `jwtsvid.ParseAndValidate` and holds against the certificate. The client keeps its token: go-spiffe
//!   would fetch one for each call.
//!
//! CPU seconds are those of a whole process, as the kernel counts them, in ticks of 10 ms.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

mod child;
mod driver;
mod echo;
mod report;

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Layered,
    Go,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Bare, Self::Layered, Self::Go];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Layered => "layered",
            Self::Go => "go",
        }
    }

    fn parse(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.unwrap_or_else(|| panic!("{name:?} is none of bare, layered and go"))
    }
}

pub(crate) const AUDIENCE: &str = "echo.bench.test";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match words[..] {
        ["serve", kind, endpoint, client] => {
            runtime.block_on(child::serve(Kind::parse(kind), endpoint, client));
        }
        ["call", kind, endpoint, server, connections, in_flight] => {
            let load = child::Load {
                connections: connections.parse().unwrap(),
                in_flight: in_flight.parse().unwrap(),
            };
            runtime.block_on(child::call(Kind::parse(kind), endpoint, server, load));
        }
        _ => runtime.block_on(driver::run(&driver::Options::read(&words))),
    }
}
