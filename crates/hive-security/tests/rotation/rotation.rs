//! Rotating by hand what a driver rotates in production.

use std::time::Duration;

use hive_security::credentials::{Credential, Holder};
use tokio::time::timeout;

use crate::load::Load;

/// A server whose users the test makes and unmakes itself.
pub(crate) trait Users {
    async fn create(&self, generation: u64) -> Credential;
    /// Removes the user, and leaves its sessions to themselves.
    async fn revoke(&self, credential: &Credential);
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    Drain,
    Revoke,
}

/// Longer than any operation of the load.
const OVERLAP: Duration = Duration::from_secs(20);
/// Operations between two rotations, so that each generation is used.
const BETWEEN: u64 = 60;

/// The first generation, in use.
pub(crate) async fn begin(holder: &impl Holder, users: &impl Users) -> Credential {
    let first = users.create(1).await;
    holder.probe(&first).await.expect("the server takes it");
    holder.adopt(&first).await.expect("it is usable");
    first
}

/// Replaces `current` this many times while `load` works, and returns the last one.
pub(crate) async fn rotate(
    (holder, users): (&impl Holder, &impl Users),
    mut current: Credential,
    times: u64,
    order: Order,
    load: &Load,
) -> Credential {
    for _ in 0..times {
        let fresh = users.create(current.generation() + 1).await;
        holder.probe(&fresh).await.expect("the server takes it");
        if order == Order::Revoke {
            users.revoke(&current).await;
        }
        holder.adopt(&fresh).await.expect("it is usable");
        let drained = holder.drained(fresh.generation());
        timeout(OVERLAP, drained).await.expect("nobody keeps the old one for so long");
        if order == Order::Drain {
            users.revoke(&current).await;
        }
        load.progress(BETWEEN).await;
        current = fresh;
    }
    current
}
