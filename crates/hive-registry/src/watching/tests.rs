//! Watches over a node with a store in memory, without sockets.

use super::*;
use crate::agent::{Agent, ReplicaId, Standing, tests::agent};
use crate::liveness::Rules;
use crate::replica::Replica;
use crate::store::{Change, Expected, Memory, Store};
use hive_api::registry::{AgentChangeEvent, AgentFilter, EventType};
use prost::Message;
use std::collections::HashMap;
use tonic::Code;

/// A node whose log keeps few events, and whose store keeps few more.
struct World {
    node: Arc<Node>,
    store: Memory,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

const LOG_MAX: usize = 20;
const CHANGES_MAX: usize = 50;

impl World {
    async fn start() -> Self {
        let me = ReplicaId::new("r1");
        let store = Memory::new(me.clone(), CHANGES_MAX);
        let rules = Rules::new(Duration::from_secs(15), Duration::from_secs(300));
        let replica = Replica::new(now().monotonic, me, rules, LOG_MAX);
        let node = Node::new(replica, Arc::new(store.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&node).follow());
        node.folded().wait_for(Option::is_some).await.expect("it syncs");
        Self { node, store, stop: CancellationToken::new(), tasks }
    }

    async fn put(&self, number: u128, standing: Standing) -> Revision {
        let agent = Agent { id: AgentId::from_random(number), ..agent(standing) };
        self.put_agent(&agent).await
    }

    async fn put_agent(&self, agent: &Agent) -> Revision {
        let (id, value) = (agent.id, agent.encode());
        let change = Change::Put { id, value, expected: Expected::Any };
        self.node.write(change).await.expect("the store accepts")
    }

