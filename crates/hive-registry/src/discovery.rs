//! Who is offered first, and why.
//!
//! The score is `0.4 health + 0.3 pheromone + 0.3 telemetry`, each between 0 and 1:
//!
//! - *health*: 1 for a healthy agent, 0.5 for a degraded one, 0 for one that is suspected to be gone;
//! - *pheromone*: what others made of its work. Nothing tells the registry that, so it is 0.5, which means "unknown";
//! - *telemetry*: the share of its executions that succeeded, 0.5 if there were none.
//!
//! Suspects come after everybody else. Scores are compared in hundredths, and chance decides between equals, so that
//! load spreads over them. The unhealthy and the dead are never offered.

use crate::agent::{AgentId, Pulse, Standing};
use crate::bounds::Refused;
use crate::directory::{Directory, Known};
use crate::filter::Filter;
use hive_api::registry::Explanation;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Answers when the caller does not say how many (the predecessor's default).
const RESULTS_DEFAULT: usize = 5;
/// Answers at most: beyond this the message would outgrow what a gRPC client accepts by default (4 MiB).
const RESULTS_MAX: usize = 500;
/// Agents that are looked at, among equals, for each one that is offered: chance chooses among them.
const POOL_PER_RESULT: usize = 4;
const POOL_MIN: usize = 64;
/// Agents of which is said why they are not offered: enough to see the pattern.
const EXPLAINED_MAX: usize = 100;
const PHEROMONE_UNKNOWN: f64 = 0.5;

/// What makes a score, and the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Score {
    pub(crate) total: f64,
    pub(crate) health: f64,
    pub(crate) pheromone: f64,
    pub(crate) telemetry: f64,
}

impl Score {
    /// The score of an agent that stands like this and said this last.
    pub(crate) fn of(standing: Standing, pulse: &Pulse) -> Self {
        let health = match standing {
            Standing::Healthy => 1.0,
            Standing::Degraded => 0.5,
            Standing::Dead | Standing::Suspect | Standing::Unhealthy => 0.0,
        };
        let (pheromone, telemetry) = (PHEROMONE_UNKNOWN, pulse.success_rate());
        let total = 0.4 * health + 0.3 * pheromone + 0.3 * telemetry;
        Self { total, health, pheromone, telemetry }
    }
}

/// The place of an agent in every ranking: the smaller, the sooner it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(u8);

impl Rank {
    /// `None` for agents that are not offered.
    pub(crate) fn of(standing: Standing, pulse: &Pulse) -> Option<Self> {
        if !standing.is_discoverable() {
            return None;
        }
        // A score lies between 0 and 1, so this is 0 to 100.
        let hundredths = (Score::of(standing, pulse).total * 100.0).round() as u8;
        let suspects_last = if standing == Standing::Suspect { 101 } else { 0 };
        Some(Self(suspects_last + (100 - hundredths.min(100))))
    }
}

/// How many answers are wanted.
pub(crate) fn limit(max_results: i32) -> Result<usize, Refused> {
    match usize::try_from(max_results) {
        Ok(0) => Ok(RESULTS_DEFAULT),
        Ok(wanted) => Ok(wanted.min(RESULTS_MAX)),
        Err(_) => Err(Refused::malformed(
            "max_results",
            format!("{max_results} is negative; 0 means {RESULTS_DEFAULT}"),
        )),
    }
}

/// The first `limit` of a ranking that `admit` lets through. Among equals, `chance` decides.
pub(crate) fn best<'a, T>(
    ranking: &'a BTreeSet<(Rank, AgentId)>,
    limit: usize,
    chance: u64,
    admit: impl Fn(AgentId) -> Option<&'a T>,
) -> Vec<&'a T> {
    let mut found = Vec::new();
    let mut chance = Chance(chance);
    let mut rank = ranking.first().map(|(rank, _)| *rank);
    while let Some(equal) = rank.filter(|_| found.len() < limit) {
        let wanted = limit - found.len();
        let pool_max = POOL_MIN.max(wanted.saturating_mul(POOL_PER_RESULT));
        // Beginning somewhere in a large pool, and drawing from a part of it, costs the same however many there are.
        let middle = (equal, AgentId::from_random(chance.bits()));
        let later = ranking.range(middle..=(equal, AgentId::MAX));
        let earlier = ranking.range((equal, AgentId::MIN)..middle);
        let admitted = later.chain(earlier).filter_map(|(_, id)| admit(*id));
        let mut pool: Vec<&T> = admitted.take(pool_max).collect();
        while !pool.is_empty() && found.len() < limit {
            found.push(pool.swap_remove(chance.below(pool.len())));
        }
        let behind = (Bound::Excluded((equal, AgentId::MAX)), Bound::Unbounded);
        rank = ranking.range(behind).next().map(|(rank, _)| *rank);
    }
    found
}

/// Why each of `offered` is offered, and then why some of the others are not.
pub(crate) fn explain(
    directory: &Directory,
    filter: &Filter,
    offered: &[&Known],
) -> Vec<Explanation> {
    let chosen: BTreeSet<AgentId> = offered.iter().map(|known| known.agent.id).collect();
    let others = directory.agents().filter(|known| !chosen.contains(&known.agent.id));
    let why_not = |known: &Known| explanation(known, why_not(known, filter));
    let offered = offered.iter().map(|known| explanation(known, String::new()));
    offered.chain(others.take(EXPLAINED_MAX).map(why_not)).collect()
}

fn why_not(known: &Known, filter: &Filter) -> String {
    let standing = match known.agent.standing {
        Standing::Dead => Some("it has not been heard for too long"),
        Standing::Unhealthy => Some("too many of its executions failed"),
        Standing::Degraded | Standing::Healthy | Standing::Suspect => None,
    };
    let other = || filter.refuses(&known.agent);
    let reason = standing.map(str::to_owned).or_else(other);
    reason.unwrap_or_else(|| "others are better or were drawn; ask for more results".to_owned())
}

fn explanation(known: &Known, why_not: String) -> Explanation {
    let score = Score::of(known.agent.standing, &known.pulse);
    Explanation {
        agent_id: known.agent.id.to_string(),
        spiffe_id: known.agent.owner.to_string(),
        score: score.total,
        health: score.health,
        pheromone: score.pheromone,
        telemetry: score.telemetry,
        why_not,
    }
}

/// Numbers that look random, from one that is (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bits(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }

    /// A place among `count`, which is not 0.
    fn below(&mut self, count: usize) -> usize {
        // The remainder prefers some by a few parts in 2^50.
        (self.next() % count as u64) as usize
    }
}

#[cfg(test)]
mod tests;
