//! One credential: who holds it, and which number it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use hive_lease::Generation;
use tokio::sync::Mutex;

use super::{Credential, Holder, HolderError, Request};
use crate::SecretJson;
use crate::epoch::Error;
use crate::rotating::{Publisher, Rotating};

/// One credential, in whatever generation.
pub(super) struct Slot {
    pub(super) request: Request,
    publisher: Publisher<Result<Credential, Error>>,
    /// The number of what was published last. A refreshed credential has a new number as well, so that there may be
    /// several in one epoch.
    number: u64,
    /// The number with which each epoch began.
    first: BTreeMap<Generation, u64>,
    holders: Vec<Arc<Held>>,
}

/// A holder, and what it uses.
pub(super) struct Held {
    id: u64,
    holder: Arc<dyn Holder>,
    /// Holders are told one thing at a time, and never to go back.
    adopted: Mutex<u64>,
}

impl Slot {
    pub(super) fn new(request: Request) -> (Self, Rotating<Result<Credential, Error>>) {
        let (publisher, rotating) = Rotating::new(Err(Error::Closed));
        let (number, first, holders) = (0, BTreeMap::new(), Vec::new());
        (Self { request, publisher, number, first, holders }, rotating)
    }

    /// The credential as it will be, to be tried.
    pub(super) fn candidate(&self, data: &SecretJson) -> Credential {
        Credential::new(self.request.name(), self.number + 1, data.clone())
    }

    /// Makes the credential of an epoch, or a newer one of the same epoch, the one to be used.
    pub(super) fn publish(&mut self, generation: Generation, data: &SecretJson) -> Credential {
        let credential = self.candidate(data);
        self.number += 1;
        self.first.entry(generation).or_insert(self.number);
        self.publisher.publish(Ok(credential.clone()));
        credential
    }

    /// Whether something else than this is in use.
    pub(super) fn differs(&self, data: &SecretJson) -> bool {
        let current = self.publisher.subscribe().current();
        !current.as_ref().as_ref().is_ok_and(|current| current.data().is_same(data))
    }

    pub(super) fn withdraw(&self, error: Error) -> u64 {
        self.publisher.publish(Err(error));
        self.number
    }

    pub(super) fn current(&self) -> Result<Credential, Error> {
        (*self.publisher.subscribe().current()).clone()
    }

    /// The number below which everything is of this epoch or older.
    pub(super) fn bound(&self, generation: Generation) -> u64 {
        let later = self.first.range(generation + 1..).next();
        later.map_or(self.number + 1, |(_, number)| *number)
    }

    pub(super) fn forget(&mut self, generation: Generation) {
        self.first.remove(&generation);
    }

    pub(super) fn hold(&mut self, id: u64, holder: Arc<dyn Holder>) -> Arc<Held> {
        let held = Arc::new(Held { id, holder, adopted: Mutex::new(0) });
        self.holders.push(Arc::clone(&held));
        held
    }

    pub(super) fn release(&mut self, id: u64) {
        self.holders.retain(|held| held.id != id);
    }

    pub(super) fn holders(&self) -> &[Arc<Held>] {
        &self.holders
    }
}

impl Held {
    pub(super) async fn probe(&self, fresh: &Credential) -> Result<(), HolderError> {
        self.holder.probe(fresh).await
    }

    pub(super) async fn adopt(&self, fresh: &Credential) -> Result<(), HolderError> {
        let mut adopted = self.adopted.lock().await;
        if fresh.generation() > *adopted {
            self.holder.adopt(fresh).await?;
            *adopted = fresh.generation();
        }
        Ok(())
    }

    /// Unless it has adopted something newer than `number` meanwhile.
    pub(super) async fn withdraw(&self, number: u64) {
        let mut adopted = self.adopted.lock().await;
        if *adopted <= number {
            self.holder.withdraw().await;
            *adopted = 0;
        }
    }
}

/// Resolves once none of them uses anything below its number.
pub(super) async fn drained(held: Vec<(Arc<Held>, u64)>) {
    join_all(held.iter().map(|(held, number)| held.holder.drained(*number))).await;
}

/// Ends whatever they still use below their numbers.
pub(super) async fn cut(held: Vec<(Arc<Held>, u64)>) {
    join_all(held.iter().map(|(held, number)| held.holder.cut(*number))).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Mutex as Lock;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use serde_json::json;

    use super::*;

    /// Notes what it adopts; 0 where it has to withdraw.
    #[derive(Default)]
    struct Notes(Lock<Vec<u64>>);

    impl Holder for Notes {
        fn probe<'a>(&'a self, _: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
            async { Ok(()) }.boxed()
        }

        fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
            self.0.lock().unwrap().push(fresh.generation());
            async { Ok(()) }.boxed()
        }

        fn drained(&self, _: u64) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }

        fn cut(&self, _: u64) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }

        fn withdraw(&self) -> BoxFuture<'_, ()> {
            self.0.lock().unwrap().push(0);
            async {}.boxed()
        }
    }

    #[tokio::test]
    async fn a_holder_never_goes_back_and_a_late_withdrawal_takes_nothing_newer_from_it() {
        let notes = Arc::new(Notes::default());
        let mut slot = Slot::new(Request::read("db", "database/creds/app")).0;
        let held = slot.hold(1, Arc::clone(&notes) as Arc<dyn Holder>);
        let adopt = async |generation| {
            let fresh = Credential::new("db", generation, SecretJson::new(json!({})));
            held.adopt(&fresh).await.unwrap();
        };
        adopt(2).await;
        adopt(1).await;
        held.withdraw(1).await;
        assert_eq!(*notes.0.lock().unwrap(), [2]);
        held.withdraw(2).await;
        adopt(3).await;
        assert_eq!(*notes.0.lock().unwrap(), [2, 0, 3]);
    }

    #[test]
    fn an_epoch_is_left_only_when_everything_before_the_next_one_is() {
        let mut slot = Slot::new(Request::read("db", "database/creds/app")).0;
        let data = SecretJson::new(json!({}));
        for generation in [1, 1, 2] {
            slot.publish(generation, &data);
        }
        assert_eq!((slot.bound(1), slot.bound(2)), (3, 4));
        slot.forget(2);
        assert_eq!(slot.bound(1), 4);
    }
}
