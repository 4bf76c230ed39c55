//! What is remembered of tokens that were verified before.
//!
//! A table of sets, chosen by the token's SHA-256: whoever looks something up takes the shared lock of one
//! set of many, and allocates nothing. A set that is full gives up what has expired, then what was not asked for
//! since the hand last passed (the "clock" approximation of least recently used).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use aws_lc_rs::digest;

use super::VerifiedJwt;
use crate::Refusal;
use crate::spiffe::id::Audience;

/// SHA-256 of a token, so that the token itself is not kept.
pub(super) type Fingerprint = [u8; digest::SHA256_OUTPUT_LEN];

/// How a token was judged for one audience, and that time cannot turn it round.
#[derive(Clone, Debug)]
pub(super) enum Judgement {
    Accepted(VerifiedJwt),
    /// Genuine, and over since then.
    Expired(SystemTime),
    /// Behind a pointer, for most entries are of the first kind and small ones are found sooner.
    Refused(Arc<Refusal>),
}

/// Judgements under one revision of the bundles.
#[derive(Debug)]
pub(super) struct Memory {
    sets: OnceLock<Box<[RwLock<Set>]>>,
    sets_count: usize,
    set_max: usize,
    /// The audience of the newest entry: most services have one, and all entries share it.
    audience: Mutex<Option<Arc<Audience>>>,
}

#[derive(Debug, Default)]
struct Set {
    /// The first bytes of each entry's fingerprint: found without touching the entries.
    tags: Vec<u64>,
    entries: Vec<Entry>,
    hand: usize,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    audience: Arc<Audience>,
    judgement: Judgement,
    until: SystemTime,
    asked_for: AtomicBool,
}

pub(super) fn fingerprint(token: &str) -> Fingerprint {
    let mut fingerprint = [0; digest::SHA256_OUTPUT_LEN];
    // In one go: a digest context would allocate.
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    fingerprint
}

impl Memory {
    /// A memory of at most `sets_count * set_max` judgements; it takes no room before the first one.
    pub(super) fn new(sets_count: usize, set_max: usize) -> Self {
        Self { sets: OnceLock::new(), sets_count, set_max, audience: Mutex::default() }
    }

    pub(super) fn recall(
        &self,
        fingerprint: &Fingerprint,
        audience: &Audience,
        now: SystemTime,
    ) -> Option<Judgement> {
        let set = self.sets.get()?[self.index(fingerprint)].read();
        let set = set.unwrap_or_else(PoisonError::into_inner);
        let entry = &set.entries[set.position(fingerprint, audience)?];
        if now >= entry.until {
            return None;
        }
        entry.asked_for.store(true, Ordering::Relaxed);
        Some(entry.judgement.clone())
    }

    pub(super) fn remember(
        &self,
        fingerprint: Fingerprint,
        audience: &Audience,
        judgement: Judgement,
        until: SystemTime,
        now: SystemTime,
    ) {
        let sets =
            self.sets.get_or_init(|| (0..self.sets_count).map(|_| RwLock::default()).collect());
        let set = sets[self.index(&fingerprint)].write();
        let mut set = set.unwrap_or_else(PoisonError::into_inner);
        let asked_for = AtomicBool::new(false);
        let audience = self.share(audience);
        let entry = Entry { fingerprint, audience, judgement, until, asked_for };
        set.insert(entry, self.set_max, now);
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

impl Set {
    fn position(&self, fingerprint: &Fingerprint, audience: &Audience) -> Option<usize> {
        let wanted = tag(fingerprint);
        let matches = |index: &usize| {
            let entry = &self.entries[*index];
            entry.fingerprint == *fingerprint && *entry.audience == *audience
        };
        (0..self.tags.len()).filter(|index| self.tags[*index] == wanted).find(matches)
    }

    fn insert(&mut self, entry: Entry, max: usize, now: SystemTime) {
        let known = self.position(&entry.fingerprint, &entry.audience);
        let place = known.or_else(|| (self.entries.len() >= max).then(|| self.victim(now)));
        match place {
            Some(place) => {
                self.tags[place] = tag(&entry.fingerprint);
                self.entries[place] = entry;
            }
            None => {
                self.tags.push(tag(&entry.fingerprint));
                self.entries.push(entry);
            }
        }
    }

    /// Whose place is taken. The hand finds one within a round and a step, for it clears the marks that it passes.
    fn victim(&mut self, now: SystemTime) -> usize {
        if let Some(expired) = self.entries.iter().position(|entry| entry.until <= now) {
            return expired;
        }
        loop {
            let here = self.hand % self.entries.len();
            self.hand = here + 1;
            if !std::mem::take(self.entries[here].asked_for.get_mut()) {
                return here;
            }
        }
    }
}

fn tag(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
