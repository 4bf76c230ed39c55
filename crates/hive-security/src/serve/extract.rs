//! [`Peer`] as an argument of axum's handlers.

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;

use super::peer::Peer;

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or((
            // The layer is missing, so the fault is the server's; nobody gets in all the same.
            StatusCode::INTERNAL_SERVER_ERROR,
            "this path does not authenticate its callers",
        ))
    }
}
