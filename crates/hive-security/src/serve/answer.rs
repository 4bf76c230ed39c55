//! How a refusal is said on each wire.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use tonic::Status;

use super::authenticate::Refused;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Grpc,
    Http,
}

impl Wire {
    pub(super) fn answer(self, refused: Refused) -> Response<Option<Bytes>> {
        match (self, refused) {
            (Self::Grpc, Refused::Unauthenticated(reason)) => {
                Status::unauthenticated(reason).into_http()
            }
            (Self::Grpc, Refused::Denied(reason)) => Status::permission_denied(reason).into_http(),
            (Self::Http, Refused::Unauthenticated(reason)) => {
                let mut answer = json(StatusCode::UNAUTHORIZED, "unauthenticated", &reason);
                let scheme = HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
                answer
            }
            (Self::Http, Refused::Denied(reason)) => {
                json(StatusCode::FORBIDDEN, "permission_denied", &reason)
            }
        }
    }
}

fn json(status: StatusCode, error: &str, reason: &str) -> Response<Option<Bytes>> {
    let text = serde_json::json!({ "error": error, "reason": reason }).to_string();
    let mut answer = Response::new(Some(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
