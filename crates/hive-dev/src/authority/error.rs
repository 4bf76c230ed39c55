//! What can go wrong, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::witness;

/// Why the development authority did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A bundle of another trust domain cannot be taken over.
    #[error("the bundle is refused: {reason}")]
    Bundle {
        /// What is wrong with it.
        reason: String,
    },
    /// A caller did not get its identity.
    #[error("a caller at {path} did not get its identity: the authority's weather may refuse it")]
    Caller {
        /// The path of its SPIFFE ID.
        path: String,
        /// What the Workload API said.
        source: hive_security::Error,
    },
    /// The control stream broke.
    #[error("the control stream broke; the authority stops with it")]
    Control {
        /// What the system said.
        source: io::Error,
    },
    /// A server of the authority ended by itself.
    #[error("the development authority ended unexpectedly: its log says which server and why")]
    Ended,
    /// Too many entries.
    #[error("the table of entries is full: remove entries that are no longer needed")]
    Full,
    /// A hint is too long.
    #[error("a hint has {length} bytes, and at most 1024 are allowed: choose a shorter one")]
    Hint {
        /// Its length in bytes.
        length: usize,
    },
    /// An address could not be listened at.
    #[error("cannot listen at {address}: choose a free loopback port, or port 0")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The lifetimes do not fit together.
    #[error("these lifetimes do not fit together: {reason}")]
    Lifetimes {
        /// What must hold.
        reason: &'static str,
    },
    /// A SPIFFE ID or trust domain is malformed.
    #[error("{name:?} cannot be issued: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The executable of a selector does not exist.
    #[error("no executable is at {path}: give the path of an existing file")]
    NoExecutable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process of an entry does not run, or cannot be watched.
    #[error("process {pid} cannot be registered: it must be running, and visible to the authority")]
    NoProcess {
        /// Its number.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A development authority is for this machine only.
    #[error("the authority serves on loopback only, and {0} is not: use 127.0.0.1 or ::1")]
    NotLoopback(SocketAddr),
    /// Something that is no socket is in the way.
    #[error("{path} exists and is not a socket: choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The selectors of an entry make no sense.
    #[error("the entry's selectors are refused: {reason}")]
    Selectors {
        /// Why.
        reason: &'static str,
    },
    /// No key, certificate or token could be made.
    #[error("the cryptographic library refused to make a key, certificate or token: {reason}")]
    Signing {
        /// What it said.
        reason: String,
    },
    /// The socket could not be taken.
    #[error(
        "cannot listen at {path}: its directory must exist or be creatable, and be ours to write"
    )]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone else serves there.
    #[error("another process serves at {path}: stop it, or choose another path")]
    SocketInUse {
        /// The path.
        path: PathBuf,
    },
    /// The kernel would refuse or cut the path.
    #[error(
        "the socket path {path} has {length} bytes, and the kernel takes at most 107: choose a shorter directory"
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// A signing key cannot take this step.
    #[error("the signing key cannot take this step: {reason}")]
    Step {
        /// What must hold.
        reason: &'static str,
    },
    /// The witness did not hear of a secret, which is therefore not issued.
    #[error("a secret was not issued, because the witness could not be told")]
    Witness(#[from] witness::Error),
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing { reason: error.to_string() }
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Signing { reason: error.to_string() }
    }
}

impl From<aws_lc_rs::error::Unspecified> for Error {
    fn from(error: aws_lc_rs::error::Unspecified) -> Self {
        Self::Signing { reason: error.to_string() }
    }
}
