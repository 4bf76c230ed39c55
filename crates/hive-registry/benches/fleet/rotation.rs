//! New keys for the trust domain, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_dev::authority::{Authority, KeyKind};
use tokio::time::sleep;

pub(crate) const X509_TTL: Duration = Duration::from_secs(120);
pub(crate) const JWT_TTL: Duration = Duration::from_secs(60);
/// How long a key is known before it signs, and a tainted one before it is nothing.
const NOTICE: Duration = Duration::from_secs(5);

/// Replaces the keys of one kind for ever, and counts.
pub(crate) async fn rotate(authority: Arc<Authority>, kind: KeyKind, rotations: Arc<AtomicU64>) {
    loop {
        let before = authority.signing_keys(kind).remove(0).0;
        let next = authority.prepare(kind).await.unwrap();
        sleep(NOTICE).await;
        authority.activate(&next).await.unwrap();
        // By then every token of the key before has been replaced; X.509-SVIDs were at once.
        sleep(JWT_TTL).await;
        // It goes by itself a little later; on a machine that was suspended it has.
        if authority.taint(&before).is_ok() {
            sleep(NOTICE).await;
            authority.revoke(&before).unwrap();
        }
        rotations.fetch_add(1, Ordering::Relaxed);
    }
}
