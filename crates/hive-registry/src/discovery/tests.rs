//! Discovery over a small fleet.

use super::*;
use crate::agent::{Agent, tests::agent};
use crate::store::Revision;
use hive_api::registry::{AgentFilter, AgentTelemetry};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A fleet in which each agent's name is its instance key.
fn fleet(members: &[(&str, &[&str], Standing, Option<f64>)]) -> Directory {
    let mut directory = Directory::default();
    for (number, (name, capabilities, standing, rate)) in members.iter().enumerate() {
        let telemetry = rate.map(|success_rate| AgentTelemetry {
            success_rate,
            total_executions: 10,
            ..AgentTelemetry::default()
        });
        let mut member = Agent {
            id: AgentId::from_random((number as u128).wrapping_mul(SPREAD)),
            pulse: Pulse { last_seen: 1, telemetry },
            ..agent(*standing)
        };
        member.registration.instance_key = (*name).into();
        member.registration.capabilities =
            crate::agent::sorted(capabilities.iter().map(|name| (*name).into()));
        directory.put(Arc::new(member), Revision(number as u64 + 1));
    }
    directory
}

fn wanting(capabilities: &[&str]) -> Filter {
    let names = capabilities.iter().map(ToString::to_string).collect();
    Filter::default().and_capabilities(names).expect("within bounds")
}

fn found(directory: &Directory, filter: &Filter, limit: usize, chance: u64) -> Vec<String> {
    let name = |known: &Known| known.agent.registration.instance_key.to_string();
    directory.discover(filter, limit, chance).best.into_iter().map(name).collect()
}

/// Multiples of it are spread over all identifiers.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

const BUILD: &[&str] = &["BUILD"];

#[test]
fn an_agent_needs_every_capability_asked_for() {
    let directory = fleet(&[
        ("one", BUILD, Standing::Healthy, None),
        ("both", &["BUILD", "TEST"], Standing::Healthy, None),
    ]);
    assert_eq!(found(&directory, &wanting(&["BUILD", "TEST"]), 5, 0), ["both"]);
    assert_eq!(found(&directory, &wanting(&["QUERY"]), 5, 0), [""; 0]);
    assert_eq!(found(&directory, &wanting(&[]), 5, 0).len(), 2);
}

#[test]
fn the_best_come_first_suspects_last_and_the_dead_never() {
    let directory = fleet(&[
        ("suspect", BUILD, Standing::Suspect, Some(1.0)),
        ("degraded", BUILD, Standing::Degraded, Some(0.45)),
        ("fair", BUILD, Standing::Healthy, Some(0.6)),
        ("failing", BUILD, Standing::Unhealthy, Some(0.1)),
        ("dead", BUILD, Standing::Dead, Some(1.0)),
        ("best", BUILD, Standing::Healthy, Some(0.99)),
        ("new", BUILD, Standing::Healthy, None),
    ]);
    for chance in 0..20 {
        let all = found(&directory, &wanting(BUILD), 9, chance);
        assert_eq!(all, ["best", "fair", "new", "degraded", "suspect"]);
        assert_eq!(found(&directory, &wanting(BUILD), 1, chance), ["best"]);
    }
}

#[test]
fn the_score_is_the_documented_sum() {
    let telemetry =
        Some(AgentTelemetry { success_rate: 0.8, total_executions: 5, ..Default::default() });
    let score = Score::of(Standing::Degraded, &Pulse { last_seen: 0, telemetry });
    assert!((score.total - (0.4 * 0.5 + 0.3 * 0.5 + 0.3 * 0.8)).abs() < 1e-9, "{score:?}");
    let untried = Score::of(Standing::Healthy, &Pulse::default());
    assert!((untried.total - (0.4 + 0.15 + 0.15)).abs() < 1e-9, "{untried:?}");
}

#[test]
fn load_spreads_over_equals() {
    let names: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
    let members: Vec<_> =
        names.iter().map(|name| (&**name, BUILD, Standing::Healthy, None)).collect();
    let directory = fleet(&members);
    let mut drawn: HashMap<String, u32> = HashMap::new();
    let mut chance = Chance(1);
    for _ in 0..20_000 {
        for name in found(&directory, &wanting(BUILD), 1, chance.next()) {
            *drawn.entry(name).or_default() += 1;
        }
    }
    assert_eq!(drawn.len(), 200, "each is drawn");
    let most = drawn.values().max().expect("some were drawn");
    assert!(*most < 400, "a hundred each would be even, and one has {most}");
}

