//! Calls that a closing connection did not take.
//!
//! A server that asks for another connection may do so in the moment in which a call is handed to this one. Where it
//! certainly has not looked at the call, it is taken back and made again (gRPC's "transparent retry"):
//!
//! - the connection never sent it, and its body is untouched;
//! - the server said so: its `GOAWAY` names an earlier call as the last that it takes (RFC 9113 §6.8), or it refused
//!   the stream (§8.7). What was sent of the body is kept until then, up to 64 KiB.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::Request;
use http::request::Parts;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::error::causes;

/// A body that is longer is not kept, and its call not made again: most messages are far shorter, and streams endless.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A request that can be taken back as long as nobody has looked at it.
pub(super) struct Unsent {
    parts: Parts,
    slot: Arc<Slot>,
}

/// The body, as it is lent to a connection.
struct Lent {
    slot: Arc<Slot>,
    loan: u32,
    /// How many of the kept frames this loan has read.
    read: usize,
}

struct Slot(Mutex<Contents>);

struct Contents {
    /// What nobody has read so far.
    rest: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Whether more was read than is kept.
    lost: bool,
    /// Only the last of them may read: the connection before may not have noticed yet that it is over.
    loans: u32,
    /// Whether the last of them has read anything.
    touched: bool,
}

impl Unsent {
    pub(super) fn new(request: Request<Body>) -> Self {
        let (parts, rest) = request.into_parts();
        let contents = Contents {
            rest,
            kept: Vec::new(),
            kept_bytes: 0,
            lost: false,
            loans: 0,
            touched: false,
        };
        Self { parts, slot: Arc::new(Slot(Mutex::new(contents))) }
    }

    /// The request, for one attempt.
    pub(super) fn lend(&self) -> Request<Body> {
        let mut contents = self.slot.lock();
        contents.loans += 1;
        contents.touched = false;
        let body = Lent { slot: Arc::clone(&self.slot), loan: contents.loans, read: 0 };
        drop(contents);
        Request::from_parts(self.parts.clone(), Body::new(body))
    }

    /// Whether an attempt that failed like this can be made again.
    pub(super) fn is_intact(&self, error: &(dyn StdError + 'static)) -> bool {
        let contents = self.slot.lock();
        !contents.lost && (!contents.touched && was_cancelled(error) || was_refused(error))
    }
}

/// Whether the connection gave the call back without having sent it.
fn was_cancelled(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_canceled))
}

/// Whether the server has said that it has not looked at the call, and will not.
pub(super) fn was_refused(error: &(dyn StdError + 'static)) -> bool {
    let says_so = |error: &h2::Error| {
        let reason = error.reason();
        let closing = error.is_go_away() && reason == Some(Reason::NO_ERROR);
        let refused = error.is_reset() && reason == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (closing || refused)
    };
    causes(error).any(|cause| cause.downcast_ref().is_some_and(says_so))
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if !self.lost && self.kept_bytes + data.len() <= KEPT_BYTES_MAX => {
                self.kept_bytes += data.len();
                self.kept.push(data.clone());
            }
            _ => {
                self.lost = true;
                self.kept = Vec::new();
            }
        }
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (slot, read) = (Arc::clone(&self.slot), self.read);
        let mut contents = slot.lock();
        if contents.loans != self.loan {
            return Poll::Ready(Some(Err(Status::cancelled("the call is made elsewhere"))));
        }
        contents.touched = true;
        if let Some(again) = contents.kept.get(read).cloned() {
            self.read += 1;
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        let next = ready!(Pin::new(&mut contents.rest).poll_frame(cx));
        if let Some(Ok(frame)) = &next {
            contents.keep(frame);
            self.read = contents.kept.len();
        } else if next.is_some() {
            contents.lost = true;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        let contents = self.slot.lock();
        self.read >= contents.kept.len() && contents.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let contents = self.slot.lock();
        let again: usize = contents.kept.iter().skip(self.read).map(Bytes::len).sum();
        let (rest, mut hint) = (contents.rest.size_hint(), SizeHint::new());
        hint.set_lower(rest.lower() + again as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again as u64);
        }
        hint
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn of(frames: &[&'static [u8]]) -> Unsent {
        let frames: Vec<_> =
            frames.iter().map(|data| Ok::<_, Status>(Frame::data(Bytes::from(*data)))).collect();
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        Unsent::new(Request::new(body))
    }

    fn refusal() -> h2::Error {
        // What a peer sends cannot be made from outside; a library's own looks alike but for who said it.
        h2::Error::from(Reason::REFUSED_STREAM)
    }

    async fn whole(body: Body) -> Result<Bytes, Status> {
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_and_then_the_rest() {
        let unsent = of(&[b"one ", b"two ", b"three"]);
        let mut first = unsent.lend().into_body();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
        let mut second = unsent.lend().into_body();
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "two ");
        assert_eq!(whole(unsent.lend().into_body()).await.unwrap(), "one two three");
        assert_eq!(whole(unsent.lend().into_body()).await.unwrap(), "one two three");
    }

    #[tokio::test]
    async fn only_the_last_loan_reads() {
        let unsent = of(&[b"one"]);
        let (first, second) = (unsent.lend().into_body(), unsent.lend().into_body());
        assert!(whole(first).await.is_err());
        assert_eq!(whole(second).await.unwrap(), "one");
    }

    #[tokio::test]
    async fn a_long_body_is_not_kept() {
        static LONG: [u8; KEPT_BYTES_MAX] = [0; KEPT_BYTES_MAX];
        let unsent = of(&[b"more", &LONG]);
        assert!(!unsent.slot.lock().lost);
        assert_eq!(whole(unsent.lend().into_body()).await.unwrap().len(), LONG.len() + 4);
        let contents = unsent.slot.lock();
        assert!(contents.lost && contents.kept.is_empty());
    }

    #[test]
    fn an_error_of_our_own_is_no_refusal() {
        assert!(!was_refused(&refusal()) && !of(&[]).is_intact(&refusal()));
        assert!(!was_refused(&std::io::Error::other("broken")));
    }
}
