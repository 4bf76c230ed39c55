//! Who is at the other end.

use crate::SpiffeId;

/// The authenticated caller; it is in the extensions of every request that reaches a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who calls: the certificate and the JWT-SVID agree on it.
    pub spiffe_id: SpiffeId,
}

/// What the TLS handshake showed: the SPIFFE ID in the client's certificate, if it sent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate(pub Option<SpiffeId>);

/// The caller of `request`; `UNAUTHENTICATED` where [`Authenticate`](super::Authenticate) did not run.
// A Status is large, and it is what every tonic handler returns.
#[allow(clippy::result_large_err, reason = "tonic handlers return Status by value")]
pub fn peer<T>(request: &tonic::Request<T>) -> Result<&Peer, tonic::Status> {
    request.extensions().get().ok_or_else(|| {
        tonic::Status::unauthenticated("the caller of this method is not authenticated")
    })
}
