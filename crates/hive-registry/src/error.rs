//! What can keep the registry from serving.

use crate::store::FileError;
use std::io;
use std::net::SocketAddr;

/// Why the registry ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This process cannot prove who it is.
    #[error(
        "the registry has no usable identity; see whether the SPIFFE Workload API knows this process"
    )]
    Identity(#[source] hive_security::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another HIVE_LISTEN or stop what holds it")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The records cannot be opened.
    #[error("the registry cannot open its store")]
    Store(#[source] FileError),
    /// This replica cannot make itself present in etcd.
    #[cfg(feature = "etcd")]
    #[error("etcd cannot be used; see HIVE_ETCD_ENDPOINTS, HIVE_ETCD_ID, and whether etcd runs")]
    Etcd(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server ended although nobody asked it to.
    #[error("the gRPC server failed")]
    Serve(#[source] tonic::transport::Error),
}
