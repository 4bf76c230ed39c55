//! Keeps bundles current in the background.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Error, Poll, Relationship, Schedule};
use crate::rotating::{Publisher, Rotating};
use crate::spiffe::verify::{BundleDocument, Verifier};

/// More than any deployment that is known of.
const RELATIONSHIPS_MAX: usize = 1_024;

/// So many bundles are fetched at once: each may take 4 MiB, and begins with a handshake.
const FETCHES_MAX: usize = 32;

/// The task that keeps one trust domain's bundle current; spawn its [`run`](Self::run).
#[must_use = "a bundle that nobody follows never changes"]
#[derive(Debug)]
pub struct Follower {
    relationship: Relationship,
    publisher: Publisher<Option<BundleDocument>>,
    latest: Rotating<Option<BundleDocument>>,
    /// Shared with those who are followed together.
    fetches: Arc<Semaphore>,
}

/// The task that keeps the bundles of several trust domains current; spawn its [`run`](Self::run).
#[must_use = "bundles that nobody follows never change"]
#[derive(Debug)]
pub struct Followers {
    followers: Vec<Follower>,
    bundles: Vec<Rotating<Option<BundleDocument>>>,
    publisher: Publisher<Verifier>,
}

/// The bundle of the relationship's trust domain, and the task that keeps it current.
///
/// It is `None` until something is known. An endpoint that belongs to the trust domain it serves is known by a
/// given bundle, and that is what is known first.
pub fn follow(relationship: Relationship) -> (Rotating<Option<BundleDocument>>, Follower) {
    follow_among(relationship, Arc::new(Semaphore::new(1)))
}

fn follow_among(
    relationship: Relationship,
    fetches: Arc<Semaphore>,
) -> (Rotating<Option<BundleDocument>>, Follower) {
    let (publisher, latest) = Rotating::new(relationship.bootstrap().cloned());
    let follower = Follower { relationship, publisher, latest: latest.clone(), fetches };
    (latest, follower)
}

/// A verifier by the bundles of all these relationships, and the task that keeps it current.
///
/// Each bundle is used for its own trust domain only. A trust domain of which nothing is known yet is unknown to
/// the verifier. With each change the verifier is a new one, which remembers no token.
///
/// Two relationships with one trust domain, or more than 1,024 of them, are an [`Error::Setting`].
pub fn follow_all(
    relationships: impl IntoIterator<Item = Relationship>,
) -> Result<(Rotating<Verifier>, Followers), Error> {
    let (mut bundles, mut followers) = (Vec::new(), Vec::new());
    let (mut known, fetches) = (BTreeSet::new(), Arc::new(Semaphore::new(FETCHES_MAX)));
    for relationship in relationships {
        let trust_domain = relationship.trust_domain.clone();
        let refused = |reason| Error::Setting { trust_domain, what: "trust domain", reason };
        if followers.len() >= RELATIONSHIPS_MAX {
            return Err(refused("there are more than 1,024"));
        }
        if !known.insert(relationship.trust_domain.clone()) {
            return Err(refused("there is another relationship with it"));
        }
        let (bundle, follower) = follow_among(relationship, Arc::clone(&fetches));
        bundles.push(bundle);
        followers.push(follower);
    }
    let (publisher, verifier) = Rotating::new(verifier(&bundles));
    Ok((verifier, Followers { followers, bundles, publisher }))
}

impl Follower {
    /// Fetches the bundle now, and then as often as it asks for, until `stop`. What was fetched last then stays.
    pub async fn run(self, stop: CancellationToken) {
        let hint = self.latest.current().as_ref().as_ref().and_then(BundleDocument::refresh_hint);
        let mut schedule = Schedule::new(self.relationship.polling, hint);
        let polls = async {
            loop {
                let in_vain = self.relationship.endpoint_is_unknown();
                schedule.note(self.poll().await);
                tokio::select! {
                    () = tokio::time::sleep(schedule.pause(rand::random())) => {}
                    () = self.relationship.endpoint_becomes_known(), if in_vain => {}
                }
            }
        };
        stop.run_until_cancelled(polls).await;
    }

    async fn poll(&self) -> Poll {
        // It is never closed.
        let _place = self.fetches.acquire().await;
        let latest = self.latest.current();
        let trust_domain = self.relationship.trust_domain();
        match self.relationship.fetch(latest.as_ref().as_ref()).await {
            Ok(document) => self.take_over(document, latest.as_ref().as_ref()),
            Err(error) => {
                tracing::warn!(%trust_domain, %error, "a bundle was not fetched; the last one stays until the next poll");
                Poll::Failed
            }
        }
    }

    fn take_over(&self, document: BundleDocument, latest: Option<&BundleDocument>) -> Poll {
        let (trust_domain, sequence) = (document.trust_domain(), document.sequence());
        if latest.is_some_and(|latest| !document.supersedes(latest)) {
            tracing::warn!(%trust_domain, ?sequence, "an older bundle than the last one was served, and is not used");
            return Poll::Failed;
        }
        let refresh_hint = document.refresh_hint();
        // Whoever holds it forgets what was verified by it, so it is replaced only where it differs.
        if latest != Some(&document) {
            if document.is_empty() {
                tracing::warn!(%trust_domain, ?sequence, "a bundle without usable keys: nothing of it is trusted any more");
            } else {
                tracing::info!(%trust_domain, ?sequence, "a new bundle was fetched");
            }
            self.publisher.publish(Some(document));
        }
        Poll::Fetched { refresh_hint }
    }
}

impl Followers {
    /// Fetches every bundle now, and then as often as each asks for, until `stop`. What was fetched last then
    /// stays.
    pub async fn run(self, stop: CancellationToken) {
        let Self { followers, mut bundles, publisher } = self;
        let polls = join_all(followers.into_iter().map(|follower| follower.run(stop.clone())));
        let changes = async {
            while changed(&mut bundles).await {
                publisher.publish(verifier(&bundles));
            }
        };
        tokio::select! {
            _ = polls => {}
            () = changes => {}
        }
    }
}

/// Waits for a change of any; false once there will be none.
async fn changed(bundles: &mut [Rotating<Option<BundleDocument>>]) -> bool {
    if bundles.is_empty() {
        return false;
    }
    let changes = bundles.iter_mut().map(|bundle| Box::pin(bundle.changed()));
    select_all(changes).await.0.is_some()
}

fn verifier(bundles: &[Rotating<Option<BundleDocument>>]) -> Verifier {
    let current: Vec<_> = bundles.iter().map(Rotating::current).collect();
    let known = current.iter().filter_map(|bundle| bundle.as_ref().as_ref());
    Verifier::of_documents(known).expect("each trust domain has one relationship")
}
