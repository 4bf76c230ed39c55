//! Bodies that end when their caller's documents do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::counts::{Counted, Counts};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// A body that ends when its caller's documents expire, if it is a stream.
    ///
    /// What a unary call sends or receives is one message, and passes.
    #[derive(Debug)]
    pub struct Guarded<B> {
        #[pin]
        inner: Option<B>,
        // The whole of an answer that has no inner body.
        text: Option<Bytes>,
        guard: Option<Guard>,
    }
}

/// The end of a unary request follows its message at once; until it is here, nobody knows that it is not a stream.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
#[error("{EXPIRED}")]
struct Expired;

const EXPIRED: &str =
    "a document that proved who calls has expired while the stream was open; open it again";

/// Which way a body flows, and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    GrpcRequest,
    GrpcResponse,
    /// Of unknown length; the chunks are the messages.
    HttpResponse,
}

#[derive(Debug)]
struct Guard {
    expires_at: SystemTime,
    /// When to give up waiting for more.
    ends_at: SystemTime,
    side: Side,
    messages: Messages,
    timer: Option<Pin<Box<Sleep>>>,
    counts: Arc<Counts>,
    over: bool,
}

impl<B> Guarded<B> {
    /// A body that is let through whatever happens.
    pub(super) fn free(inner: B) -> Self {
        Self { inner: Some(inner), text: None, guard: None }
    }

    pub(super) fn until(
        inner: B,
        expires_at: SystemTime,
        side: Side,
        counts: &Arc<Counts>,
    ) -> Self {
        let (messages, counts) = (Messages::default(), Arc::clone(counts));
        let ends_at = expires_at;
        let guard = Guard { expires_at, ends_at, side, messages, timer: None, counts, over: false };
        Self { inner: Some(inner), text: None, guard: Some(guard) }
    }

    /// The body of an answer that the service behind was never asked for.
    pub(super) fn own(text: Option<Bytes>) -> Self {
        Self { inner: None, text, guard: None }
    }
}

impl<B> Default for Guarded<B> {
    fn default() -> Self {
        Self::own(None)
    }
}

impl<B> Body for Guarded<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(this.text.take().map(|text| Ok(Frame::data(text))));
        };
        let Some(guard) = this.guard else {
            return inner.poll_frame(cx).map_err(Into::into);
        };
        if guard.over {
            return Poll::Ready(None);
        }
        match inner.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(guard.pass(frame))),
            Poll::Ready(end) => Poll::Ready(end.map(|end| end.map_err(Into::into))),
            Poll::Pending => guard.poll_expired(cx).map(|()| Some(guard.cut())),
        }
    }

    fn is_end_stream(&self) -> bool {
        let over = self.guard.as_ref().is_some_and(|guard| guard.over);
        over || self.inner.as_ref().map_or_else(|| self.text.is_none(), Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let own = || SizeHint::with_exact(self.text.as_ref().map_or(0, |text| text.len() as u64));
        self.inner.as_ref().map_or_else(own, Body::size_hint)
    }
}

impl Guard {
    /// Lets a frame through, unless it belongs to a second message and time is up.
    fn pass(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { return Ok(frame) };
        if self.messages.completed && SystemTime::now() >= self.expires_at {
            return self.cut();
        }
        match self.side {
            Side::HttpResponse => self.messages.completed = true,
            Side::GrpcResponse => self.messages.read(data),
            Side::GrpcRequest if !self.messages.completed => {
                self.messages.read(data);
                self.ends_at = self.expires_at.max(SystemTime::now() + END_DEADLINE);
            }
            Side::GrpcRequest => {}
        }
        Ok(frame)
    }

    /// Ready once a body that has nothing to say has outlived the documents.
    ///
    /// A unary call's response is never without something to say, and its request not after its message.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.side == Side::GrpcRequest && !self.messages.completed {
            return Poll::Pending;
        }
        loop {
            let left = self.ends_at.duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                return Poll::Ready(());
            }
            // The wall clock may have moved, so it is asked again after each wait.
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
            std::task::ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }

    fn cut(&mut self) -> Result<Frame<Bytes>, BoxError> {
        self.over = true;
        let status = Status::unauthenticated(EXPIRED);
        match self.side {
            // The service reads the error, and may answer with it.
            Side::GrpcRequest => Err(status.into()),
            Side::GrpcResponse => {
                self.counts.add(Counted::Expired);
                let mut trailers = http::HeaderMap::new();
                status.add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            }
            Side::HttpResponse => {
                self.counts.add(Counted::Expired);
                Err(Expired.into())
            }
        }
    }
}

/// Follows gRPC's framing: a flag, a length of four bytes, and so many bytes of message.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; 5],
    prefix_read: usize,
    left: usize,
    /// Whether one message has passed as a whole.
    completed: bool,
}

impl Messages {
    fn read(&mut self, mut data: &[u8]) {
        while !self.completed && !data.is_empty() {
            if self.prefix_read < self.prefix.len() {
                self.prefix[self.prefix_read] = data[0];
                self.prefix_read += 1;
                data = &data[1..];
                if self.prefix_read < self.prefix.len() {
                    continue;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
            }
            let passed = self.left.min(data.len());
            self.left -= passed;
            data = &data[passed..];
            self.completed = self.left == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_recognised_however_it_is_cut() {
        let message = [&[0, 0, 0, 0, 3][..], b"abc"].concat();
        for chunk in 1..=message.len() {
            let mut messages = Messages::default();
            let pieces: Vec<&[u8]> = message.chunks(chunk).collect();
            for (index, piece) in pieces.iter().enumerate() {
                assert!(!messages.completed, "too early, in pieces of {chunk}");
                messages.read(piece);
                assert_eq!(messages.completed, index + 1 == pieces.len(), "pieces of {chunk}");
            }
        }
        let mut empty = Messages::default();
        empty.read(&[0, 0, 0, 0, 0]);
        assert!(empty.completed, "an empty message is one");
    }
}
