//! Bodies that end when their caller's documents do, or a new policy says so.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::admission::{Admission, Cause};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// A body that ends when its caller's documents expire or a new policy does not allow it, if it is a stream.
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
#[error("{0}")]
struct CutOff(&'static str);

const EXPIRED: &str =
    "a document that proved who calls has expired while the stream was open; open it again";
const REVOKED: &str =
    "the policy of this server has changed, and does not allow this stream any more";

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
    admission: Arc<Admission>,
    /// When to give up waiting for more, and why.
    ends_at: SystemTime,
    cause: Cause,
    /// Of the policy by which it was judged last.
    revision: u64,
    side: Side,
    messages: Messages,
    timer: Option<Pin<Box<Sleep>>>,
    news: Option<News>,
    over: bool,
}

/// Another policy.
struct News(Pin<Box<dyn Future<Output = ()> + Send>>);

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("News")
    }
}

impl<B> Guarded<B> {
    /// A body that is let through whatever happens.
    pub(super) fn free(inner: B) -> Self {
        Self { inner: Some(inner), text: None, guard: None }
    }

    /// A body that lasts as long as the call was let through for.
    pub(super) fn by(admission: Arc<Admission>, inner: B, side: Side) -> Self {
        let (ends_at, revision) = (admission.expires_at(), admission.revision());
        let guard = Guard {
            admission,
            ends_at,
            cause: Cause::Expired,
            revision,
            side,
            messages: Messages::default(),
            timer: None,
            news: None,
            over: false,
        };
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
            Poll::Pending => guard.poll_ended(cx).map(|()| Some(guard.cut())),
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
    /// Lets a frame through, unless it belongs to a second message and the stream is over.
    fn pass(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { return Ok(frame) };
        if self.messages.completed {
            self.judge_again();
            let expired = SystemTime::now() >= self.admission.expires_at();
            if expired || self.cause == Cause::Revoked {
                return self.cut();
            }
        }
        match self.side {
            Side::HttpResponse => self.messages.completed = true,
            Side::GrpcResponse => self.messages.read(data),
            Side::GrpcRequest if !self.messages.completed => {
                self.messages.read(data);
                self.ends_at = self.admission.expires_at().max(SystemTime::now() + END_DEADLINE);
            }
            Side::GrpcRequest => {}
        }
        Ok(frame)
    }

    /// Ready once a body that has nothing to say has outlived the documents, or its caller's rights.
    ///
    /// A unary call's response is never without something to say, and its request not after its message.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.side == Side::GrpcRequest && !self.messages.completed {
            return Poll::Pending;
        }
        while self.cause != Cause::Revoked && self.poll_news(cx).is_ready() {
            self.judge_again();
        }
        loop {
            if let Some(timer) = &mut self.timer {
                std::task::ready!(timer.as_mut().poll(cx));
            }
            // The wall clock may have moved, so it is asked again after each wait.
            let left = self.ends_at.duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.timer = Some(Box::pin(sleep(left)));
        }
    }

    /// Ready where there is another policy than the one it was judged by.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (admission, revision) = (&self.admission, self.revision);
        let wait = || News(Box::pin(admission.policy_changed(revision)));
        let news = self.news.get_or_insert_with(wait);
        std::task::ready!(news.0.as_mut().poll(cx));
        self.news = None;
        Poll::Ready(())
    }

    /// Asks the policy of this moment, if it is another one.
    fn judge_again(&mut self) {
        let revision = self.admission.current_revision();
        if revision == self.revision || self.cause == Cause::Revoked {
            return;
        }
        self.revision = revision;
        if self.admission.is_allowed() {
            return;
        }
        self.cause = Cause::Revoked;
        // What follows the message of a unary request is its end, which is on its way.
        let patience = if self.side == Side::GrpcRequest { END_DEADLINE } else { Duration::ZERO };
        self.ends_at = self.ends_at.min(SystemTime::now() + patience);
        self.timer = None;
    }

    fn cut(&mut self) -> Result<Frame<Bytes>, BoxError> {
        self.over = true;
        self.admission.end(self.cause);
        let (status, reason) = match self.cause {
            Cause::Expired => (Status::unauthenticated(EXPIRED), EXPIRED),
            Cause::Revoked => (Status::permission_denied(REVOKED), REVOKED),
        };
        match self.side {
            // The service reads the error, and may answer with it.
            Side::GrpcRequest => Err(status.into()),
            Side::GrpcResponse => {
                let mut trailers = http::HeaderMap::new();
                status.add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            }
            Side::HttpResponse => Err(CutOff(reason).into()),
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
