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
use std::collections::{BTreeSet, HashSet};

/// Answers when the caller does not say how many (the predecessor's default).
const RESULTS_DEFAULT: usize = 5;
/// Answers in one message at most: beyond this it would outgrow what a gRPC client accepts by default (4 MiB).
pub(crate) const RESULTS_MAX: usize = 500;
/// Draws from a tier for each answer that is wanted, and at least: if so many do not suffice, all of it is looked at.
const DRAWS_PER_RESULT: usize = 4;
const DRAWS_MIN: usize = 32;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(u8);

impl Rank {
    /// Of agents that are not offered.
    const NOT_OFFERED: Self = Self(u8::MAX);

    pub(crate) fn of(standing: Standing, pulse: &Pulse) -> Self {
        if !standing.is_discoverable() {
            return Self::NOT_OFFERED;
        }
        // A score lies between 0 and 1, so this is 0 to 100.
        let hundredths = (Score::of(standing, pulse).total * 100.0).round() as u8;
        let suspects_last = if standing == Standing::Suspect { 101 } else { 0 };
        Self(suspects_last + (100 - hundredths.min(100)))
    }

    /// Whether work may be given to an agent that ranks like this.
    pub(crate) fn is_offered(self) -> bool {
        self != Self::NOT_OFFERED
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

/// The first `limit` of those that `admit` lets through, tier by tier. Within a tier, `chance` decides.
pub(crate) fn best<'a, T>(
    tiers: impl Iterator<Item = &'a [u32]>,
    limit: usize,
    chance: u64,
    admit: impl Fn(u32) -> Option<&'a T>,
) -> Vec<&'a T> {
    let mut found = Vec::new();
    let mut chance = Chance(chance);
    for equals in tiers {
        let wanted = limit - found.len();
        if wanted == 0 {
            break;
        }
        let drawn = draw(equals, wanted, &mut chance, &admit);
        found.extend(drawn.unwrap_or_else(|| choose(equals, wanted, &mut chance, &admit)));
    }
    found
}

/// Draws until there are as many as are wanted; `None` if a reasonable number of draws does not bring them. It costs the
/// same however many equals there are.
fn draw<'a, T>(
    equals: &[u32],
    wanted: usize,
    chance: &mut Chance,
    admit: &impl Fn(u32) -> Option<&'a T>,
) -> Option<Vec<&'a T>> {
    let draws = DRAWS_MIN.max(wanted.saturating_mul(DRAWS_PER_RESULT));
    // Below this, most draws would be repeated ones.
    if equals.len() < draws.saturating_mul(2) {
        return None;
    }
    let mut drawn = HashSet::with_capacity(wanted);
    let mut found = Vec::with_capacity(wanted);
    for _ in 0..draws {
        let at = chance.below(equals.len());
        if drawn.insert(at) {
            found.extend(admit(equals[at]));
        }
        if found.len() == wanted {
            return Some(found);
        }
    }
    None
}

/// Chooses among all that `admit` lets through.
fn choose<'a, T>(
    equals: &[u32],
    wanted: usize,
    chance: &mut Chance,
    admit: &impl Fn(u32) -> Option<&'a T>,
) -> Vec<&'a T> {
    let mut admitted: Vec<&T> = equals.iter().filter_map(|slot| admit(*slot)).collect();
    let wanted = wanted.min(admitted.len());
    (0..wanted).map(|_| admitted.swap_remove(chance.below(admitted.len()))).collect()
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

    /// A place among `count`, which is not 0.
    fn below(&mut self, count: usize) -> usize {
        // The remainder prefers some by a few parts in 2^50.
        (self.next() % count as u64) as usize
    }
}

#[cfg(test)]
mod tests;
