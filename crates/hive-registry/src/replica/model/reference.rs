//! What is right, by a look at each agent.

use crate::agent::Standing;
use crate::census::Counts;
use crate::directory::{Directory, Known};
use crate::discovery::Rank;
use crate::filter::Filter;

/// How the agents rank that may be offered, the best first.
pub(super) fn offered(directory: &Directory, filter: &Filter) -> Vec<Rank> {
    let meant = directory.agents().filter(|known| filter.admits(&known.agent));
    let mut ranks: Vec<Rank> = meant.map(rank).filter(|rank| rank.is_offered()).collect();
    ranks.sort();
    ranks
}

pub(super) fn rank(known: &Known) -> Rank {
    Rank::of(known.agent.standing, &known.pulse)
}

pub(super) fn counts(directory: &Directory) -> Counts {
    let mut counts = Counts::default();
    for Known { agent, .. } in directory.agents() {
        let kind = (agent.registration.agent_type, agent.standing.status());
        *counts.agents.entry(kind).or_default() += 1;
    }
    let living = directory.agents().filter(|known| known.agent.standing != Standing::Dead);
    counts.heard_first = living.map(|known| known.pulse.last_seen).min();
    counts
}

/// Near a threshold two standings are right, and the one that is nearer to what was stays.
pub(super) fn stands(before: Standing, rate: f64) -> Standing {
    let right = [
        (Standing::Healthy, rate >= 0.5),
        (Standing::Degraded, (0.3..0.55).contains(&rate)),
        (Standing::Unhealthy, rate < 0.35),
    ];
    let mut right = right.into_iter().filter(|(_, is)| *is).map(|(standing, _)| standing);
    let best = right.next().expect("one of them is right");
    match (before, right.next()) {
        (Standing::Degraded | Standing::Unhealthy, Some(worse)) => worse.min(before),
        _ => best,
    }
}
