//! What is admitted, and what is no filter.

use super::*;
use crate::agent::tests::agent;

fn map(name: &str, value: &str) -> HashMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

#[test]
fn each_condition_of_a_typed_filter_keeps_others_out() {
    let agent = agent(Standing::Healthy);
    let pair = |value: &str| [("zone".to_owned(), value.to_owned())].into();
    let nothing = AgentFilter::default;
    let table = [
        (nothing(), true),
        (AgentFilter { agent_type: 2, ..nothing() }, true),
        (AgentFilter { agent_type: 1, ..nothing() }, false),
        (AgentFilter { namespace: "n".into(), ..nothing() }, true),
        (AgentFilter { namespace: "nn".into(), ..nothing() }, false),
        (AgentFilter { cluster: "c".into(), ..nothing() }, true),
        (AgentFilter { cluster: "d".into(), ..nothing() }, false),
        (AgentFilter { version: "1".into(), ..nothing() }, true),
        (AgentFilter { version: "2".into(), ..nothing() }, false),
        (AgentFilter { status: 1, ..nothing() }, true),
        (AgentFilter { status: 3, ..nothing() }, false),
        (AgentFilter { metadata: pair("a"), ..nothing() }, true),
        (AgentFilter { metadata: pair("b"), ..nothing() }, false),
        (AgentFilter { capabilities: vec!["TEST".into()], ..nothing() }, true),
        (AgentFilter { capabilities: vec!["TES".into()], ..nothing() }, false),
        (AgentFilter { spiffe_id: "spiffe://example.org/w".into(), ..nothing() }, true),
        (AgentFilter { spiffe_id: "spiffe://example.org/v".into(), ..nothing() }, false),
    ];
    for (typed, admitted) in table {
        let shown = format!("{typed:?}");
        let filter = Filter::read(Some(typed), HashMap::new()).expect("it is valid");
        assert_eq!(filter.admits(&agent), admitted, "{shown}");
    }
}

#[test]
fn the_maps_healthy_admits_the_degraded_and_the_typed_one_does_not() {
    let degraded = agent(Standing::Degraded);
    let named = Filter::read(None, map("status", "HEALTHY")).expect("valid");
    assert!(named.admits(&degraded));
    let typed = AgentFilter { status: AgentStatus::Healthy.into(), ..AgentFilter::default() };
    assert!(!Filter::read(Some(typed), HashMap::new()).expect("valid").admits(&degraded));
}

#[test]
fn what_is_no_filter_is_refused_by_name() {
    let nothing = AgentFilter::default;
    let typed = [
        (AgentFilter { agent_type: 9, ..nothing() }, "filter.agent_type: "),
        (AgentFilter { status: 4, ..nothing() }, "filter.status: "),
        (AgentFilter { namespace: "n".repeat(129), ..nothing() }, "filter.namespace: "),
        (AgentFilter { spiffe_id: "w".into(), ..nothing() }, "filter.spiffe_id: "),
        (AgentFilter { capabilities: vec!["a,b".into()], ..nothing() }, "filter.capabilities: "),
    ];
    for (filter, field) in typed {
        let refused = Filter::read(Some(filter), HashMap::new()).expect_err(field);
        assert!(refused.to_string().starts_with(field), "{refused}");
    }
    let maps =
        [("colour", "red"), ("status", "healthy"), ("agent_type", "robot"), ("agent_type", "")];
    for (name, value) in maps {
        let refused = Filter::read(None, map(name, value)).expect_err(name);
        assert!(refused.to_string().starts_with(&format!("filters[{name:?}]: ")), "{refused}");
    }
}

#[test]
fn two_filters_that_contradict_each_other_are_refused() {
    let typed = || Some(AgentFilter { namespace: "a".into(), agent_type: 1, ..Default::default() });
    assert!(Filter::read(typed(), map("namespace", "b")).is_err());
    assert!(Filter::read(typed(), map("agent_type", "scout")).is_err());
    assert!(Filter::read(typed(), map("namespace", "a")).is_ok());
    let filter = Filter::read(typed(), HashMap::new()).expect("valid");
    assert!(filter.clone().and_type(2).is_err());
    assert!(filter.and_type(1).is_ok());
}
