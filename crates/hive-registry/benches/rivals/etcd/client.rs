//! The calls that are measured. The library's own client keeps to transactions; these are what etcd is praised for.

mod proto {
    #![allow(missing_docs, dead_code, unreachable_pub, unused_qualifications, reason = "generated")]
    #![allow(clippy::all, reason = "it is generated")]
    tonic::include_proto!("etcdserverpb");
}

use hive_security::connect::Channel;
use prost::Message;
use prost::bytes::Bytes;
use proto::lease_client::LeaseClient;
use proto::watch_client::WatchClient;
use proto::watch_request::RequestUnion;
use proto::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

/// Longer than anything that is measured.
const TTL_S: i64 = 3_600;

#[derive(Clone)]
pub(crate) struct Client(Channel);

/// An open stream of renewals.
pub(crate) struct KeepingAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

/// An open watch.
pub(crate) struct Watch {
    /// It ends with its requests.
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

/// A question, with what the registry never asks for.
#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

/// etcd says which revision it was.
#[derive(Clone, PartialEq, Message)]
struct Written {}

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(channel)
    }

    pub(crate) async fn put(&mut self, key: String, value: Vec<u8>) {
        let request = PutRequest { key: key.into(), value: value.into(), lease: 0 };
        let _: Written = self.call("/etcdserverpb.KV/Put", request).await;
    }

    /// How many keys have the prefix.
    pub(crate) async fn range(&mut self, prefix: String, serializable: bool) -> usize {
        let key = Bytes::from(prefix);
        let request = Range { range_end: after(&key), key, serializable };
        let found: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await;
        found.kvs.len()
    }

    pub(crate) async fn grant(&mut self) -> i64 {
        let mut client = LeaseClient::new(self.0.clone());
        client.lease_grant(LeaseGrantRequest { ttl: TTL_S }).await.unwrap().into_inner().id
    }

    /// etcd opens the stream with its first answer.
    pub(crate) async fn keeping_alive(&mut self, first: i64) -> KeepingAlive {
        let (requests, sent) = mpsc::channel(1);
        requests.send(LeaseKeepAliveRequest { id: first }).await.unwrap();
        let mut client = LeaseClient::new(self.0.clone());
        let answers = client.lease_keep_alive(ReceiverStream::new(sent)).await.unwrap();
        let mut opened = KeepingAlive { requests, answers: answers.into_inner() };
        opened.answered().await;
        opened
    }

    /// Returns once etcd has said that it watches.
    pub(crate) async fn watch(&mut self, prefix: &'static str) -> Watch {
        let (requests, sent) = mpsc::channel(1);
        let key = Bytes::from_static(prefix.as_bytes());
        let wanted = WatchCreateRequest { range_end: after(&key), key, ..Default::default() };
        let union = Some(RequestUnion::CreateRequest(wanted));
        requests.send(WatchRequest { request_union: union }).await.unwrap();
        let mut client = WatchClient::new(self.0.clone());
        let answers = client.watch(ReceiverStream::new(sent)).await.unwrap();
        let mut watch = Watch { _requests: requests, answers: answers.into_inner() };
        assert!(watch.next().await.created);
        watch
    }

    async fn call<A, B>(&mut self, path: &'static str, request: A) -> B
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::<A, B>::default()).await;
        answer.unwrap().into_inner()
    }
}

impl KeepingAlive {
    pub(crate) async fn keep_alive(&mut self, lease: i64) {
        self.requests.send(LeaseKeepAliveRequest { id: lease }).await.unwrap();
        self.answered().await;
    }

    async fn answered(&mut self) {
        let answer = self.answers.message().await.unwrap().expect("the stream goes on");
        assert!(answer.ttl > 0, "the lease lives");
    }
}

impl Watch {
    /// How many events came together.
    pub(crate) async fn events(&mut self) -> usize {
        self.next().await.events.len()
    }

    async fn next(&mut self) -> WatchResponse {
        self.answers.message().await.unwrap().expect("the watch goes on")
    }
}

/// The end of the range of all keys with a prefix: the prefix with its last byte raised.
fn after(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    *end.last_mut().unwrap() += 1;
    end.into()
}
