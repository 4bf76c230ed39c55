//! Pages, against a look at every agent.

use super::*;
use crate::agent::{Standing, tests::agent};
use hive_api::registry::AgentFilter;
use std::collections::HashMap;

/// Enough that a look at all takes several pages.
const AGENTS: u64 = 3 * LOOKED_AT_MAX as u64;
/// Multiples of it are spread over all identifiers.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// One agent in a thousand is in the namespace `rare`, and one in two thousand has the metadata `zone=b`.
fn fleet() -> Directory {
    let mut directory = Directory::default();
    for number in 0..AGENTS {
        let id = AgentId::from_random(u128::from(number).wrapping_mul(SPREAD));
        let mut member = Agent { id, ..agent(Standing::Healthy) };
        if number % 1_000 == 7 {
            member.registration.namespace = "rare".into();
        }
        if number % 2_000 == 7 {
            member.registration.metadata = [("zone".into(), "b".into())].into();
        }
        directory.put(Arc::new(member), Revision(number + 1));
    }
    directory
}

fn filter(typed: AgentFilter) -> Filter {
    Filter::read(Some(typed), HashMap::new()).expect("within bounds")
}

/// All pages, and how many there were.
fn read(directory: &Directory, filter: &Filter, max: usize) -> (Vec<AgentId>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = directory.page(filter, after, max);
        assert!(page.agents.len() <= max);
        all.extend(page.agents.iter().map(|known| known.agent.id));
        pages += 1;
        assert!(pages < 10_000, "the pages come to an end");
        after = page.next;
        if after.is_none() {
            return (all, pages);
        }
    }
}

#[test]
fn pages_tell_each_agent_once_and_in_order() {
    let directory = fleet();
    let rare = || AgentFilter { namespace: "rare".into(), ..AgentFilter::default() };
    let zone = [("zone".to_owned(), "b".to_owned())];
    let filters = [
        filter(AgentFilter::default()),
        filter(rare()),
        filter(AgentFilter { metadata: zone.clone().into(), ..AgentFilter::default() }),
        filter(AgentFilter { metadata: zone.into(), ..rare() }),
        filter(AgentFilter { namespace: "nowhere".into(), ..AgentFilter::default() }),
    ];
    for filter in &filters {
        let meant = directory.agents().filter(|known| filter.admits(&known.agent));
        let expected: Vec<AgentId> = meant.map(|known| known.agent.id).collect();
        for max in [1, 2, 256, 100_000] {
            if expected.len() / max < 1_000 {
                assert_eq!(read(&directory, filter, max).0, expected, "{filter:?}, {max} at once");
            }
        }
    }
}

#[test]
fn a_label_that_few_have_needs_no_look_at_the_others() {
    let directory = fleet();
    let rare = filter(AgentFilter { namespace: "rare".into(), ..AgentFilter::default() });
    assert_eq!(directory.discover(&rare, 1, 0).candidates, 7);
    assert_eq!(read(&directory, &rare, 256).1, 1, "one page");
    let zone = AgentFilter {
        metadata: [("zone".to_owned(), "b".to_owned())].into(),
        ..AgentFilter::default()
    };
    assert_eq!(read(&directory, &filter(zone), 256).1, 3, "no page looks at too many");
}
