//! Discovery over a small fleet.

use super::*;
use crate::registration::tests::{World, able, successful, worker};
use hive_api::registry::RegisterRequest;

fn found(world: &World, capabilities: &[&str], filters: &Filters, limit: usize) -> Vec<String> {
    let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    let agents = discover(world.directory.agents(world.now()), &capabilities, filters, limit);
    let name = |agent: &Agent| agent.owner.to_string().rsplit('/').next().map(str::to_owned);
    agents.into_iter().filter_map(|(agent, _)| name(agent)).collect()
}

fn fleet(members: &[(&str, &[&str], Option<f64>)]) -> World {
    let mut world = World::new();
    for (name, capabilities, rate) in members {
        let request = RegisterRequest { telemetry: rate.map(successful), ..able(capabilities) };
        world.register(&worker(name), request).expect("it is well-formed");
    }
    world
}

#[test]
fn an_agent_needs_every_capability_asked_for() {
    let world = fleet(&[("one", &["BUILD"], None), ("both", &["BUILD", "TEST"], None)]);
    assert_eq!(found(&world, &["BUILD", "TEST"], &Filters::default(), 5), ["both"]);
    assert_eq!(found(&world, &["QUERY"], &Filters::default(), 5), [""; 0]);
    assert_eq!(found(&world, &[], &Filters::default(), 5).len(), 2);
}

#[test]
fn the_healthy_come_first_then_the_more_successful() {
    let kinds: &[&str] = &["BUILD"];
    let world = fleet(&[
        ("degraded", kinds, Some(0.45)),
        ("fair", kinds, Some(0.6)),
        ("failing", kinds, Some(0.1)),
        ("best", kinds, Some(0.99)),
        ("new", kinds, None),
    ]);
    assert_eq!(found(&world, kinds, &Filters::default(), 5), ["best", "fair", "new", "degraded"]);
    assert_eq!(found(&world, kinds, &Filters::default(), 1), ["best"]);
}

#[test]
fn filters_match_labels_exactly() {
    let mut world = fleet(&[("here", &["BUILD"], None)]);
    let request = RegisterRequest { namespace: "team-b".to_owned(), ..able(&["BUILD"]) };
    world.register(&worker("there"), request).expect("it is well-formed");
    let filters = |name: &str, value: &str| {
        Filters::parse([(name.to_owned(), value.to_owned())].into()).expect("a known filter")
    };
    assert_eq!(found(&world, &["BUILD"], &filters("namespace", "team-b"), 5), ["there"]);
    assert_eq!(found(&world, &["BUILD"], &filters("namespace", "team"), 5), [""; 0]);
    assert_eq!(found(&world, &["BUILD"], &filters("cluster", "local"), 5).len(), 2);
    assert_eq!(found(&world, &["BUILD"], &filters("version", "2.0.0"), 5).len(), 0);
}

#[test]
fn an_unknown_filter_is_refused() {
    let refused = Filters::parse([("colour".to_owned(), "red".to_owned())].into());
    assert!(matches!(refused, Err(Refused::Malformed(text)) if text.contains("\"colour\"")));
}

#[test]
fn no_number_means_five_and_a_negative_one_is_refused() {
    assert_eq!(limit(0), Ok(5));
    assert_eq!(limit(3), Ok(3));
    assert_eq!(limit(i32::MAX), Ok(MAX_RESULTS));
    assert!(limit(-1).is_err());
}