#[test]
fn nobody_is_offered_twice() {
    let names: Vec<String> = (0..90).map(|number| format!("w{number}")).collect();
    let members: Vec<_> =
        names.iter().map(|name| (&**name, BUILD, Standing::Healthy, None)).collect();
    let directory = fleet(&members);
    let all: HashSet<String> = found(&directory, &wanting(BUILD), 500, 3).into_iter().collect();
    assert_eq!(all.len(), 90);
}

#[test]
fn better_telemetry_moves_an_agent_up_and_a_dead_one_out() {
    let mut directory = fleet(&[
        ("a", BUILD, Standing::Healthy, Some(0.6)),
        ("b", BUILD, Standing::Healthy, Some(0.7)),
    ]);
    assert_eq!(found(&directory, &wanting(BUILD), 1, 0), ["b"]);
    let telemetry = AgentTelemetry { success_rate: 1.0, total_executions: 9, ..Default::default() };
    let first = AgentId::from_random(0);
    directory.beat(first, Pulse { last_seen: 2, telemetry: Some(telemetry) });
    assert_eq!(found(&directory, &wanting(BUILD), 5, 0), ["a", "b"]);
    let dead = Agent {
        standing: Standing::Dead,
        ..(*directory.agent(first).expect("known").agent).clone()
    };
    directory.put(Arc::new(dead), Revision(9));
    assert_eq!(found(&directory, &wanting(BUILD), 5, 0), ["b"]);
    directory.remove(first);
    assert_eq!((directory.len(), directory.owned_by("spiffe://example.org/w")), (1, 1));
}

#[test]
fn an_explanation_says_why_and_why_not() {
    let directory = fleet(&[
        ("chosen", BUILD, Standing::Healthy, Some(0.9)),
        ("worse", BUILD, Standing::Healthy, Some(0.8)),
        ("dead", BUILD, Standing::Dead, None),
        ("failing", BUILD, Standing::Unhealthy, Some(0.1)),
        ("unable", &["TEST"], Standing::Healthy, None),
    ]);
    let filter = wanting(BUILD);
    let explained = explain(&directory, &filter, &directory.discover(&filter, 1, 0).best);
    let whys: Vec<&str> = explained.iter().map(|one| &*one.why_not).collect();
    assert_eq!(whys.first(), Some(&""));
    for reason in ["others are better", "not been heard", "executions failed", "cannot BUILD"] {
        let times = whys.iter().filter(|why| why.contains(reason)).count();
        assert_eq!(times, 1, "{reason} in {whys:?}");
    }
    assert!((explained[0].score - 0.82).abs() < 1e-9, "{explained:?}");
}

#[test]
fn no_number_means_five_and_a_negative_one_is_refused() {
    assert_eq!(limit(0), Ok(5));
    assert_eq!(limit(3), Ok(3));
    assert_eq!(limit(i32::MAX), Ok(RESULTS_MAX));
    assert!(limit(-1).is_err_and(|refused| refused.to_string().starts_with("max_results: ")));
}

#[test]
fn typed_filters_and_the_map_narrow_alike() {
    let directory = fleet(&[("a", BUILD, Standing::Healthy, None)]);
    let typed = |filter: AgentFilter| Filter::read(Some(filter), HashMap::new()).expect("valid");
    let named = |name: &str, value: &str| {
        let map = [(name.to_owned(), value.to_owned())].into();
        Filter::read(None, map).expect("valid")
    };
    let namespace =
        |name: &str| typed(AgentFilter { namespace: name.into(), ..Default::default() });
    assert_eq!(found(&directory, &namespace("n"), 5, 0), ["a"]);
    assert_eq!(found(&directory, &namespace("m"), 5, 0), [""; 0]);
    assert_eq!(found(&directory, &named("namespace", "n"), 5, 0), ["a"]);
    assert_eq!(found(&directory, &named("agent_type", "scout"), 5, 0), ["a"]);
    assert_eq!(found(&directory, &named("agent_type", "guard"), 5, 0), [""; 0]);
    assert_eq!(found(&directory, &named("status", "HEALTHY"), 5, 0), ["a"]);
    assert_eq!(found(&directory, &named("security_level", "INTERNAL"), 5, 0), ["a"]);
    assert_eq!(found(&directory, &named("security_level", "SECRET"), 5, 0), [""; 0]);
}
