//! Every agent, folded from what the store says, and what heartbeats have said since.

use crate::agent::{Agent, AgentId, Pulse};
use crate::discovery::{self, Rank};
use crate::filter::Filter;
use crate::store::Revision;
use hive_api::registry::AgentInfo;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// Agents that are ready to be offered, the best first.
type Ranking = BTreeSet<(Rank, AgentId)>;

/// The agents, by identifier and by capability.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    agents: BTreeMap<AgentId, Known>,
    by_capability: HashMap<Box<str>, Ranking>,
    ranking: Ranking,
    by_owner: HashMap<Arc<str>, usize>,
}

/// An agent, as the store has it, and its pulse, as its home has it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) agent: Arc<Agent>,
    pub(crate) revision: Revision,
    pub(crate) pulse: Pulse,
}

impl Known {
    /// The agent as callers see it.
    pub(crate) fn info(&self) -> AgentInfo {
        self.agent.info(&self.pulse, self.revision.0)
    }

    fn rank(&self) -> Option<Rank> {
        Rank::of(self.agent.standing, &self.pulse)
    }
}

impl Directory {
    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }

    /// How many agents `owner` has.
    pub(crate) fn owned_by(&self, owner: &str) -> usize {
        self.by_owner.get(owner).copied().unwrap_or(0)
    }

    pub(crate) fn agent(&self, id: AgentId) -> Option<&Known> {
        self.agents.get(&id)
    }

    pub(crate) fn agents(&self) -> impl Iterator<Item = &Known> {
        self.agents.values()
    }

    /// The agents behind `after`, in the order of their identifiers.
    pub(crate) fn agents_after(&self, after: Option<AgentId>) -> impl Iterator<Item = &Known> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.agents.range((from, Bound::Unbounded)).map(|(_, known)| known)
    }

    /// The store has this record now. Returns the one before it.
    pub(crate) fn put(&mut self, agent: Arc<Agent>, revision: Revision) -> Option<Arc<Agent>> {
        let id = agent.id;
        let before = self.remove(id);
        // A heartbeat may have come after the decision that this record reports, within the same second.
        let newer = |old: &Known| old.pulse.last_seen >= agent.pulse.last_seen;
        let pulse = before.as_ref().filter(|old| newer(old)).map_or(agent.pulse, |old| old.pulse);
        *self.by_owner.entry(Arc::clone(&agent.owner)).or_default() += 1;
        let known = Known { agent, revision, pulse };
        self.rank(&known);
        self.agents.insert(id, known);
        before.map(|before| before.agent)
    }

    /// The store has no such record any more. Returns the last one.
    pub(crate) fn remove(&mut self, id: AgentId) -> Option<Known> {
        let known = self.agents.remove(&id)?;
        self.unrank(&known);
        if let Some(count) = self.by_owner.get_mut(&known.agent.owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(&known.agent.owner);
            }
        }
        Some(known)
    }

    /// The agent was heard.
    pub(crate) fn beat(&mut self, id: AgentId, pulse: Pulse) {
        let Some(known) = self.agents.get(&id) else { return };
        let (was, mut now) = (known.rank(), known.clone());
        now.pulse = pulse;
        if was != now.rank() {
            self.unrank(&known.clone());
            self.rank(&now);
        }
        self.agents.insert(id, now);
    }

    /// The best `limit` agents that have the filter's capabilities and pass it; chance decides between equals.
    pub(crate) fn discover(&self, filter: &Filter, limit: usize, chance: u64) -> Vec<&Known> {
        let Some(ranking) = self.narrowest(filter) else { return Vec::new() };
        discovery::best(ranking, limit, chance, |id| {
            let known = self.agents.get(&id)?;
            filter.admits(&known.agent).then_some(known)
        })
    }

    /// Among how many agents such a question is decided.
    pub(crate) fn candidates(&self, filter: &Filter) -> usize {
        self.narrowest(filter).map_or(0, BTreeSet::len)
    }

    /// The shortest ranking in which every agent that can be meant is; `None` if nobody has one of the capabilities.
    fn narrowest(&self, filter: &Filter) -> Option<&Ranking> {
        let mut narrowest = &self.ranking;
        for name in &filter.capabilities {
            let ranking = self.by_capability.get(name)?;
            if ranking.len() < narrowest.len() {
                narrowest = ranking;
            }
        }
        Some(narrowest)
    }

    fn rank(&mut self, known: &Known) {
        let Some(rank) = known.rank() else { return };
        let place = (rank, known.agent.id);
        self.ranking.insert(place);
        for name in &known.agent.registration.capabilities {
            match self.by_capability.get_mut(name) {
                Some(ranking) => _ = ranking.insert(place),
                None => _ = self.by_capability.insert(name.clone(), [place].into()),
            }
        }
    }

    fn unrank(&mut self, known: &Known) {
        let Some(rank) = known.rank() else { return };
        let place = (rank, known.agent.id);
        self.ranking.remove(&place);
        for name in &known.agent.registration.capabilities {
            let Some(ranking) = self.by_capability.get_mut(name) else { continue };
            ranking.remove(&place);
            if ranking.is_empty() {
                self.by_capability.remove(name);
            }
        }
    }
}
