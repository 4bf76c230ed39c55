//! A watch of etcd as a feed: every record at one revision, or none of them, and then each change.

use super::Etcd;
use super::client::number;
use super::client::proto::event::EventType;
use super::client::proto::request_op::Request;
use super::client::proto::watch_request::RequestUnion;
use super::client::proto::{
    Event, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use super::history::{self, History};
use crate::agent::ReplicaId;
use crate::store::{Feed, FeedItem, Revision, StoreError};
use prost::bytes::Bytes;
use std::collections::BTreeSet;
use std::convert::Infallible;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Items under way to one follower; behind them, the flow control of HTTP/2 holds etcd back.
const FEED_MAX: usize = 256;
/// Records that are read at once.
const PAGE: i64 = 256;

/// One follower.
struct Follower {
    store: Etcd,
    watch: Streaming<WatchResponse>,
    /// The watch lasts as long as this.
    _requests: mpsc::Sender<WatchRequest>,
    items: mpsc::Sender<Result<FeedItem, StoreError>>,
    history: History,
    replicas: BTreeSet<ReplicaId>,
    /// The number at which they were read.
    now: i64,
}

/// Why a feed ends.
enum End {
    Failed(StoreError),
    /// Nobody reads any more.
    Unread,
}

/// Follows from a revision, or from a look at everything.
pub(super) async fn follow(store: Etcd, from: Option<Revision>) -> Result<Feed, StoreError> {
    let history = history::look(&store).await?;
    let (replicas, now) = replicas(&store).await?;
    let behind = match from {
        None => now,
        Some(from) => known(history, now, from)?,
    };
    let (requests, watch) = watch(&store, behind).await?;
    let (items, receiver) = mpsc::channel(FEED_MAX);
    let follower = Follower { store, watch, _requests: requests, items, history, replicas, now };
    tokio::spawn(follower.run(from.is_some()));
    Ok(Feed::new(ReceiverStream::new(receiver)))
}

/// The number of a revision that etcd has come to. It may have been given before etcd lost its data, or before an
/// operator went back to older data.
fn known(history: History, now: i64, from: Revision) -> Result<i64, StoreError> {
    let known = history.number(from).filter(|number| *number <= now);
    known.ok_or(StoreError::Compacted { oldest: history.revision(now) })
}

/// Who is present, and at which number.
async fn replicas(store: &Etcd) -> Result<(BTreeSet<ReplicaId>, i64), StoreError> {
    let (key, range_end) = store.0.keys.replicas();
    let answer =
        store.0.client.range(RangeRequest { key, range_end, limit: 0, revision: 0 }).await?;
    let replicas = answer.kvs.iter().filter_map(|kv| store.0.keys.replica_of(&kv.key)).collect();
    Ok((replicas, number(answer.header)))
}

/// Watches everything that happens behind this number.
async fn watch(
    store: &Etcd,
    behind: i64,
) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), StoreError> {
    let (key, range_end) = store.0.keys.all();
    let start_revision = behind.saturating_add(1);
    let create =
        WatchCreateRequest { key, range_end, start_revision, prev_kv: true, fragment: true };
    // One request is all that is ever sent.
    let (requests, receiver) = mpsc::channel(1);
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    _ = requests.try_send(request);
    let watch = store.0.client.watch(ReceiverStream::new(receiver)).await?;
    Ok((requests, watch))
}

impl Follower {
    async fn run(mut self, resumes: bool) {
        let Err(end) = self.tell(resumes).await;
        if let End::Failed(error) = end {
            // Nobody may read any more.
            _ = self.items.send(Err(error)).await;
        }
    }

    async fn tell(&mut self, resumes: bool) -> Result<Infallible, End> {
        self.send(FeedItem::Replicas(self.replicas.clone())).await?;
        let mark = if resumes {
            Some(self.mark().await?)
        } else {
            self.snapshot().await?;
            self.send(FeedItem::InSync { revision: self.history.revision(self.now) }).await?;
            None
        };
        loop {
            self.take(mark).await?;
        }
    }