    async fn watch(&self, filter: Filter, from: Option<Revision>) -> Result<Watching, Status> {
        Watching::begin(Arc::clone(&self.node), self.stop.clone(), filter, from).await
    }
}

async fn next(watching: &mut Watching) -> AgentChangeEvent {
    let event = tokio::time::timeout(Duration::from_secs(10), watching.next()).await;
    let encoded = event.expect("an event comes").expect("the watch goes on");
    AgentChangeEvent::decode(encoded).expect("it is an event")
}

/// Reads until the watch is in sync: what was told, and where that is.
async fn until_synced(watching: &mut Watching) -> (Vec<AgentChangeEvent>, Revision) {
    let mut told = Vec::new();
    loop {
        let event = next(watching).await;
        if event.event_type() == EventType::InSync {
            return (told, Revision(event.revision));
        }
        told.push(event);
    }
}

fn refused(begun: Result<Watching, Status>) -> Status {
    match begun {
        Ok(_) => panic!("it began"),
        Err(status) => status,
    }
}

#[tokio::test]
async fn a_snapshot_of_many_is_complete_while_changes_come() {
    let world = World::start().await;
    for number in 0..600 {
        world.put(number, Standing::Healthy).await;
    }
    let mut watching = world.watch(Filter::default(), None).await.expect("it begins");
    let first = next(&mut watching).await;
    assert!(first.snapshot && first.revision == 0, "{first:?}");
    world.put(1_000, Standing::Healthy).await;
    let (told, _) = until_synced(&mut watching).await;
    let ids: std::collections::HashSet<String> =
        told.into_iter().chain([first]).map(|event| event.agent.expect("one").agent_id).collect();
    let after = next_unless_known(&mut watching, &ids, 1_000).await;
    assert!(ids.len() >= 600 && after, "{} were told", ids.len());
}

/// Whether the agent was told, or is told next.
async fn next_unless_known(
    watching: &mut Watching,
    known: &std::collections::HashSet<String>,
    number: u128,
) -> bool {
    let wanted = AgentId::from_random(number).to_string();
    known.contains(&wanted) || next(watching).await.agent.is_some_and(|a| a.agent_id == wanted)
}

#[tokio::test]
async fn an_empty_fleet_is_in_sync_at_once() {
    let world = World::start().await;
    let mut watching = world.watch(Filter::default(), None).await.expect("it begins");
    assert_eq!(until_synced(&mut watching).await, (vec![], Revision(0)));
}

#[tokio::test]
async fn each_change_has_its_kind_and_its_revision() {
    let world = World::start().await;
    let mut watching = world.watch(Filter::default(), None).await.expect("it begins");
    until_synced(&mut watching).await;
    let revision = world.put(1, Standing::Healthy).await;
    let told = next(&mut watching).await;
    assert_eq!((told.event_type(), told.revision), (EventType::Updated, revision.0));
    let id = AgentId::from_random(1);
    let change = Change::Delete { id, expected: Expected::At(revision) };
    let revision = world.node.write(change).await.expect("it is there");
    let told = next(&mut watching).await;
    assert_eq!((told.event_type(), told.revision), (EventType::Deregistered, revision.0));
    assert_eq!(told.agent.map(|agent| agent.agent_type), Some(2), "it says what left");
}

#[tokio::test]
async fn an_agent_that_is_not_meant_any_more_leaves_the_watch() {
    let world = World::start().await;
    let healthy = AgentFilter { status: 1, ..AgentFilter::default() };
    let filter = Filter::read(Some(healthy), HashMap::new()).expect("it is valid");
    let mut watching = world.watch(filter.clone(), None).await.expect("it begins");
    let (_, start) = until_synced(&mut watching).await;
    world.put(1, Standing::Dead).await;
    world.put(2, Standing::Healthy).await;
    let told = next(&mut watching).await;
    assert!(!told.left, "the first was never meant: {told:?}");
    world.put(2, Standing::Dead).await;
    let told = next(&mut watching).await;
    assert!(told.left, "{told:?}");
    // Whoever resumes learns the same; of the other it hears nothing that it would keep.
    let mut resumed = world.watch(filter, Some(start)).await.expect("it resumes");
    let (told, _) = until_synced(&mut resumed).await;
    assert_eq!(told.last().map(|event| event.left), Some(true));
}

#[tokio::test]
async fn a_watch_resumes_from_the_log_and_from_the_store_and_then_goes_on() {
    let world = World::start().await;
    let mut revisions = Vec::new();
    for number in 0..40 {
        revisions.push(world.put(number, Standing::Healthy).await);
    }
    for (from, where_from) in [(35, "the log"), (5, "the store")] {
        let begun = world.watch(Filter::default(), Some(revisions[from])).await;
        let mut watching = begun.expect("it resumes");
        let (told, synced) = until_synced(&mut watching).await;
        let told: Vec<u64> = told.iter().map(|event| event.revision).collect();
        let missed: Vec<u64> = revisions[from + 1..].iter().map(|revision| revision.0).collect();
        assert_eq!(told, missed, "from {where_from}");
        assert_eq!(Some(&synced), revisions.last());
        let later = world.put(from as u128, Standing::Degraded).await;
        assert_eq!(next(&mut watching).await.revision, later.0);
        revisions.push(later);
    }
}

#[tokio::test]
async fn what_is_forgotten_or_still_to_come_is_out_of_range() {
    let world = World::start().await;
    for number in 0..100 {
        world.put(number, Standing::Healthy).await;
    }
    let forgotten = refused(world.watch(Filter::default(), Some(Revision(10))).await);
    assert_eq!(forgotten.code(), Code::OutOfRange);
    assert!(forgotten.message().starts_with("resume_revision: changes up to 50"), "{forgotten}");
    let future = refused(world.watch(Filter::default(), Some(Revision(101))).await);
    assert_eq!(future.code(), Code::OutOfRange);
    assert!(future.message().starts_with("resume_revision: 101 lies in the future"), "{future}");
}

#[tokio::test]
async fn a_replica_that_is_behind_does_not_call_the_present_the_future() {
    let mut world = World::start().await;
    world.tasks.shutdown().await;
    let agent = agent(Standing::Healthy);
    let change = Change::Put { id: agent.id, value: agent.encode(), expected: Expected::Any };
    let unseen = world.store.write(change).await.expect("the store accepts");
    let behind = refused(world.watch(Filter::default(), Some(unseen)).await);
    assert_eq!(behind.code(), Code::Unavailable, "{behind}");
}

#[tokio::test]
async fn a_slow_watch_is_told_where_to_resume_and_others_go_on() {
    let world = World::start().await;
    let mut slow = world.watch(Filter::default(), None).await.expect("it begins");
    let mut quick = world.watch(Filter::default(), None).await.expect("it begins");
    let (_, start) = until_synced(&mut slow).await;
    until_synced(&mut quick).await;
    for number in 0..30 {
        let revision = world.put(number, Standing::Healthy).await;
        assert_eq!(next(&mut quick).await.revision, revision.0);
    }
    let ended = slow.next().await.expect_err("it fell behind");
    assert_eq!(ended.code(), Code::ResourceExhausted);
    let resume = format!("resume_revision {start}");
    assert!(ended.message().ends_with(&resume), "{ended}");
    let mut resumed = world.watch(Filter::default(), Some(start)).await.expect("it resumes");
    assert_eq!(until_synced(&mut resumed).await.0.len(), 30);
}

#[tokio::test]
async fn when_history_is_lost_every_watch_begins_anew() {
    let mut world = World::start().await;
    let mut watching = world.watch(Filter::default(), None).await.expect("it begins");
    until_synced(&mut watching).await;
    // The feed stops, and when it is followed again the store has forgotten what came after its end.
    world.tasks.shutdown().await;
    for number in 0..(CHANGES_MAX as u128 + 1) {
        let agent = Agent { id: AgentId::from_random(number), ..agent(Standing::Healthy) };
        let (id, value) = (agent.id, agent.encode());
        let change = Change::Put { id, value, expected: Expected::Any };
        world.store.write(change).await.expect("the store accepts");
    }
    world.tasks.spawn(Arc::clone(&world.node).follow());
    let ended = watching.next().await.expect_err("it cannot know what it missed");
    assert_eq!(ended.code(), Code::OutOfRange);
    let mut anew = world.watch(Filter::default(), None).await.expect("it begins");
    assert_eq!(until_synced(&mut anew).await.0.len(), CHANGES_MAX + 1);
}
