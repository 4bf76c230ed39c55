//! The one thing that changes while we hold it.
//!
//! A [`Publisher`] replaces the value; everyone else holds a [`Rotating`] and reads the current value with
//! one atomic load, or awaits the change.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// A value that is replaced while it is held.
pub struct Rotating<T> {
    value: Arc<ArcSwap<T>>,
    changes: watch::Receiver<u64>,
}

/// The only one who can replace the value of a [`Rotating`].
pub struct Publisher<T> {
    value: Arc<ArcSwap<T>>,
    changes: watch::Sender<u64>,
}

impl<T> Rotating<T> {
    /// A rotating value that starts as `initial`, and its publisher.
    pub fn new(initial: T) -> (Publisher<T>, Self) {
        let value = Arc::new(ArcSwap::from_pointee(initial));
        let (sender, receiver) = watch::channel(0);
        let publisher = Publisher { value: Arc::clone(&value), changes: sender };
        (publisher, Self { value, changes: receiver })
    }

    /// Another holder of the same value, which has seen everything published so far.
    pub fn subscribe(&self) -> Self {
        let mut holder = self.clone();
        holder.changes.mark_unchanged();
        holder
    }

    /// The current value: never torn, never awaited.
    pub fn current(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// Waits until the value was replaced since this holder last waited (or was made), and returns the newest.
    ///
    /// Returns `None` once the publisher is gone. A holder that is slow misses values, never the last one.
    pub async fn changed(&mut self) -> Option<Arc<T>> {
        self.changes.changed().await.ok()?;
        Some(self.current())
    }
}

impl<T> Publisher<T> {
    /// Replaces the value and wakes everyone who awaits a change.
    pub fn publish(&self, value: T) {
        self.value.store(Arc::new(value));
        self.changes.send_modify(|revision| *revision = revision.wrapping_add(1));
    }

    /// Another holder of the same value, which has seen everything published so far.
    pub fn subscribe(&self) -> Rotating<T> {
        Rotating { value: Arc::clone(&self.value), changes: self.changes.subscribe() }
    }
}

impl<T> Clone for Rotating<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), changes: self.changes.clone() }
    }
}

// The value may be a secret, so neither of them shows it.
impl<T> fmt::Debug for Rotating<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotating")
            .field("revision", &*self.changes.borrow())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("revision", &*self.changes.borrow())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_holder_sees_the_last_of_several_values() {
        let (publisher, mut rotating) = Rotating::new(1);
        publisher.publish(2);
        publisher.publish(3);
        assert_eq!(*rotating.changed().await.unwrap(), 3);
        assert_eq!(*rotating.current(), 3);
    }

    #[tokio::test]
    async fn a_new_holder_waits_for_what_is_still_to_come() {
        let (publisher, rotating) = Rotating::new(1);
        publisher.publish(2);
        let mut holder = rotating.subscribe();
        assert_eq!(*holder.current(), 2);
        publisher.publish(3);
        assert_eq!(*holder.changed().await.unwrap(), 3);
        drop(publisher);
        assert!(holder.changed().await.is_none());
    }

    #[tokio::test]
    async fn a_holder_learns_that_the_publisher_is_gone_and_keeps_the_value() {
        let (publisher, mut rotating) = Rotating::new("last");
        drop(publisher);
        assert!(rotating.changed().await.is_none());
        assert_eq!(*rotating.current(), "last");
    }

    #[test]
    fn nothing_of_the_value_is_shown() {
        let (publisher, rotating) = Rotating::new("hunter2");
        assert!(!format!("{publisher:?}{rotating:?}").contains("hunter2"));
    }
}
