//! The outstanding work, in memory: what waits, what may be claimed, who holds what and until when.
//!
//! It mirrors the table of the store and changes only by what was stored. The time is handed in.

use crate::store::{Change, Work};
use hive_plan::{TicketId, TicketKind, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// How long a worker may still extend after the deadline of its ticket: it has processes to end and credentials to
/// give back. Later it counts as lost, however alive it says it is.
const GRACE_MS: i64 = 30_000;

/// The outstanding work.
#[derive(Debug)]
pub(crate) struct Queue {
    claim_ttl_ms: i64,
    work: HashMap<TicketId, Entry>,
    /// Queued work by kind, in the order in which it may begin; among equals first come, first served.
    queued: BTreeMap<TicketKind, BTreeMap<Place, TicketId>>,
    claims: HashMap<u64, TicketId>,
    expiries: BTreeSet<(UnixMillis, u64)>,
    arrivals: u64,
}

/// When work may begin, and which arrived first.
type Place = (UnixMillis, u64);

#[derive(Debug)]
struct Entry {
    work: Work,
    arrival: u64,
    expires: UnixMillis,
}

impl Queue {
    pub(crate) fn new(claim_ttl: Duration) -> Self {
        Self {
            claim_ttl_ms: i64::try_from(claim_ttl.as_millis()).unwrap_or(i64::MAX),
            work: HashMap::new(),
            queued: BTreeMap::new(),
            claims: HashMap::new(),
            expiries: BTreeSet::new(),
            arrivals: 0,
        }
    }

    /// Takes over a change that was stored. A claim that is new here lives for its whole time from `now`.
    pub(crate) fn apply(&mut self, now: UnixMillis, change: Change) {
        match change {
            Change::Put(work) => self.put(now, work),
            Change::Remove(ticket) => drop(self.take(&ticket)),
        }
    }

    /// The work that a worker which offers `kinds` should do next.
    pub(crate) fn next(&self, now: UnixMillis, kinds: &[TicketKind]) -> Option<&Work> {
        let heads = kinds.iter().filter_map(|kind| self.queued.get(kind)?.first_key_value());
        let (_, ticket) =
            heads.filter(|((from, _), _)| *from <= now).min_by_key(|(place, _)| **place)?;
        self.of(ticket)
    }

    /// The outstanding work of one direction of one ticket.
    pub(crate) fn of(&self, ticket: &TicketId) -> Option<&Work> {
        self.work.get(ticket).map(|entry| &entry.work)
    }

    /// The work that is held by this claim.
    pub(crate) fn claimed(&self, claim: u64) -> Option<&Work> {
        self.of(self.claims.get(&claim)?)
    }

    /// Lets a claim live on from `now`, but not beyond the deadline of its ticket and the grace after it.
    pub(crate) fn extend(&mut self, now: UnixMillis, claim: u64) {
        let Some(ticket) = self.claims.get(&claim) else { return };
        let Some(entry) = self.work.get_mut(ticket) else { return };
        self.expiries.remove(&(entry.expires, claim));
        entry.expires = expiry(now, self.claim_ttl_ms, &entry.work);
        self.expiries.insert((entry.expires, claim));
    }

    /// The claims that ran out.
    pub(crate) fn expired(&self, now: UnixMillis) -> Vec<u64> {
        self.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, claim)| *claim).collect()
    }

    /// When something happens by itself: a claim runs out, or queued work may begin.
    pub(crate) fn next_timer(&self, now: UnixMillis) -> Option<UnixMillis> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let later = (UnixMillis(now.0.saturating_add(1)), 0);
        let begins = self.queued.values().filter_map(|places| places.range(later..).next());
        begins.map(|((from, _), _)| *from).chain(expiry).min()
    }

    fn put(&mut self, now: UnixMillis, work: Work) {
        let earlier = self.take(&work.ticket);
        // Work that is told to stop keeps its claim's time; anything else starts anew.
        let kept = earlier.filter(|earlier| earlier.work.claim_number() == work.claim_number());
        let expires =
            kept.map_or_else(|| expiry(now, self.claim_ttl_ms, &work), |kept| kept.expires);
        let arrival = self.arrivals;
        self.arrivals += 1;
        match work.claim_number() {
            Some(claim) => {
                self.claims.insert(claim, work.ticket.clone());
                self.expiries.insert((expires, claim));
            }
            None => {
                let places = self.queued.entry(work.kind).or_default();
                places.insert((work.not_before, arrival), work.ticket.clone());
            }
        }
        self.work.insert(work.ticket.clone(), Entry { work, arrival, expires });
    }

    fn take(&mut self, ticket: &TicketId) -> Option<Entry> {
        let entry = self.work.remove(ticket)?;
        match entry.work.claim_number() {
            Some(claim) => {
                self.claims.remove(&claim);
                self.expiries.remove(&(entry.expires, claim));
            }
            None => {
                if let Some(places) = self.queued.get_mut(&entry.work.kind) {
                    places.remove(&(entry.work.not_before, entry.arrival));
                }
            }
        }
        Some(entry)
    }
}

impl Work {
    fn claim_number(&self) -> Option<u64> {
        self.claim.as_ref().map(|claim| claim.number)
    }
}

fn expiry(now: UnixMillis, claim_ttl_ms: i64, work: &Work) -> UnixMillis {
    let lives = now.0.saturating_add(claim_ttl_ms);
    let latest = work.claim.as_ref().map(|claim| claim.deadline.0.saturating_add(GRACE_MS));
    UnixMillis(latest.map_or(lives, |latest| lives.min(latest)))
}

#[cfg(test)]
mod tests;
