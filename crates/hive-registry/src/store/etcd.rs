//! The store in etcd, for several replicas of the registry.
//!
//! A record is a key, its revision is etcd's, and a change is a transaction that compares first. A replica is present
//! for as long as it renews a lease. Connections are TLS with SVIDs on both sides, read at every handshake.

mod client;
mod feed;
mod history;
mod presence;

pub(crate) use presence::Presence;

use super::{Change, Expected, Feed, Here, Revision, Store, StoreError};
use crate::agent::{AgentId, ReplicaId};
use client::Client;
use client::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use client::proto::request_op::Request;
use client::proto::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use history::History;
use hive_security::Workload;
use prost::bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// The nodes (`HIVE_ETCD_ENDPOINTS`), such as `https://etcd-0:2379,https://etcd-1:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with (`HIVE_ETCD_PREFIX`, default `neural-hive/registry/`); replicas with the same one share
    /// their agents.
    pub prefix: String,
    /// The path of the SPIFFE ID that etcd's nodes have (`HIVE_ETCD_ID`, default `/ns/neural-hive/sa/etcd`).
    pub id: String,
    /// Where the other replicas can call this one (`HIVE_ADVERTISE`, such as `10.0.0.5:7100`); where it listens, unless
    /// that is everywhere. Without it, they cannot reach the agents whose streams are open here.
    pub advertise: Option<String>,
}

/// The open store.
#[derive(Clone, Debug)]
pub(crate) struct Etcd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    keys: Keys,
    replica: ReplicaId,
    /// Where the others can call this replica; empty if nobody knows.
    address: String,
    /// As it was seen last.
    history: AtomicU64,
}

/// What is kept where.
#[derive(Debug)]
struct Keys {
    prefix: String,
}

impl Etcd {
    /// Makes this replica present. What keeps it so is to be run.
    pub(crate) async fn open(
        config: &EtcdConfig,
        workload: &Workload,
        here: Here,
    ) -> Result<(Self, Presence), StoreError> {
        let client = Client::new(config, workload)?;
        let keys = Keys { prefix: config.prefix.clone() };
        let history = AtomicU64::new(0);
        let listens = here.address;
        let known = (!listens.ip().is_unspecified()).then(|| listens.to_string());
        let address = config.advertise.clone().or(known).unwrap_or_default();
        let shared = Shared { client, keys, replica: here.replica, address, history };
        let store = Self(Arc::new(shared));
        history::look(&store).await?;
        let presence = Presence::begin(store.clone()).await?;
        Ok((store, presence))
    }

    /// Forgets what led to this revision, as an operator or etcd's own compaction may.
    #[cfg(test)]
    pub(super) async fn compact(&self, revision: Revision) {
        let revision = self.history().number(revision).expect("it is of this history");
        self.0.client.compact(revision).await.expect("it can be compacted");
    }

    fn history(&self) -> History {
        History::from(self.0.history.load(Ordering::Relaxed))
    }
}

#[tonic::async_trait]
impl Store for Etcd {
    async fn write(&self, change: Change) -> Result<Revision, StoreError> {
        let key = self.0.keys.agent(change.id());
        let is_delete = matches!(change, Change::Delete { .. });
        let history = self.history();
        let compare = comparison(&key, history, change.expected(), is_delete)?;
        let request = match change {
            Change::Delete { .. } => Request::RequestDeleteRange(DeleteRangeRequest { key }),
            Change::Put { value, .. } => Request::RequestPut(PutRequest { key, value, lease: 0 }),
        };
        let success = vec![RequestOp { request: Some(request) }];
        let compare = compare.into_iter().collect();
        let answer = self.0.client.txn(TxnRequest { compare, success }).await?;
        if answer.succeeded {
            Ok(history.revision(client::number(answer.header)))
        } else {
            Err(StoreError::Conflict)
        }
    }

    async fn follow(&self, from: Option<Revision>) -> Result<Feed, StoreError> {
        feed::follow(self.clone(), from).await
    }

    async fn others(&self) -> Result<Vec<(ReplicaId, String)>, StoreError> {
        let (key, range_end) = self.0.keys.replicas();
        let request = RangeRequest { key, range_end, limit: 0, revision: 0 };
        let present = self.0.client.range(request).await?.kvs.into_iter().filter_map(|kv| {
            let replica = self.0.keys.replica_of(&kv.key)?;
            Some((replica, String::from_utf8_lossy(&kv.value).into_owned()))
        });
        Ok(present.filter(|(replica, _)| *replica != self.0.replica).collect())
    }
}

/// What etcd is to compare so that the change is made only if what it expects holds.
fn comparison(
    key: &Bytes,
    history: History,
    expected: Expected,
    is_delete: bool,
) -> Result<Option<Compare>, StoreError> {
    let (result, target, union) = match expected {
        Expected::Absent => {
            (CompareResult::Equal, CompareTarget::Create, TargetUnion::CreateRevision(0))
        }
        // Nothing can be deleted that is not there.
        Expected::Any if is_delete => {
            (CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(0))
        }
        Expected::Any => return Ok(None),
        Expected::At(revision) => {
            // What was true in a history that was lost is true no more.
            let number = history.number(revision).ok_or(StoreError::Conflict)?;
            let union = TargetUnion::ModRevision(number);
            (CompareResult::Equal, CompareTarget::Mod, union)
        }
    };
    Ok(Some(Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(union),
    }))
}

impl Keys {
    fn agent(&self, id: AgentId) -> Bytes {
        format!("{}agents/{id}", self.prefix).into()
    }

    fn replica(&self, replica: &ReplicaId) -> Bytes {
        format!("{}replicas/{}", self.prefix, replica.as_str()).into()
    }

    /// What tells this history from one that was lost.
    fn history(&self) -> Bytes {
        format!("{}history", self.prefix).into()
    }

    /// Written to see it come back: whatever was written before has come by then.
    fn mark(&self, replica: &ReplicaId) -> Bytes {
        format!("{}marks/{}", self.prefix, replica.as_str()).into()
    }

    fn agents(&self) -> (Bytes, Bytes) {
        self.below("agents/")
    }

    fn replicas(&self) -> (Bytes, Bytes) {
        self.below("replicas/")
    }

    fn all(&self) -> (Bytes, Bytes) {
        self.below("")
    }

    /// The range of all keys below a place: up to the place with its last byte raised.
    fn below(&self, place: &str) -> (Bytes, Bytes) {
        let begin = format!("{}{place}", self.prefix).into_bytes();
        let mut end = begin.clone();
        if let Some(last) = end.last_mut() {
            // The configuration demands that a prefix ends with '/'.
            *last += 1;
        }
        (begin.into(), end.into())
    }

    fn named<'a>(&self, place: &str, key: &'a [u8]) -> Option<&'a str> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(place.as_bytes())?;
        str::from_utf8(rest).ok()
    }

    /// Which record a key is.
    fn agent_of(&self, key: &[u8]) -> Option<AgentId> {
        AgentId::parse("key", self.named("agents/", key)?).ok()
    }

    /// Whose presence a key is.
    fn replica_of(&self, key: &[u8]) -> Option<ReplicaId> {
        self.named("replicas/", key).map(ReplicaId::new)
    }
}

#[cfg(test)]
pub(super) mod tests;
