//! A call that was let through, and whether it may go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::{Method, Request, Uri};

use super::authenticate::Rules;
use super::counts::Counted;
use super::peer::Peer;

/// Who was let through to what. Request and response of a call share it.
#[derive(Debug)]
pub(super) struct Admission {
    rules: Arc<Rules>,
    peer: Peer,
    verb: Option<Method>,
    uri: Uri,
    /// Of the policy that let it through.
    revision: u64,
    /// Whether one of the two was cut off.
    ended: AtomicBool,
}

/// Why a stream is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A document of its caller has expired.
    Expired,
    /// The policy was replaced by one that does not allow it.
    Revoked,
}

impl Admission {
    /// `revision` was read before the policy was asked.
    pub(super) fn new<B>(
        rules: &Arc<Rules>,
        request: &Request<B>,
        verb: Option<Method>,
        peer: Peer,
        revision: u64,
    ) -> Self {
        let (rules, uri) = (Arc::clone(rules), request.uri().clone());
        Self { rules, peer, verb, uri, revision, ended: AtomicBool::new(false) }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn expires_at(&self) -> SystemTime {
        self.peer.expires_at
    }

    /// The revision of the policy that let it through.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision of the policy of this moment.
    pub(super) fn current_revision(&self) -> u64 {
        self.rules.policy.revision()
    }

    /// Waits for another policy than that of `revision`.
    pub(super) fn policy_changed(
        &self,
        revision: u64,
    ) -> impl Future<Output = ()> + Send + 'static {
        let policy = self.rules.policy.clone();
        async move { policy.changed_since(revision).await }
    }

    /// Whether the policy of this moment lets it go on.
    pub(super) fn is_allowed(&self) -> bool {
        let verb = self.verb.as_ref().map(Method::as_str);
        self.rules.policy.load().decide(verb, self.uri.path(), &self.peer.spiffe_id).allowed
    }

    /// Counts and logs the end of this call, once.
    pub(super) fn end(&self, cause: Cause) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        match cause {
            Cause::Expired => self.rules.counts.add(Counted::Expired),
            Cause::Revoked => {
                self.rules.counts.add(Counted::Revoked);
                self.rules.log.revoked(self.uri.path(), &self.peer);
            }
        }
    }
}
