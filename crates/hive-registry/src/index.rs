//! Who has what: the agents of each capability and label, in tiers of equal rank.
//!
//! Each agent knows its place in every tier, so it is put in, moved and taken out in constant time, and a tier can be
//! drawn from as from a hat. Names are numbers here: whether an agent has all that a question names is a few comparisons.

use crate::discovery::Rank;
use slab::Slab;
use std::collections::HashMap;
use std::sync::Arc;

/// Where an agent lies in the directory.
pub(crate) type Slot = usize;

/// A thing that an agent has, by its kind and name.
pub(crate) type Term<'a> = (Kind, &'a str);

/// What kind of thing agents have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    AgentType,
    Capability,
    Cluster,
    Namespace,
    Owner,
    SecurityLevel,
    Version,
}

const KINDS: usize = 7;
/// The posting of every agent: what each has.
const EVERYBODY: TermId = TermId(0);

/// The number of a term, as long as somebody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TermId(u32);

impl TermId {
    fn at(self) -> usize {
        self.0 as usize
    }
}

/// The index.
#[derive(Debug)]
pub(crate) struct Index {
    terms: [HashMap<Arc<str>, TermId>; KINDS],
    postings: Slab<Posting>,
    rows: Vec<Row>,
}

/// The agents that have one thing. No tier is empty.
#[derive(Debug)]
struct Posting {
    kind: Kind,
    name: Arc<str>,
    /// The best first.
    tiers: Vec<(Rank, Vec<u32>)>,
    len: usize,
}

/// What one agent has, and how it ranks.
#[derive(Debug, Default)]
struct Row {
    rank: Rank,
    /// In the order of their terms.
    places: Box<[Place]>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    term: TermId,
    /// In the tier of the agent's rank.
    at: u32,
}

/// Terms that an agent must have, all of them.
#[derive(Debug)]
pub(crate) struct Question {
    wanted: Vec<TermId>,
    narrowest: TermId,
}

impl Default for Index {
    fn default() -> Self {
        let mut postings = Slab::new();
        // The first key is 0; the kind and the name are nobody's.
        postings.insert(Posting::new(Kind::AgentType, "".into()));
        Self { terms: Default::default(), postings, rows: Vec::new() }
    }
}

impl Index {
    /// The agent at `slot`, which is new, ranks like this and has these terms, each once.
    pub(crate) fn insert<'a>(
        &mut self,
        slot: Slot,
        rank: Rank,
        terms: impl Iterator<Item = Term<'a>>,
    ) {
        let mut ids = vec![EVERYBODY];
        ids.extend(terms.map(|term| self.intern(term)));
        ids.sort_unstable();
        let place = |term: TermId| Place { term, at: self.postings[term.at()].push(rank, slot) };
        let places = ids.into_iter().map(place).collect();
        if self.rows.len() <= slot {
            self.rows.resize_with(slot + 1, Row::default);
        }
        self.rows[slot] = Row { rank, places };
    }

    /// The agent at `slot` is gone.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let Row { rank, places } = std::mem::take(&mut self.rows[slot]);
        for place in &places {
            self.take_out(rank, *place);
            let posting = &self.postings[place.term.at()];
            if posting.len == 0 && place.term != EVERYBODY {
                let Posting { kind, name, .. } = self.postings.remove(place.term.at());
                self.terms[kind as usize].remove(&name);
            }
        }
    }

    /// The agent at `slot` ranks like this from now on.
    pub(crate) fn rank(&mut self, slot: Slot, rank: Rank) {
        let was = std::mem::replace(&mut self.rows[slot].rank, rank);
        if was == rank {
            return;
        }
        for number in 0..self.rows[slot].places.len() {
            let place = self.rows[slot].places[number];
            self.take_out(was, place);
            let at = self.postings[place.term.at()].push(rank, slot);
            self.rows[slot].places[number].at = at;
        }
    }

    /// How many agents have this.
    pub(crate) fn count(&self, (kind, name): Term<'_>) -> usize {
        let term = self.terms[kind as usize].get(name);
        term.map_or(0, |term| self.postings[term.at()].len)
    }

    /// A question for agents that have all of these; `None` if nobody has one of them.
    pub(crate) fn question<'a>(&self, terms: impl Iterator<Item = Term<'a>>) -> Option<Question> {
        let mut wanted = Vec::new();
        for (kind, name) in terms {
            wanted.push(*self.terms[kind as usize].get(name)?);
        }
        let narrowest = wanted.iter().min_by_key(|term| self.postings[term.at()].len);
        Some(Question { narrowest: narrowest.copied().unwrap_or(EVERYBODY), wanted })
    }

    /// Among how many agents a question is decided.
    pub(crate) fn candidates(&self, question: &Question) -> usize {
        self.postings[question.narrowest.at()].len
    }

    /// Those agents, in tiers, the best first.
    pub(crate) fn tiers(&self, question: &Question) -> impl Iterator<Item = (Rank, &[u32])> {
        let posting = &self.postings[question.narrowest.at()];
        posting.tiers.iter().map(|(rank, slots)| (*rank, &**slots))
    }

    /// Whether the agent at `slot` has all that is asked for.
    pub(crate) fn has_all(&self, slot: Slot, question: &Question) -> bool {
        let places = &self.rows[slot].places;
        let has = |term: &TermId| places.binary_search_by_key(term, |place| place.term).is_ok();
        question.wanted.iter().all(has)
    }

    fn intern(&mut self, (kind, name): Term<'_>) -> TermId {
        if let Some(term) = self.terms[kind as usize].get(name) {
            return *term;
        }
        let name: Arc<str> = name.into();
        let posting = Posting::new(kind, Arc::clone(&name));
        // There are fewer terms than bytes of memory that hold them.
        let term = TermId(self.postings.insert(posting) as u32);
        self.terms[kind as usize].insert(name, term);
        term
    }

    /// Takes an agent out of a tier. The last of that tier takes its place, and is told.
    fn take_out(&mut self, rank: Rank, place: Place) {
        let Some(moved) = self.postings[place.term.at()].take_out(rank, place.at) else { return };
        let places = &mut self.rows[moved as usize].places;
        if let Ok(number) = places.binary_search_by_key(&place.term, |place| place.term) {
            places[number].at = place.at;
        }
    }
}

impl Posting {
    fn new(kind: Kind, name: Arc<str>) -> Self {
        Self { kind, name, tiers: Vec::new(), len: 0 }
    }

    /// Puts an agent into a tier, and says where.
    fn push(&mut self, rank: Rank, slot: Slot) -> u32 {
        self.len += 1;
        let tier = match self.tiers.binary_search_by_key(&rank, |(rank, _)| *rank) {
            Ok(tier) => tier,
            Err(tier) => {
                self.tiers.insert(tier, (rank, Vec::new()));
                tier
            }
        };
        let slots = &mut self.tiers[tier].1;
        // The registry holds far fewer agents than a u32 counts.
        slots.push(slot as u32);
        slots.len() as u32 - 1
    }

    /// Takes out the agent at this place, and says which one lies there now instead.
    fn take_out(&mut self, rank: Rank, at: u32) -> Option<u32> {
        let tier = self.tiers.binary_search_by_key(&rank, |(rank, _)| *rank).ok()?;
        let slots = &mut self.tiers[tier].1;
        slots.swap_remove(at as usize);
        self.len -= 1;
        let moved = slots.get(at as usize).copied();
        if slots.is_empty() {
            self.tiers.remove(tier);
        }
        moved
    }
}

#[cfg(test)]
mod tests;
