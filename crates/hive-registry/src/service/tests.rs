//! Before the fleet is known.

use super::*;
use crate::agent::ReplicaId;
use crate::liveness::Rules;
use crate::replica::Replica;
use crate::store::Memory;

/// A registry that has not read its store.
fn beginning() -> Registry {
    let me = ReplicaId::new("r1");
    let lease = Duration::from_secs(15);
    let rules = Rules::new(lease, Duration::from_secs(300));
    let replica = Replica::new(now().monotonic, me.clone(), rules, 10);
    let node = Node::new(replica, Arc::new(Memory::new(me, 10)));
    let desk = Arc::new(Desk::default());
    Registry { node, desk, others: None, lease, stop: CancellationToken::new() }
}

#[tokio::test]
async fn before_the_fleet_is_known_nobody_is_told_that_it_is_empty() {
    let registry = beginning();
    let agent_id = AgentId::from_random(1).to_string();
    let refused = [
        registry.discover_agents(Request::new(DiscoverAgentsRequest::default())).await.map(drop),
        registry.get_agent(Request::new(GetAgentRequest { agent_id })).await.map(drop),
        registry.list_agents(Request::new(ListAgentsRequest::default())).await.map(drop),
        registry.watch_agents(Request::new(WatchAgentsRequest::default())).await.map(drop),
    ];
    for refused in refused {
        let status = refused.expect_err("the store is not read");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let following = tokio::spawn(Arc::clone(&registry.node).follow());
    registry.node.folded().wait_for(Option::is_some).await.expect("it syncs");
    let listed = registry
        .list_agents(Request::new(ListAgentsRequest::default()))
        .await
        .expect("it is read now");
    assert_eq!(listed.into_inner().agents, []);
    following.abort();
}
