//! Where membership is kept: identifiers, bytes and revisions. What an agent is, a store does not know.

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(test)]
mod memory;
mod sqlite;

#[cfg(feature = "etcd")]
pub(crate) use etcd::Etcd;
#[cfg(feature = "etcd")]
pub use etcd::EtcdConfig;
#[cfg(test)]
pub(crate) use memory::Memory;
pub use sqlite::FileError;
pub(crate) use sqlite::Sqlite;

use crate::agent::{AgentId, ReplicaId};
use crate::{Error, StoreConfig};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use hive_security::Workload;
use prost::bytes::Bytes;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The number of a change. It grows with each, and all replicas see the same order. A store that begins anew, because
/// its data was lost, begins with larger numbers than it ever gave, so that nobody resumes in another history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Revision(pub(crate) u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Records with revisions. Each accepted change has a revision of its own.
#[tonic::async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Applies one change durably, and says its revision. Nothing is changed by one that fails with
    /// [`StoreError::Conflict`]; one that fails otherwise may have been applied. The node gives it a deadline.
    async fn write(&self, change: Change) -> Result<Revision, StoreError>;

    /// Without `from`: every record, in any order, then [`FeedItem::InSync`], then each change in the order of
    /// revisions. With `from`: the changes after that revision, with `InSync` once all that there were when it began
    /// have been sent; [`StoreError::Compacted`] when some of them are not known any more. [`FeedItem::Replicas`]
    /// comes first, and whenever it changes.
    async fn follow(&self, from: Option<Revision>) -> Result<Feed, StoreError>;

    /// The other replicas that are present now, and where each can be called, `host:port`; empty where it does not say.
    async fn others(&self) -> Result<Vec<(ReplicaId, String)>, StoreError> {
        Ok(Vec::new())
    }
}

/// This replica, and where it listens.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    pub(crate) replica: ReplicaId,
    pub(crate) address: SocketAddr,
}

/// Opens the store that is configured, and what keeps it going until `stop`, or until the store is dropped.
pub(crate) async fn open(
    config: &StoreConfig,
    workload: &Workload,
    here: Here,
    stop: &CancellationToken,
) -> Result<(Arc<dyn Store>, JoinHandle<()>), Error> {
    match config {
        #[cfg(feature = "etcd")]
        StoreConfig::Etcd(etcd) => {
            let opened = Etcd::open(etcd, workload, here).await;
            let (store, presence) = opened.map_err(|error| Error::Etcd(Box::new(error)))?;
            Ok((Arc::new(store), tokio::spawn(presence.run(stop.clone()))))
        }
        StoreConfig::Sqlite { data_dir } => {
            // Only etcd asks who this is and where, and has to be told at once when it stops.
            _ = (workload, here.address, stop);
            let (store, writer) =
                Sqlite::open(data_dir, here.replica).await.map_err(Error::Store)?;
            Ok((Arc::new(store), tokio::spawn(writer.run())))
        }
    }
}

/// What is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Delete { id: AgentId, expected: Expected },
    Put { id: AgentId, value: Bytes, expected: Expected },
}

impl Change {
    /// The record that it is about.
    pub(crate) fn id(&self) -> AgentId {
        match self {
            Self::Delete { id, .. } | Self::Put { id, .. } => *id,
        }
    }

    /// What it tells under this revision, if what it expects holds of the record: of which this is the last change, and
    /// whose value can be asked for.
    fn told(
        self,
        revision: Revision,
        record: Option<Revision>,
        value: impl FnOnce(Revision) -> Result<Bytes, StoreError>,
    ) -> Result<FeedItem, StoreError> {
        if !self.expected().holds(record) {
            return Err(StoreError::Conflict);
        }
        match self {
            Self::Delete { id, .. } => {
                let last = value(record.ok_or(StoreError::Conflict)?)?;
                Ok(FeedItem::Delete { id, last, revision })
            }
            Self::Put { id, value, .. } => Ok(FeedItem::Put { id, value, revision }),
        }
    }

    fn expected(&self) -> Expected {
        match self {
            Self::Delete { expected, .. } | Self::Put { expected, .. } => *expected,
        }
    }
}

/// What must be true for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// There is no such record.
    Absent,
    Any,
    /// The record was changed last by this revision.
    At(Revision),
}

impl Expected {
    /// Whether it is true of a record that was changed last by this revision; `None` where there is none.
    fn holds(self, record: Option<Revision>) -> bool {
        match self {
            Self::Absent => record.is_none(),
            Self::Any => true,
            Self::At(revision) => record == Some(revision),
        }
    }
}

/// What a feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FeedItem {
    /// The record is gone; `last` is what it was.
    Delete {
        id: AgentId,
        last: Bytes,
        revision: Revision,
    },
    /// Every change up to this revision has been sent.
    InSync {
        revision: Revision,
    },
    Put {
        id: AgentId,
        value: Bytes,
        revision: Revision,
    },
    /// The replicas that are present now, all of them.
    Replicas(BTreeSet<ReplicaId>),
}

impl FeedItem {
    /// Of the change that it tells; `None` if it tells none.
    pub(crate) fn revision(&self) -> Option<Revision> {
        match self {
            Self::Delete { revision, .. } | Self::Put { revision, .. } => Some(*revision),
            Self::InSync { .. } | Self::Replicas(_) => None,
        }
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Changes up to `oldest` are not known any more.
    #[error("the store has forgotten the changes up to revision {oldest}")]
    Compacted { oldest: Revision },
    /// What was expected is not so.
    #[error("the record was changed by somebody else")]
    Conflict,
    /// The feed was ended by the store; follow it again from where it ended.
    #[error("the store ended its feed")]
    Cut,
    /// The store does not answer, or cannot.
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a store says, one by one.
pub(crate) struct Feed(BoxStream<'static, Result<FeedItem, StoreError>>);

impl Feed {
    /// A feed that ends with [`StoreError::Cut`] when this stream does.
    pub(crate) fn new(
        items: impl Stream<Item = Result<FeedItem, StoreError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(items))
    }

    /// The next item. After an error, the feed is over. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<FeedItem, StoreError> {
        self.0.next().await.unwrap_or(Err(StoreError::Cut))
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

#[cfg(test)]
mod tests;
