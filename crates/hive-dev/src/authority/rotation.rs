//! How a signing key gives way to the next one: published, then used, then retired. Pure.
//!
//! ```text
//! prepared ── published ahead ──▶ active ── replaced ──▶ old ── its last document has expired ──▶ gone
//!                                                         └── tainted ── revoked ──▶ gone
//! ```

use std::sync::Arc;
use std::time::SystemTime;

use super::Error;

/// What a signing key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// JWT-SVIDs.
    Jwt,
    /// X.509-SVIDs.
    X509,
}

/// The name of a signing key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SigningKey {
    pub(super) kind: KeyKind,
    pub(super) id: String,
}

/// Where a signing key stands. The words are those of SPIRE's `localauthority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// It signs.
    Active,
    /// It signs no more, and is published until its last document has expired.
    Old,
    /// It is published and signs nothing yet.
    Prepared,
    /// Like an old one, and about to be revoked: nobody should hold a document of it any more.
    Tainted,
}

impl SigningKey {
    /// What it signs.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The `kid` of a JWT key, the subject key identifier of an X.509 authority in hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Something with a name of its own.
pub(super) trait Named {
    fn id(&self) -> &str;
}

/// The keys of one kind, in all their stages.
#[derive(Debug)]
pub(super) struct Rotation<T> {
    active: Arc<T>,
    prepared: Option<Arc<T>>,
    old: Vec<Old<T>>,
    revision: u64,
}

#[derive(Debug)]
struct Old<T> {
    key: Arc<T>,
    retire_at: SystemTime,
    tainted: bool,
}

impl<T: Named> Rotation<T> {
    pub(super) fn new(active: T) -> Self {
        Self { active: Arc::new(active), prepared: None, old: Vec::new(), revision: 0 }
    }

    /// What signs now.
    pub(super) fn active(&self) -> Arc<T> {
        Arc::clone(&self.active)
    }

    /// Everything that verifiers must know, the active one first.
    pub(super) fn published(&self) -> Vec<Arc<T>> {
        let old = self.old.iter().map(|old| &old.key);
        let all = std::iter::once(&self.active).chain(&self.prepared).chain(old);
        all.map(Arc::clone).collect()
    }

    /// Grows whenever what is published, or a stage, changes.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Every key and its stage, the active one first.
    pub(super) fn stages(&self) -> Vec<(String, Stage)> {
        let stage = |old: &Old<T>| if old.tainted { Stage::Tainted } else { Stage::Old };
        let active = std::iter::once((&self.active, Stage::Active));
        let prepared = self.prepared.iter().map(|key| (key, Stage::Prepared));
        let old = self.old.iter().map(|old| (&old.key, stage(old)));
        active.chain(prepared).chain(old).map(|(key, stage)| (key.id().to_owned(), stage)).collect()
    }

    /// Publishes the next one. It signs nothing yet. One that was prepared before is dropped.
    pub(super) fn prepare(&mut self, next: T) {
        self.prepared = Some(Arc::new(next));
        self.revision += 1;
    }

    /// Lets the prepared one sign. The old one stays published until `retire_at`.
    pub(super) fn activate(&mut self, id: &str, retire_at: SystemTime) -> Result<(), Error> {
        let next = self.prepared.take_if(|next| next.id() == id);
        let next = next.ok_or(Error::Step { reason: "only the prepared key can be activated" })?;
        let key = std::mem::replace(&mut self.active, next);
        self.old.push(Old { key, retire_at, tainted: false });
        self.revision += 1;
        Ok(())
    }

    /// Marks an old one as not to be trusted for long.
    pub(super) fn taint(&mut self, id: &str) -> Result<(), Error> {
        let found = self.old.iter_mut().find(|old| old.key.id() == id);
        found.ok_or(Error::Step { reason: "only an old key can be tainted" })?.tainted = true;
        self.revision += 1;
        Ok(())
    }

    /// Drops a tainted one: what it signed is worth nothing from now on.
    pub(super) fn revoke(&mut self, id: &str) -> Result<(), Error> {
        let found = self.old.iter().position(|old| old.key.id() == id && old.tainted);
        let found = found.ok_or(Error::Step { reason: "only a tainted key can be revoked" })?;
        self.old.remove(found);
        self.revision += 1;
        Ok(())
    }

    /// Drops what has nothing left to vouch for; says whether there was any.
    pub(super) fn retire(&mut self, now: SystemTime) -> bool {
        let before = self.old.len();
        self.old.retain(|old| old.retire_at > now);
        let any = self.old.len() < before;
        self.revision += u64::from(any);
        any
    }

    /// When something retires next.
    pub(super) fn next_retirement(&self) -> Option<SystemTime> {
        self.old.iter().map(|old| old.retire_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    impl Named for &'static str {
        fn id(&self) -> &str {
            self
        }
    }

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
        rotation.activate("new", at(10)).expect("it is prepared");
        assert_eq!((*rotation.active(), published(&rotation)), ("new", vec!["new", "old"]));
        assert_eq!(rotation.next_retirement(), Some(at(10)));
        assert!(!rotation.retire(at(9)));
        assert!(rotation.retire(at(10)));
        assert_eq!(published(&rotation), ["new"]);
        assert_eq!(rotation.next_retirement(), None);
    }

    #[test]
    fn no_step_is_taken_out_of_turn() {
        let mut rotation = Rotation::new("one");
        let refused = |result: Result<(), Error>| matches!(result, Err(Error::Step { .. }));
        assert!(refused(rotation.activate("one", at(10))), "nothing is prepared");
        assert!(refused(rotation.taint("one")), "it signs");
        assert!(refused(rotation.revoke("one")), "it signs");
        rotation.prepare("two");
        assert!(refused(rotation.activate("three", at(10))), "another one is prepared");
        assert!(refused(rotation.taint("two")), "it never signed");
        rotation.activate("two", at(10)).expect("it is prepared");
        assert!(refused(rotation.revoke("one")), "it is not tainted");
        assert_eq!(published(&rotation), ["two", "one"]);
    }

    #[test]
    fn a_tainted_key_is_published_until_it_is_revoked_and_every_step_is_a_revision() {
        let mut rotation = Rotation::new("one");
        rotation.prepare("two");
        rotation.activate("two", at(10)).expect("it is prepared");
        rotation.taint("one").expect("it is old");
        let stages = [("two".to_owned(), Stage::Active), ("one".to_owned(), Stage::Tainted)];
        assert_eq!(rotation.stages(), stages);
        assert_eq!(published(&rotation), ["two", "one"]);
        rotation.revoke("one").expect("it is tainted");
        assert_eq!((published(&rotation), rotation.revision()), (vec!["two"], 4));
    }
}
