//! Calls that a closing connection did not take.
//!
//! A server that asks for another connection may do so in the moment in which a call is handed to this one. The
//! call has not been sent then, and fails with its body untouched; so it is taken back and made again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http::request::Parts;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// A request that can be taken back as long as nobody has read its body.
pub(super) struct Unsent {
    parts: Parts,
    slot: Arc<Slot>,
}

/// The body, as it is lent to a connection.
struct Lent(Arc<Slot>);

struct Slot(Mutex<Contents>);

struct Contents {
    body: Body,
    touched: bool,
}

impl Unsent {
    pub(super) fn new(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        Self { parts, slot: Arc::new(Slot(Mutex::new(Contents { body, touched: false }))) }
    }

    /// The request, for one attempt.
    pub(super) fn lend(&self) -> Request<Body> {
        let body = Body::new(Lent(Arc::clone(&self.slot)));
        Request::from_parts(self.parts.clone(), body)
    }

    /// Whether an attempt that failed like this has sent nothing.
    pub(super) fn is_intact(&self, error: &tonic::transport::Error) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(hyper::Error::is_canceled) {
                return !self.slot.lock().touched;
            }
            cause = error.source();
        }
        false
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut contents = self.0.lock();
        contents.touched = true;
        Pin::new(&mut contents.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}
