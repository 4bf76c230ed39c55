//! How a signing key gives way to the next one: published, then used, then retired. Pure.
//!
//! ```text
//! prepared ── published ahead ──▶ active ── replaced ──▶ retiring ── its last document has expired ──▶ gone
//! ```

use std::sync::Arc;
use std::time::SystemTime;

/// The keys of one kind, in all their stages.
#[derive(Debug)]
pub(super) struct Rotation<T> {
    active: Arc<T>,
    prepared: Option<Arc<T>>,
    retiring: Vec<(Arc<T>, SystemTime)>,
}

impl<T> Rotation<T> {
    pub(super) fn new(active: T) -> Self {
        Self { active: Arc::new(active), prepared: None, retiring: Vec::new() }
    }

    /// What signs now.
    pub(super) fn active(&self) -> Arc<T> {
        Arc::clone(&self.active)
    }

    /// Everything that verifiers must know, the active one first.
    pub(super) fn published(&self) -> Vec<Arc<T>> {
        let retiring = self.retiring.iter().map(|(old, _)| old);
        let all = std::iter::once(&self.active).chain(&self.prepared).chain(retiring);
        all.map(Arc::clone).collect()
    }

    /// Publishes the next one. It signs nothing yet.
    pub(super) fn prepare(&mut self, next: T) {
        self.prepared = Some(Arc::new(next));
    }

    /// Lets the prepared one sign. The old one stays published until `retire_at`.
    pub(super) fn activate(&mut self, retire_at: SystemTime) {
        let Some(next) = self.prepared.take() else { return };
        let old = std::mem::replace(&mut self.active, next);
        self.retiring.push((old, retire_at));
    }

    /// Drops what has nothing left to vouch for; says whether there was any.
    pub(super) fn retire(&mut self, now: SystemTime) -> bool {
        let before = self.retiring.len();
        self.retiring.retain(|(_, retire_at)| *retire_at > now);
        self.retiring.len() < before
    }

    /// When something retires next.
    pub(super) fn next_retirement(&self) -> Option<SystemTime> {
        self.retiring.iter().map(|(_, retire_at)| *retire_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn published(rotation: &Rotation<&'static str>) -> Vec<&'static str> {
        rotation.published().iter().map(|key| **key).collect()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_after_it_is_replaced() {
        let mut rotation = Rotation::new("old");
        rotation.prepare("new");
        assert_eq!((*rotation.active(), published(&rotation)), ("old", vec!["old", "new"]));
        rotation.activate(at(10));
        assert_eq!((*rotation.active(), published(&rotation)), ("new", vec!["new", "old"]));
        assert_eq!(rotation.next_retirement(), Some(at(10)));
        assert!(!rotation.retire(at(9)));
        assert!(rotation.retire(at(10)));
        assert_eq!(published(&rotation), ["new"]);
        assert_eq!(rotation.next_retirement(), None);
    }

    #[test]
    fn nothing_is_replaced_by_nothing() {
        let mut rotation = Rotation::new("only");
        rotation.activate(at(10));
        assert_eq!((*rotation.active(), published(&rotation)), ("only", vec!["only"]));
    }
}
