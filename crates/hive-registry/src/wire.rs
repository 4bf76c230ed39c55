//! The generated service, with two things done differently on the wire.
//!
//! A watch sends events that were encoded once for all watches. And a request that cannot be decoded is the caller's
//! mistake, `INVALID_ARGUMENT` with the name of the field, while tonic calls it an internal error; one that is too
//! large is `RESOURCE_EXHAUSTED`, for `OUT_OF_RANGE` means something else here.

use crate::service::{Outgoing, Registry, encoded};
use hive_api::registry::WatchAgentsRequest;
use hive_api::registry::service_registry_server::ServiceRegistryServer;
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{Request, Response};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Code, Status};
use tower::Service;

/// A registration is a few kilobytes at most, and a thousand heartbeats are a hundred.
pub(crate) const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// What a gRPC client accepts by default.
const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
const WATCH: &str = "WatchAgents";
/// How prost and tonic begin what they say of a request that they cannot take.
const NOT_DECODED: &str = "failed to decode Protobuf message";
const TOO_LARGE: &str = "Error, decoded message length too large";

/// The service as it is served.
#[derive(Clone)]
pub(crate) struct Wire {
    registry: Registry,
    generated: ServiceRegistryServer<Registry>,
}

impl Wire {
    pub(crate) fn new(registry: Registry) -> Self {
        let generated = ServiceRegistryServer::new(registry.clone())
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(RESPONSE_BYTES_MAX);
        Self { registry, generated }
    }
}

impl NamedService for Wire {
    const NAME: &'static str = ServiceRegistryServer::<Registry>::NAME;
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let node = Arc::clone(&self.registry.node);
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let told = move |answer: Response<Body>| {
            node.metrics.called(&method, Status::from_header_map(answer.headers()).is_some());
            mended(answer)
        };
        if request.uri().path().rsplit('/').next() == Some(WATCH) {
            let watches = Watches(self.registry.clone());
            return Box::pin(async move {
                let mut grpc = Grpc::new(EventCodec).apply_max_message_size_config(
                    Some(REQUEST_BYTES_MAX),
                    Some(RESPONSE_BYTES_MAX),
                );
                Ok(told(grpc.server_streaming(watches, request).await))
            });
        }
        let answer = self.generated.call(request);
        Box::pin(async move { answer.await.map(told) })
    }
}

/// The answer, with the status that fits.
fn mended(answer: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(answer.headers()) else { return answer };
    match status.code() {
        Code::Internal if status.message().starts_with(NOT_DECODED) => {
            Status::invalid_argument(status.message()).into_http()
        }
        Code::OutOfRange if status.message().starts_with(TOO_LARGE) => {
            Status::resource_exhausted(format!("the request is too large: {}", status.message()))
                .into_http()
        }
        _ => answer,
    }
}

/// `WatchAgents`, whose messages are bytes already.
struct Watches(Registry);

impl ServerStreamingService<WatchAgentsRequest> for Watches {
    type Response = Bytes;
    type ResponseStream = Outgoing<Bytes>;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<WatchAgentsRequest>) -> Self::Future {
        let registry = self.0.clone();
        Box::pin(async move {
            let watching = registry.watching(request.into_inner()).await?;
            let events: Self::ResponseStream = Box::pin(encoded(watching));
            Ok(tonic::Response::new(events))
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct EventCodec;

impl Codec for EventCodec {
    type Encode = Bytes;
    type Decode = WatchAgentsRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for EventCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, event: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(event);
        Ok(())
    }
}

impl Decoder for EventCodec {
    type Item = WatchAgentsRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<WatchAgentsRequest>, Status> {
        let request = WatchAgentsRequest::decode(from.copy_to_bytes(from.remaining()));
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
