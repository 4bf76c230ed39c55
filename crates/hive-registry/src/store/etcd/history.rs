//! Telling one history of etcd from another.
//!
//! An etcd that has lost all its data counts from 1 again, and whoever resumed at the same number would be in another
//! history without knowing. So each history has a beginning, in etcd itself: the microseconds of the clock when it was
//! first looked at, above all that any before it gave. A revision is that and etcd's own number.

use super::client::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use super::client::proto::request_op::Request;
use super::client::proto::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use super::{Etcd, Revision, StoreError};
use prost::bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Where a history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History(u64);

impl From<u64> for History {
    fn from(begin: u64) -> Self {
        Self(begin)
    }
}

impl History {
    /// The revision that etcd gives this number.
    pub(super) fn revision(self, number: i64) -> Revision {
        Revision(self.0.saturating_add(u64::try_from(number).unwrap_or_default()))
    }

    /// Etcd's own number of a revision; `None` if it is of an earlier history.
    pub(super) fn number(self, revision: Revision) -> Option<i64> {
        i64::try_from(revision.0.checked_sub(self.0)?).ok()
    }
}

/// Looks which history this is, and begins one where there is none.
pub(super) async fn look(store: &Etcd) -> Result<History, StoreError> {
    let begin = match read(store).await? {
        Some(begin) => begin,
        None => {
            begin_one(store).await?;
            // Of several who begin one at once, one did.
            let nobody =
                || StoreError::Unavailable("etcd does not keep the history's beginning".into());
            read(store).await?.ok_or_else(nobody)?
        }
    };
    store.0.history.store(begin, Ordering::Relaxed);
    Ok(History(begin))
}

async fn read(store: &Etcd) -> Result<Option<u64>, StoreError> {
    let (key, range_end) = (store.0.keys.history(), Bytes::new());
    let request = RangeRequest { key, range_end, limit: 1, revision: 0 };
    let answer = store.0.client.range(request).await?;
    let Some(kv) = answer.kvs.first() else { return Ok(None) };
    let begin = str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
    let unknown = || StoreError::Unavailable("the history's beginning in etcd is no number".into());
    begin.map(Some).ok_or_else(unknown)
}

async fn begin_one(store: &Etcd) -> Result<(), StoreError> {
    let key = store.0.keys.history();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let value = since_epoch.as_micros().to_string().into();
    let absent = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(0)),
    };
    let put = Request::RequestPut(PutRequest { key, value, lease: 0 });
    let success = vec![RequestOp { request: Some(put) }];
    store.0.client.txn(TxnRequest { compare: vec![absent], success }).await.map(|_| ())
}
