//! Calls to whichever node answers.

/// etcd's messages.
pub(super) mod proto {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, reason = "it is generated")]
    #![allow(clippy::all, reason = "it is generated")]
    tonic::include_proto!("etcdserverpb");
}

use super::EtcdConfig;
use crate::store::StoreError;
use hive_security::connect::{self, Channel};
use hive_security::{IdPattern, Workload};
use proto::kv_client::KvClient;
use proto::lease_client::LeaseClient;
use proto::watch_client::WatchClient;
use proto::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse, WatchRequest, WatchResponse,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

/// etcd answers within milliseconds; a node that does not is left for the next one, and the node's own deadline for a
/// change is longer.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// A page of agents and a fragment of a watch are a megabyte or two.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The nodes, and which of them is asked.
#[derive(Debug)]
pub(super) struct Client {
    nodes: Vec<Channel>,
    current: AtomicUsize,
}

impl Client {
    /// Nothing is connected until the first call.
    pub(super) fn new(config: &EtcdConfig, workload: &Workload) -> Result<Self, StoreError> {
        let trust_domain = workload.trust_domain();
        let channel = |endpoint: &String| {
            let server = IdPattern::in_trust_domain(&trust_domain, &config.id)?;
            connect::channel_without_jwt(workload, endpoint, server)
        };
        let nodes = config.endpoints.iter().map(channel).collect::<Result<_, _>>();
        let nodes = nodes.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        Ok(Self { nodes, current: AtomicUsize::new(0) })
    }

    /// A change is sent once: etcd may have made one whose answer was lost.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        self.call(async |channel| KvClient::new(channel).txn(led(request)).await).await
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.call(async |channel| {
            let client = KvClient::new(channel);
            client.max_decoding_message_size(ANSWER_BYTES_MAX).range(led(request)).await
        })
        .await
    }

    /// What is sent to the watch, and what it says. The stream ends when its node has no leader.
    pub(super) async fn watch(
        &self,
        requests: tokio_stream::wrappers::ReceiverStream<WatchRequest>,
    ) -> Result<Streaming<WatchResponse>, StoreError> {
        self.call(async |channel| {
            let client = WatchClient::new(channel);
            client.max_decoding_message_size(ANSWER_BYTES_MAX).watch(led(requests)).await
        })
        .await
    }

    /// A new lease.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<i64, StoreError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let request = LeaseGrantRequest { ttl };
        let answer =
            self.call(async |channel| LeaseClient::new(channel).lease_grant(led(request)).await);
        Ok(answer.await?.id)
    }

    /// Whether the lease lives, and is as fresh as a new one.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<bool, StoreError> {
        let answer = self.call(async |channel| {
            let request = led(tokio_stream::once(LeaseKeepAliveRequest { id: lease }));
            let mut answers =
                LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
            let none = || Status::unavailable("etcd did not answer");
            Ok(answers.next().await.ok_or_else(none)??.into())
        });
        Ok(answer.await?.ttl > 0)
    }

    pub(super) async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        let request = LeaseRevokeRequest { id: lease };
        let revoke =
            self.call(async |channel| LeaseClient::new(channel).lease_revoke(led(request)).await);
        revoke.await.map(|_| ())
    }

    #[cfg(test)]
    pub(super) async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let request = proto::CompactionRequest { revision };
        let compact = self.call(async |channel| KvClient::new(channel).compact(led(request)).await);
        compact.await.map(|_| ())
    }

    /// Makes one call; after one that failed, the next node is asked.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, StoreError> {
        let at = self.current.load(Ordering::Relaxed);
        let channel = self.nodes[at % self.nodes.len()].clone();
        let late = |_| Err(Status::deadline_exceeded("etcd did not answer in time"));
        let answer = tokio::time::timeout(CALL_DEADLINE, call(channel)).await.unwrap_or_else(late);
        answer.map(tonic::Response::into_inner).map_err(|status| {
            // Whoever failed at the same time has moved on already.
            _ = self.current.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
            StoreError::Unavailable(Box::new(status))
        })
    }
}

/// A node that was cut off from its leader must not answer from what it remembers.
fn led<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

/// Etcd's own number of a change.
pub(super) fn number(header: Option<ResponseHeader>) -> i64 {
    header.map(|header| header.revision).unwrap_or_default()
}
