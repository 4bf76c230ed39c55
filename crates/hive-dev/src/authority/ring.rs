//! Keys of one kind: their rotation, shared, with news of every change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::Error;
use super::clock::Clock;
use super::rotation::{KeyKind, Named, Rotation, SigningKey, Stage};

/// A document may be used a moment longer than it says, where clocks differ.
pub(super) const RETIREMENT_GRACE: Duration = Duration::from_secs(10);

pub(super) struct Ring<T> {
    kind: KeyKind,
    clock: Clock,
    rotation: Mutex<Rotation<T>>,
    changed: watch::Sender<u64>,
    /// One rotation at a time: a second one waits until the first one's key signs.
    turn: tokio::sync::Mutex<()>,
    /// The longest life, in seconds, of anything that was signed.
    longest_s: AtomicU64,
}

impl<T: Named> Ring<T> {
    /// `ttl` is how long its documents usually live.
    pub(super) fn new(kind: KeyKind, first: T, ttl: Duration, clock: Clock) -> Self {
        Self {
            kind,
            clock,
            rotation: Mutex::new(Rotation::new(first)),
            changed: watch::Sender::new(0),
            turn: tokio::sync::Mutex::default(),
            longest_s: AtomicU64::new(ttl.as_secs()),
        }
    }

    /// Notes how long a document will live, before it is signed: its key stays published for as long.
    pub(super) fn will_sign(&self, ttl: Duration) {
        self.longest_s.fetch_max(ttl.as_secs(), Ordering::Relaxed);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Publishes the next key, waits, and lets it sign.
    pub(super) async fn rotate(
        &self,
        make: impl FnOnce(SystemTime) -> Result<T, Error>,
        publish_ahead: Duration,
    ) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let key = self.prepare_now(make)?;
        // The federation standard, section 4.1: a key is published before it is used.
        tokio::time::sleep(publish_ahead).await;
        self.activate_now(&key.id)
    }

    /// Publishes the next key.
    pub(super) async fn prepare(
        &self,
        make: impl FnOnce(SystemTime) -> Result<T, Error>,
    ) -> Result<SigningKey, Error> {
        let _turn = self.turn.lock().await;
        self.prepare_now(make)
    }

    /// Lets the prepared key sign.
    pub(super) async fn activate(&self, id: &str) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.activate_now(id)
    }

    pub(super) fn taint(&self, id: &str) -> Result<(), Error> {
        self.state().taint(id)?;
        self.announce();
        Ok(())
    }

    pub(super) fn revoke(&self, id: &str) -> Result<(), Error> {
        self.state().revoke(id)?;
        self.announce();
        Ok(())
    }

    pub(super) fn retire(&self, now: SystemTime) {
        if self.state().retire(now) {
            self.announce();
        }
    }

    pub(super) fn stages(&self) -> Vec<(SigningKey, Stage)> {
        let key = |(id, stage)| (SigningKey { kind: self.kind, id }, stage);
        self.state().stages().into_iter().map(key).collect()
    }

    /// Every change is one call, so a panicking holder leaves it whole.
    pub(super) fn state(&self) -> MutexGuard<'_, Rotation<T>> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare_now(
        &self,
        make: impl FnOnce(SystemTime) -> Result<T, Error>,
    ) -> Result<SigningKey, Error> {
        let next = make(self.clock.now())?;
        let key = SigningKey { kind: self.kind, id: next.id().to_owned() };
        self.state().prepare(next);
        self.announce();
        Ok(key)
    }

    fn activate_now(&self, id: &str) -> Result<(), Error> {
        let longest = Duration::from_secs(self.longest_s.load(Ordering::Relaxed));
        let retire_at = self.clock.now() + longest + RETIREMENT_GRACE;
        self.state().activate(id, retire_at)?;
        self.announce();
        Ok(())
    }

    fn announce(&self) {
        self.changed.send_modify(|revision| *revision += 1);
    }
}
