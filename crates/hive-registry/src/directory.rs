//! Every agent, folded from what the store says, and what heartbeats have said since.

use crate::agent::{Agent, AgentId, Pulse};
use crate::census::{Census, Counts};
use crate::discovery::{self, Rank};
use crate::filter::Filter;
use crate::index::{Index, Kind, Question, Slot};
use crate::store::Revision;
use hive_api::registry::AgentInfo;
use slab::Slab;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// Agents that are looked at for one page at most: the registry waits meanwhile.
const LOOKED_AT_MAX: usize = 2_048;

/// The agents, by identifier and by what they have.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    slots: HashMap<AgentId, Slot>,
    /// For pages.
    order: BTreeSet<AgentId>,
    known: Slab<Known>,
    index: Index,
    census: Census,
}

/// An agent, as the store has it, and its pulse, as its home has it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) agent: Arc<Agent>,
    pub(crate) revision: Revision,
    pub(crate) pulse: Pulse,
}

/// Some agents, in the order of their identifiers.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) agents: Vec<Known>,
    /// The agents behind this one were not looked at; `None` after the last page.
    pub(crate) next: Option<AgentId>,
}

/// What a question finds.
#[derive(Debug, Default)]
pub(crate) struct Found<'a> {
    /// In the order in which they are offered.
    pub(crate) best: Vec<&'a Known>,
    /// Among how many agents it was decided.
    pub(crate) candidates: usize,
}

impl Known {
    /// The agent as callers see it.
    pub(crate) fn info(&self) -> AgentInfo {
        self.agent.info(&self.pulse, self.revision.0)
    }

    fn rank(&self) -> Rank {
        Rank::of(self.agent.standing, &self.pulse)
    }
}

impl Directory {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many agents `owner` has.
    pub(crate) fn owned_by(&self, owner: &str) -> usize {
        self.index.count((Kind::Owner, owner))
    }

    /// How many there are of each kind, without a look at any.
    pub(crate) fn counts(&self) -> Counts {
        self.census.counts()
    }

    pub(crate) fn agent(&self, id: AgentId) -> Option<&Known> {
        self.slots.get(&id).map(|slot| &self.known[*slot])
    }

    /// Every agent, in the order of identifiers.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &Known> {
        self.order.iter().filter_map(|id| self.agent(*id))
    }

    /// At most `max` agents behind `after` that pass the filter. There may be fewer on a page that is not the last:
    /// each looks at so many agents only.
    pub(crate) fn page(&self, filter: &Filter, after: Option<AgentId>, max: usize) -> Page {
        let Some(question) = self.index.question(filter.terms()) else { return Page::default() };
        let few = self.index.candidates(&question) <= LOOKED_AT_MAX;
        if few {
            let tiers = self.index.tiers(&question).flat_map(|(_, slots)| slots);
            let mut candidates: Vec<(AgentId, Slot)> = tiers
                .map(|slot| (self.known[*slot as usize].agent.id, *slot as usize))
                .filter(|(id, _)| after.is_none_or(|after| *id > after))
                .collect();
            candidates.sort_unstable();
            self.admitted(filter, &question, candidates.into_iter(), max)
        } else {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let candidates = self.order.range((from, Bound::Unbounded));
            let candidates = candidates.map(|id| (*id, self.slots[id]));
            self.admitted(filter, &question, candidates, max)
        }
    }

    /// The first of these that the filter lets through.
    fn admitted(
        &self,
        filter: &Filter,
        question: &Question,
        mut candidates: impl Iterator<Item = (AgentId, Slot)>,
        max: usize,
    ) -> Page {
        let mut page = Page::default();
        for (id, slot) in candidates.by_ref().take(LOOKED_AT_MAX) {
            page.agents.extend(self.admit(filter, question, slot).cloned());
            if page.agents.len() >= max {
                page.next = Some(id);
                return page;
            }
            page.next = Some(id);
        }
        if candidates.next().is_none() {
            page.next = None;
        }
        page
    }

    fn admit(&self, filter: &Filter, question: &Question, slot: Slot) -> Option<&Known> {
        // The agent itself lies somewhere else, and its names in many places: it is looked at only if it has to be.
        let known = self.index.has_all(slot, question).then(|| &self.known[slot]);
        known.filter(|known| filter.is_terms_alone() || filter.admits(&known.agent))
    }

    /// The store has this record now. Returns the one before it.
    pub(crate) fn put(&mut self, agent: Arc<Agent>, revision: Revision) -> Option<Arc<Agent>> {
        let id = agent.id;
        let before = self.remove(id);
        // A heartbeat may have come after the decision that this record reports, within the same second.
        let newer = |old: &Known| old.pulse.last_seen >= agent.pulse.last_seen;
        let pulse = before.as_ref().filter(|old| newer(old)).map_or(agent.pulse, |old| old.pulse);
        let known = Known { agent, revision, pulse };
        let entry = self.known.vacant_entry();
        self.index.insert(entry.key(), known.rank(), known.agent.terms());
        self.slots.insert(id, entry.key());
        self.order.insert(id);
        self.census.enter(&known);
        entry.insert(known);
        before.map(|before| before.agent)
    }

    /// The store has no such record any more. Returns the last one.
    pub(crate) fn remove(&mut self, id: AgentId) -> Option<Known> {
        let slot = self.slots.remove(&id)?;
        self.order.remove(&id);
        self.index.remove(slot);
        let known = self.known.remove(slot);
        self.census.leave(&known);
        Some(known)
    }

    /// The agent was heard.
    pub(crate) fn beat(&mut self, id: AgentId, pulse: Pulse) -> Option<&Known> {
        let slot = *self.slots.get(&id)?;
        let known = &mut self.known[slot];
        self.census.beat(known, &pulse);
        known.pulse = pulse;
        self.index.rank(slot, known.rank());
        Some(known)
    }

    /// The best `limit` agents that have the filter's capabilities and pass it; chance decides between equals.
    pub(crate) fn discover(&self, filter: &Filter, limit: usize, chance: u64) -> Found<'_> {
        let Some(question) = self.index.question(filter.terms()) else { return Found::default() };
        let tiers = self.index.tiers(&question).take_while(|(rank, _)| rank.is_offered());
        let best = discovery::best(tiers.map(|(_, equals)| equals), limit, chance, |slot| {
            self.admit(filter, &question, slot as usize)
        });
        Found { best, candidates: self.index.candidates(&question) }
    }
}

#[cfg(test)]
mod tests;
