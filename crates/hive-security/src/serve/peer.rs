//! Who is at the other end.

use std::time::SystemTime;

use crate::SpiffeId;

/// The authenticated caller; it is in the extensions of every request that reaches a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Who calls.
    pub spiffe_id: SpiffeId,
    /// By which documents that is known.
    pub how: How,
    /// When the first of these documents is accepted no longer. Streams end then.
    ///
    /// That is the moment at which an X.509-SVID expires, and 30 seconds after a JWT-SVID says that it does: the
    /// leeway within which a new call with it is accepted, for the clock of its issuer may be behind ours. A stream
    /// that ended at once would only be opened again, with the same token.
    pub expires_at: SystemTime,
}

/// By which documents a [`Peer`] is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// The X.509-SVID of the connection and the JWT-SVID of the call, which agree.
    Both,
    /// The X.509-SVID of the connection alone.
    Certificate,
    /// The JWT-SVID of the call alone.
    Token,
}

/// What the TLS handshake showed: the client's X.509-SVID, if it sent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate(pub Option<VerifiedCertificate>);

/// An X.509-SVID that was verified in a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedCertificate {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it expires.
    pub expires_at: SystemTime,
}

/// The caller of `request`; `UNAUTHENTICATED` where [`Authenticate`](super::Authenticate) did not run.
// A Status is large, and it is what every tonic handler returns.
#[allow(clippy::result_large_err, reason = "tonic handlers return Status by value")]
pub fn peer<T>(request: &tonic::Request<T>) -> Result<&Peer, tonic::Status> {
    request.extensions().get().ok_or_else(|| {
        tonic::Status::unauthenticated("the caller of this method is not authenticated")
    })
}
