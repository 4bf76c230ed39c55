//! The generated service, with three things done differently on the wire.
//!
//! A watch sends events that were encoded once for all watches, and a discovery is answered with bytes that were never a
//! message. And a request that cannot be decoded is the caller's
//! mistake, `INVALID_ARGUMENT` with the name of the field, while tonic calls it an internal error; one that is too
//! large is `RESOURCE_EXHAUSTED`, for `OUT_OF_RANGE` means something else here.

use crate::service::{self, Outgoing, Registry};
use hive_api::registry::service_registry_server::ServiceRegistryServer;
use hive_api::registry::{DiscoverAgentsRequest, DiscoverManyRequest, WatchAgentsRequest};
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{Request, Response};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Code, Status};
use tower::Service;

/// A registration is a few kilobytes at most, and a thousand heartbeats are a hundred.
pub(crate) const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// What a gRPC client accepts by default.
pub(crate) const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is made ready for an answer, before it is known, and how much of several answers is sent together.
const ANSWER_BYTES: usize = 512;
const ANSWERS_BYTES_MAX: usize = 16 * 1024;
const DISCOVER: &str = "DiscoverAgents";
const DISCOVER_MANY: &str = "DiscoverMany";
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
        match request.uri().path().rsplit('/').next() {
            Some(DISCOVER) => {
                let discoveries = Discoveries(self.registry.clone());
                Box::pin(async move {
                    Ok(told(encoded::<DiscoverAgentsRequest>().unary(discoveries, request).await))
                })
            }
            Some(DISCOVER_MANY) => {
                let discoveries = Discoveries(self.registry.clone());
                Box::pin(async move {
                    Ok(told(encoded::<DiscoverManyRequest>().unary(discoveries, request).await))
                })
            }
            Some(WATCH) => {
                let watches = Watches(self.registry.clone());
                Box::pin(
                    async move { Ok(told(encoded().server_streaming(watches, request).await)) },
                )
            }
            _ => {
                let answer = self.generated.call(request);
                Box::pin(async move { answer.await.map(told) })
            }
        }
    }
}

/// Serves methods that answer in bytes.
fn encoded<T: Message + Default + 'static>() -> Grpc<Encoded<T>> {
    Grpc::new(Encoded(PhantomData))
        .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), Some(RESPONSE_BYTES_MAX))
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
            let events: Self::ResponseStream = Box::pin(service::encoded(watching));
            Ok(tonic::Response::new(events))
        })
    }
}

/// `DiscoverAgents` and `DiscoverMany`, whose answers are bytes already.
struct Discoveries(Registry);

impl UnaryService<DiscoverAgentsRequest> for Discoveries {
    type Response = Bytes;
    type Future = std::future::Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<DiscoverAgentsRequest>) -> Self::Future {
        std::future::ready(self.0.discovered(request.into_inner()).map(tonic::Response::new))
    }
}

impl UnaryService<DiscoverManyRequest> for Discoveries {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<DiscoverManyRequest>) -> Self::Future {
        let registry = self.0.clone();
        Box::pin(async move {
            registry.discovered_many(request.into_inner()).await.map(tonic::Response::new)
        })
    }
}

/// Requests that are decoded, and answers that are encoded already.
#[derive(Debug)]
struct Encoded<T>(PhantomData<fn() -> T>);

impl<T: Message + Default + 'static> Codec for Encoded<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<T> Encoder for Encoded<T> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, answer: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(answer);
        Ok(())
    }

    /// Small, for each of ten thousand watches has such a buffer for as long as it lasts.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ANSWER_BYTES, ANSWERS_BYTES_MAX)
    }
}

impl<T: Message + Default> Decoder for Encoded<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let request = T::decode(from.copy_to_bytes(from.remaining()));
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
