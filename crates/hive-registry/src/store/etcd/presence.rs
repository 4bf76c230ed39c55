//! A replica is present for as long as it renews a lease.

use super::Etcd;
use super::client::proto::request_op::Request;
use super::client::proto::{PutRequest, RequestOp, TxnRequest};
use crate::store::StoreError;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A replica that is silent for this long is gone. Shorter than the silence after which an agent dies, so that the
/// agents of a lost replica are in other hands by then.
const TTL: Duration = Duration::from_secs(10);
/// Two renewals may fail.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(3);
/// How soon a presence that was lost is made anew.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What keeps this replica present.
#[derive(Debug)]
pub(crate) struct Presence {
    store: Etcd,
    lease: i64,
}

impl Presence {
    pub(super) async fn begin(store: Etcd) -> Result<Self, StoreError> {
        let lease = announce(&store).await?;
        Ok(Self { store, lease })
    }

    /// Renews the lease until `stop`, and gives it back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut wait = RENEWAL_INTERVAL;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => wait = self.renew().await,
            }
        }
        if let Err(error) = self.store.0.client.revoke(self.lease).await {
            tracing::warn!(%error, "the other replicas see only later that this one is gone");
        }
    }

    /// When to look again.
    async fn renew(&mut self) -> Duration {
        match self.renewed().await {
            Ok(()) => RENEWAL_INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "etcd does not renew the presence of this replica");
                RETRY_INTERVAL
            }
        }
    }

    async fn renewed(&mut self) -> Result<(), StoreError> {
        if self.store.0.client.keep_alive(self.lease).await? {
            return Ok(());
        }
        tracing::warn!("the presence of this replica ended, and begins anew");
        self.lease = announce(&self.store).await?;
        Ok(())
    }
}

/// Makes the replica present under a new lease.
async fn announce(store: &Etcd) -> Result<i64, StoreError> {
    let lease = store.0.client.grant(TTL).await?;
    let key = store.0.keys.replica(&store.0.replica);
    let value = store.0.address.clone().into();
    let put = Request::RequestPut(PutRequest { key, value, lease });
    let success = vec![RequestOp { request: Some(put) }];
    store.0.client.txn(TxnRequest { compare: Vec::new(), success }).await?;
    Ok(lease)
}
