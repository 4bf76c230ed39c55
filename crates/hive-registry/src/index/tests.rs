//! The index against a plain list.

use super::*;
use crate::agent::{Pulse, Standing};
use hive_api::registry::AgentTelemetry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What each slot has, and how it ranks.
type Reference = BTreeMap<Slot, (Rank, BTreeSet<&'static str>)>;

fn rank(random: &mut StdRng) -> Rank {
    let telemetry = AgentTelemetry {
        success_rate: random.random_range(0..4) as f64 / 4.0,
        total_executions: 1,
        ..AgentTelemetry::default()
    };
    let standing =
        [Standing::Healthy, Standing::Suspect, Standing::Dead][random.random_range(0..3)];
    Rank::of(standing, &Pulse { last_seen: 0, telemetry: Some(telemetry) })
}

fn capability(name: &'static str) -> Term<'static> {
    (Kind::Capability, name)
}

/// Every agent that a question finds, by rank.
fn answers(index: &Index, wanted: &[&'static str]) -> Vec<(Rank, BTreeSet<Slot>)> {
    let Some(question) = index.question(wanted.iter().copied().map(capability)) else {
        return Vec::new();
    };
    let having = |slots: &[u32]| {
        let slots = slots.iter().map(|slot| *slot as usize);
        slots.filter(|slot| index.has_all(*slot, &question)).collect::<BTreeSet<_>>()
    };
    let tiers = index.tiers(&question).map(|(rank, slots)| (rank, having(slots)));
    tiers.filter(|(_, slots)| !slots.is_empty()).collect()
}

fn expected(reference: &Reference, wanted: &[&'static str]) -> Vec<(Rank, BTreeSet<Slot>)> {
    let mut tiers: BTreeMap<Rank, BTreeSet<Slot>> = BTreeMap::new();
    for (slot, (rank, names)) in reference {
        if wanted.iter().all(|name| names.contains(name)) {
            tiers.entry(*rank).or_default().insert(*slot);
        }
    }
    tiers.into_iter().collect()
}

#[test]
fn whatever_happens_every_question_is_answered_as_by_a_look_at_each_agent() {
    let mut random = StdRng::seed_from_u64(1);
    let (mut index, mut reference) = (Index::default(), Reference::new());
    for _ in 0..3_000 {
        let slot = random.random_range(0..40);
        let new = rank(&mut random);
        match reference.get_mut(&slot) {
            Some((rank, _)) if random.random_bool(0.6) => {
                index.rank(slot, new);
                *rank = new;
            }
            Some(_) => {
                index.remove(slot);
                reference.remove(&slot);
            }
            None => {
                let names: BTreeSet<_> =
                    NAMES.into_iter().filter(|_| random.random_bool(0.4)).collect();
                index.insert(slot, new, names.iter().copied().map(capability));
                reference.insert(slot, (new, names));
            }
        }
        let wanted: Vec<_> = NAMES.into_iter().filter(|_| random.random_bool(0.3)).collect();
        assert_eq!(answers(&index, &wanted), expected(&reference, &wanted), "{wanted:?}");
        let with_a = reference.values().filter(|(_, names)| names.contains("a")).count();
        assert_eq!(index.count(capability("a")), with_a);
    }
}

#[test]
fn what_nobody_has_any_more_takes_no_room() {
    let mut index = Index::default();
    for round in 0..1_000 {
        let name = format!("version-{round}");
        index.insert(0, Rank::default(), [(Kind::Version, &*name)].into_iter());
        assert_eq!(index.count((Kind::Version, &name)), 1);
        assert_eq!(index.count((Kind::Namespace, &name)), 0, "a name of another kind");
        index.remove(0);
    }
    assert_eq!(index.postings.len(), 1, "everybody's alone");
    assert!(index.terms.iter().all(HashMap::is_empty));
    assert!(index.rows.len() <= 1);
}
