//! What is remembered of tokens that were verified before.
//!
//! A table of sets, chosen by the token's SHA-256: whoever looks something up takes the shared lock of one
//! set of many, and allocates nothing. A set that is full gives up what has expired, then what was not asked for
//! since the hand last passed (the "clock" approximation of least recently used).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use aws_lc_rs::digest;

use crate::spiffe::id::Audience;

/// SHA-256 of a token, so that the token itself is not kept.
pub(super) type Fingerprint = [u8; digest::SHA256_OUTPUT_LEN];

/// Judgements of one kind under one revision of the bundles.
#[derive(Debug)]
pub(super) struct Memory<J> {
    sets: OnceLock<Box<[RwLock<Set<J>>]>>,
    sets_count: usize,
    set_max: usize,
    /// The audience of the newest entry: most services have one, and all entries share it.
    audience: Mutex<Option<Arc<Audience>>>,
}

/// Which token was judged for whom, and for how long that holds. It is kept inside the judgement: in a large memory
/// each look elsewhere costs as much as a third of the hash.
#[derive(Debug)]
pub(super) struct Seen {
    fingerprint: Fingerprint,
    until: SystemTime,
    asked_for: AtomicBool,
    audience: Arc<Audience>,
}

/// A judgement that can be remembered.
pub(super) trait Remembered {
    /// What was judged; `None` for what is not meant to be remembered.
    fn seen(&self) -> Option<&Seen>;
}

#[derive(Debug)]
struct Set<J> {
    /// Each with the first bytes of its fingerprint, so that hardly ever a wrong one is looked at.
    entries: Vec<(u64, Arc<J>)>,
    hand: usize,
}

pub(super) fn fingerprint(token: &str) -> Fingerprint {
    let mut fingerprint = [0; digest::SHA256_OUTPUT_LEN];
    // In one go: a digest context would allocate.
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    fingerprint
}

impl Seen {
    fn is(&self, fingerprint: &Fingerprint, audience: &Audience) -> bool {
        self.fingerprint == *fingerprint && *self.audience == *audience
    }
}

impl<J: Remembered> Memory<J> {
    /// A memory of at most `sets_count * set_max` judgements; it takes no room before the first one.
    pub(super) fn new(sets_count: usize, set_max: usize) -> Self {
        Self { sets: OnceLock::new(), sets_count, set_max, audience: Mutex::default() }
    }

    pub(super) fn recall(
        &self,
        fingerprint: &Fingerprint,
        audience: &Audience,
        now: SystemTime,
    ) -> Option<Arc<J>> {
        let set = self.sets.get()?[self.index(fingerprint)].read();
        let set = set.unwrap_or_else(PoisonError::into_inner);
        let (_, judgement) = &set.entries[set.position(fingerprint, audience)?];
        let seen = judgement.seen()?;
        if now >= seen.until {
            return None;
        }
        seen.asked_for.store(true, Ordering::Relaxed);
        Some(Arc::clone(judgement))
    }

    /// What a judgement of this token holds on to, if it shall be remembered.
    pub(super) fn seen(
        &self,
        fingerprint: Fingerprint,
        audience: &Audience,
        until: SystemTime,
    ) -> Seen {
        let audience = self.share(audience);
        Seen { fingerprint, until, asked_for: AtomicBool::new(false), audience }
    }

    pub(super) fn remember(&self, judgement: &Arc<J>, now: SystemTime) {
        let Some(seen) = judgement.seen() else { return };
        let index = self.index(&seen.fingerprint);
        let empty = || (0..self.sets_count).map(|_| RwLock::default()).collect();
        let set = self.sets.get_or_init(empty)[index].write();
        set.unwrap_or_else(PoisonError::into_inner).insert(judgement, self.set_max, now);
    }

    fn share(&self, audience: &Audience) -> Arc<Audience> {
        let mut newest = self.audience.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some(same) if **same == *audience => Arc::clone(same),
            _ => Arc::clone(newest.insert(Arc::new(audience.clone()))),
        }
    }

    fn index(&self, fingerprint: &Fingerprint) -> usize {
        // Other bytes than the tag's.
        tag(&fingerprint[8..]) as usize % self.sets_count
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let sets = self.sets.get().map_or(&[][..], |sets| sets);
        sets.iter().map(|set| set.read().map_or(0, |set| set.entries.len())).sum()
    }
}

impl<J> Default for Set<J> {
    fn default() -> Self {
        Self { entries: Vec::new(), hand: 0 }
    }
}

impl<J: Remembered> Set<J> {
    fn position(&self, fingerprint: &Fingerprint, audience: &Audience) -> Option<usize> {
        let wanted = tag(fingerprint);
        self.entries.iter().position(|(tag, judgement)| {
            *tag == wanted && judgement.seen().is_some_and(|seen| seen.is(fingerprint, audience))
        })
    }

    fn insert(&mut self, judgement: &Arc<J>, max: usize, now: SystemTime) {
        let Some(seen) = judgement.seen() else { return };
        let entry = (tag(&seen.fingerprint), Arc::clone(judgement));
        let known = self.position(&seen.fingerprint, &seen.audience);
        let place = known.or_else(|| (self.entries.len() >= max).then(|| self.victim(now)));
        match place {
            Some(place) => self.entries[place] = entry,
            None => self.entries.push(entry),
        }
    }

    /// Whose place is taken. The hand finds one within a round and a step, for it clears the marks that it passes.
    fn victim(&mut self, now: SystemTime) -> usize {
        let seen = |index: usize| self.entries[index].1.seen();
        let expired = |index: &usize| seen(*index).is_none_or(|seen| seen.until <= now);
        if let Some(expired) = (0..self.entries.len()).find(expired) {
            return expired;
        }
        loop {
            let here = self.hand % self.entries.len();
            self.hand = here + 1;
            let asked_for = |seen: &Seen| seen.asked_for.swap(false, Ordering::Relaxed);
            if !self.entries[here].1.seen().is_some_and(asked_for) {
                return here;
            }
        }
    }
}

fn tag(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