    /// Every record at one revision.
    async fn snapshot(&self) -> Result<(), End> {
        let (mut key, range_end) = self.store.0.keys.agents();
        loop {
            let range_end = range_end.clone();
            let request = RangeRequest { key, range_end, limit: PAGE, revision: self.now };
            let page = self.store.0.client.range(request).await.map_err(End::Failed)?;
            let Some(last) = page.kvs.last().map(|kv| kv.key.clone()) else { return Ok(()) };
            for kv in page.kvs {
                if let Some(item) = self.put(kv) {
                    self.send(item).await?;
                }
            }
            if !page.more {
                return Ok(());
            }
            // The next key after the last one.
            key = [&last[..], &[0]].concat().into();
        }
    }

    /// A change of our own: once it comes back, whatever was before it has come.
    async fn mark(&self) -> Result<i64, End> {
        let key = self.store.0.keys.mark(&self.store.0.replica);
        let put = Request::RequestPut(PutRequest { key, value: Bytes::new(), lease: 0 });
        let success = vec![RequestOp { request: Some(put) }];
        let txn = self.store.0.client.txn(TxnRequest { compare: Vec::new(), success }).await;
        Ok(number(txn.map_err(End::Failed)?.header))
    }

    /// Tells what the watch says next.
    async fn take(&mut self, mark: Option<i64>) -> Result<(), End> {
        let message = tokio::select! {
            message = self.watch.message() => message,
            () = self.items.closed() => return Err(End::Unread),
        };
        let lost = |status| End::Failed(StoreError::Unavailable(Box::new(status)));
        let answer = message.map_err(lost)?.ok_or(End::Failed(StoreError::Cut))?;
        if answer.compact_revision > 0 {
            let oldest = self.history.revision(answer.compact_revision);
            return Err(End::Failed(StoreError::Compacted { oldest }));
        }
        if answer.canceled {
            return Err(End::Failed(StoreError::Unavailable(answer.cancel_reason.into())));
        }
        for event in answer.events {
            self.tell_event(event, mark).await?;
        }
        Ok(())
    }

    async fn tell_event(&mut self, event: Event, mark: Option<i64>) -> Result<(), End> {
        let deleted = event.r#type() == EventType::Delete;
        let Some(kv) = event.kv else { return Ok(()) };
        let revision = self.history.revision(kv.mod_revision);
        if mark == Some(kv.mod_revision) {
            return self.send(FeedItem::InSync { revision }).await;
        }
        if let Some(replica) = self.store.0.keys.replica_of(&kv.key) {
            // What came before the look at who is present is history.
            let is_news = kv.mod_revision > self.now;
            return if is_news { self.tell_replica(replica, !deleted).await } else { Ok(()) };
        }
        let item = if deleted {
            let last = event.prev_kv.map(|last| last.value).unwrap_or_default();
            let id = self.store.0.keys.agent_of(&kv.key);
            id.map(|id| FeedItem::Delete { id, last, revision })
        } else {
            self.put(kv)
        };
        match item {
            Some(item) => self.send(item).await,
            None => Ok(()),
        }
    }

    async fn tell_replica(&mut self, replica: ReplicaId, present: bool) -> Result<(), End> {
        let changed =
            if present { self.replicas.insert(replica) } else { self.replicas.remove(&replica) };
        if !changed {
            return Ok(());
        }
        self.send(FeedItem::Replicas(self.replicas.clone())).await
    }

    /// `None` for a key that is no agent's.
    fn put(&self, kv: KeyValue) -> Option<FeedItem> {
        let id = self.store.0.keys.agent_of(&kv.key)?;
        let revision = self.history.revision(kv.mod_revision);
        Some(FeedItem::Put { id, revision, value: kv.value })
    }

    async fn send(&self, item: FeedItem) -> Result<(), End> {
        self.items.send(Ok(item)).await.map_err(|_| End::Unread)
    }
}
