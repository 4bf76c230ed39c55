//! Several replicas of the registry, as processes, on a real etcd of three nodes, and what kills some of them.

mod fleet;

use fleet::{Client, Fleet, Watcher, beat, list, register, until};
use hive_api::names::OPERATOR;
use hive_api::registry::{
    AgentChangeEvent, AgentInfo, AttendRequest, EventType, Liveness, Notification,
    NotifyAgentRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

/// Longer than a replica that died counts as present, so that whoever inherits without grace would be seen.
const SILENCE: Duration = Duration::from_secs(9);
/// How long a dead replica counts as present at least: its lease of ten seconds was renewed three seconds ago at most.
const PRESENT_LEAST: Duration = Duration::from_secs(6);
/// How often agents heartbeat here.
const BEAT: Duration = Duration::from_millis(500);

fn about<'a>(event: &'a AgentChangeEvent, id: &str) -> Option<&'a AgentInfo> {
    event.agent.as_ref().filter(|agent| agent.agent_id == id)
}

fn told(watcher: &Watcher) -> Vec<(u64, i32, String)> {
    let change = |(_, event): (Instant, AgentChangeEvent)| {
        let id = event.agent.map(|agent| agent.agent_id).unwrap_or_default();
        (event.revision, event.event_type, id)
    };
    watcher.changes().into_iter().map(change).collect()
}

/// Up to the last change that the first was told, no event is lost, and each comes once and in order.
async fn all_are_told_the_same(watchers: &[Watcher]) {
    let first = told(&watchers[0]);
    assert!(first.windows(2).all(|pair| pair[0].0 < pair[1].0), "{first:?}");
    let last = first.last().expect("there are some").0;
    for watcher in &watchers[1..] {
        watcher.until("it catches up", |event| event.revision >= last).await;
        let mut told = told(watcher);
        told.retain(|(revision, ..)| *revision <= last);
        assert_eq!(told, first);
    }
}

fn ids(agents: &[AgentInfo]) -> BTreeSet<String> {
    agents.iter().map(|agent| agent.agent_id.clone()).collect()
}

/// Agents that heartbeat, at the first of these replicas for as long as it answers, and then at the next.
struct Beating {
    agents: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Beating {
    fn begin(replicas: Vec<Client>, agents: Vec<String>) -> Self {
        let agents = Arc::new(Mutex::new(agents));
        let theirs = Arc::clone(&agents);
        let task = tokio::spawn(async move {
            let mut at = 0;
            loop {
                let agents = theirs.lock().expect("no panic").clone();
                match beat(&replicas[at % replicas.len()], &agents).await {
                    Ok(results) => {
                        let refused: Vec<_> = results.iter().filter(|one| one.code != 0).collect();
                        // One that registered elsewhere a moment ago may not be known here yet.
                        let lost =
                            refused.iter().any(|one| one.code != tonic::Code::NotFound as i32);
                        assert!(!lost, "{refused:?}");
                        sleep(BEAT).await;
                    }
                    Err(_) => at += 1,
                }
            }
        });
        Self { agents, task }
    }

    fn add(&self, agent: String) {
        self.agents.lock().expect("no panic").push(agent);
    }

    fn end(self) {
        assert!(!self.task.is_finished(), "an agent was refused");
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_at_one_replica_is_seen_at_all_others() {
    let fleet = Fleet::start(SILENCE).await;
    let clients = fleet.clients();
    let mut watchers = Vec::new();
    for client in &clients {
        watchers.push(Watcher::begin(vec![client.clone()]).await);
    }
    let (mut from_call, mut from_answer) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let at = number % clients.len();
        let called = Instant::now();
        let id = register(&clients[at], &format!("pod-{number}")).await;
        let answered = Instant::now();
        for (other, watcher) in watchers.iter().enumerate() {
            let seen = watcher.until("it is seen", |event| about(event, &id).is_some()).await;
            if other != at {
                from_call.push(seen - called);
                from_answer.push(seen.saturating_duration_since(answered));
            }
        }
    }
    print("seen elsewhere after the call", from_call);
    print("seen elsewhere after the answer", from_answer);
    all_are_told_the_same(&watchers).await;
    for client in &clients {
        assert_eq!(list(client).await.len(), 200);
    }
    fleet.stop().await;
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_takes_no_agent_and_no_event_with_it() {
    let mut fleet = Fleet::start(SILENCE).await;
    let clients = fleet.clients();
    let constant = Watcher::begin(vec![clients[1].clone()]).await;
    // It begins where it will be cut off.
    let moving = Watcher::begin(vec![clients[0].clone(), clients[2].clone()]).await;
    let (mut living, mut silent) = (Vec::new(), Vec::new());
    for number in 0..20 {
        living.push(register(&clients[0], &format!("living-{number}")).await);
    }
    // Fewer than what would be a mass.
    for number in 0..3 {
        silent.push(register(&clients[0], &format!("silent-{number}")).await);
    }
    let beating = Beating::begin(vec![clients[0].clone(), clients[2].clone()], living.clone());
    let offered = offered_always(clients[1].clone(), living.clone());

    let killed = Instant::now();
    fleet.replicas[0].kill();
    let mut registered = BTreeSet::new();
    for number in 0..20 {
        registered.insert(register(&clients[1], &format!("later-{number}")).await);
    }
    let all: BTreeSet<String> = living.iter().chain(&silent).chain(&registered).cloned().collect();
    assert_eq!(ids(&list(&clients[1]).await), all, "nobody is lost");
    registered.iter().for_each(|agent| beating.add(agent.clone()));

    for id in &silent {
        let is = |event: &AgentChangeEvent, liveness| {
            about(event, id).is_some_and(|agent| agent.liveness() == liveness)
        };
        constant.until("it is suspect", |event| is(event, Liveness::Suspect)).await;
        let died = constant.until("it dies", |event| is(event, Liveness::Dead)).await;
        assert!(died - killed >= PRESENT_LEAST + SILENCE, "{:?} is no grace", died - killed);
    }
    beating.end();
    offered.abort();
    assert!(offered.await.is_err_and(|ended| ended.is_cancelled()), "one was not offered");
    let heartbeating = living.iter().chain(&registered);
    for id in heartbeating {
        let dead = |event: &AgentChangeEvent| {
            about(event, id).is_some_and(|agent| agent.liveness() == Liveness::Dead)
        };
        assert!(!constant.changes().iter().any(|(_, event)| dead(event)), "{id} was heard");
    }
    all_are_told_the_same(&[constant, moving]).await;
    fleet.stop().await;
}

/// Asks again and again whether all of these are offered; ends only if one is not.
fn offered_always(client: Client, agents: Vec<String>) -> JoinHandle<()> {
    use hive_api::registry::DiscoverAgentsRequest;
    let wanted: BTreeSet<String> = agents.into_iter().collect();
    tokio::spawn(async move {
        loop {
            let capabilities = vec!["BUILD".to_owned()];
            let request =
                DiscoverAgentsRequest { capabilities, max_results: 100, ..Default::default() };
            let found = client.clone().discover_agents(request).await.expect("it answers");
            let missing: Vec<_> =
                wanted.difference(&ids(&found.into_inner().agents)).cloned().collect();
            assert!(missing.is_empty(), "{missing:?} are not offered");
            sleep(Duration::from_millis(50)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_etcds_leader_costs_no_registration_no_event_and_no_life() {
    let mut fleet = Fleet::start(SILENCE).await;
    let clients = fleet.clients();
    let mut watchers = Vec::new();
    for at in 0..clients.len() {
        let (before, from) = clients.split_at(at);
        watchers.push(Watcher::begin([from, before].concat()).await);
    }
    let beating: Vec<_> =
        clients.iter().map(|one| Beating::begin(vec![one.clone()], vec![])).collect();
    let mut registering = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for (at, client) in clients.iter().enumerate() {
        let (client, agents, stopped) =
            (client.clone(), Arc::clone(&beating[at].agents), stopped.clone());
        registering.spawn(async move {
            let mut acknowledged = BTreeMap::new();
            while !*stopped.borrow() {
                let key = format!("pod-{at}-{}", acknowledged.len());
                let called = Instant::now();
                let id = register(&client, &key).await;
                agents.lock().expect("no panic").push(id.clone());
                acknowledged.insert(id, called.elapsed());
                sleep(Duration::from_millis(100)).await;
            }
            acknowledged
        });
    }
    sleep(Duration::from_secs(2)).await;
    let leader = fleet.leader().await;
    fleet.etcd.kill(leader).await;
    // Agents would be dead by then, if their heartbeats or their replicas were not heard.
    sleep(2 * SILENCE).await;
    fleet.etcd.restart(leader).await.expect("it starts again");
    sleep(Duration::from_secs(2)).await;
    stop.send_replace(true);
    let mut acknowledged = BTreeMap::new();
    while let Some(one) = registering.join_next().await {
        acknowledged.extend(one.expect("no panic"));
    }
    println!(
        "{} registered; the slowest took {:?}",
        acknowledged.len(),
        acknowledged.values().max()
    );
    let all: BTreeSet<String> = acknowledged.into_keys().collect();
    for client in &clients {
        let listed = async || (ids(&list(client).await) == all).then_some(());
        until("everybody is known everywhere", listed).await;
    }
    beating.into_iter().for_each(Beating::end);
    for watcher in &watchers {
        for id in &all {
            watcher.until("it is told", |event| about(event, id).is_some()).await;
        }
        for (_, event) in watcher.changes() {
            let agent = event.agent.as_ref().expect("each has one");
            assert_ne!(event.event_type(), EventType::Deregistered, "{agent:?}");
            assert_ne!(agent.liveness(), Liveness::Dead, "{agent:?}");
        }
    }
    all_are_told_the_same(&watchers).await;
    fleet.stop().await;
}

/// An agent's stream: what it is told, each acknowledged at once.
async fn attend(client: &Client, agent_id: &str) -> mpsc::UnboundedReceiver<Notification> {
    let (say, said) = mpsc::channel(4);
    let first = AttendRequest { agent_id: agent_id.to_owned(), acknowledged: 0 };
    say.send(first).await.expect("room");
    let attended = client.clone().attend(ReceiverStream::new(said)).await;
    let mut notifications = attended.expect("it is its own").into_inner();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(notification)) = notifications.message().await {
            let acknowledged = notification.sequence;
            // The test may be over.
            _ = tell.send(notification);
            _ = say.send(AttendRequest { agent_id: String::new(), acknowledged }).await;
        }
    });
    told
}

async fn notify(client: &Client, agent_id: &str) -> Result<(), String> {
    let request = NotifyAgentRequest {
        agent_id: agent_id.to_owned(),
        notification_type: "drain".to_owned(),
        message: "soon".to_owned(),
        ..NotifyAgentRequest::default()
    };
    let answer = client.clone().notify_agent(request).await.expect("it is answered").into_inner();
    if answer.success { Ok(()) } else { Err(answer.error) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_reaches_an_agent_wherever_its_stream_is() {
    let mut fleet = Fleet::start(SILENCE).await;
    let clients = fleet.clients();
    let operator = fleet.operator(1).await;
    let id = register(&clients[0], "pod").await;
    until("it is known", async || (list(&clients[1]).await.len() == 1).then_some(())).await;
    let nowhere = notify(&operator, &id).await.expect_err("it attends nowhere");
    assert!(nowhere.contains("no open stream at any replica"), "{nowhere}");

    let mut told = attend(&clients[0], &id).await;
    until("it attends", async || notify(&operator, &id).await.ok()).await;
    let first = told.recv().await.expect("it is told");
    assert_eq!((&*first.notification_type, &*first.message), ("drain", "soon"));
    assert!(first.spiffe_id.ends_with(OPERATOR.path), "who sent it is told truly: {first:?}");
    // Its heartbeats go elsewhere, and so does its home; its stream stays.
    let homed = Watcher::begin(vec![clients[1].clone()]).await;
    beat(&clients[2], std::slice::from_ref(&id)).await.expect("it answers");
    homed.until("it moves", |event| !event.snapshot && about(event, &id).is_some()).await;
    assert_eq!(notify(&operator, &id).await, Ok(()));
    assert!(told.recv().await.is_some());
    assert!(told.try_recv().is_err(), "each is told once");

    fleet.replicas[0].kill();
    let lost = notify(&operator, &id).await.expect_err("its stream is gone");
    assert!(lost.contains("1 did not"), "{lost}");
    let mut told = attend(&clients[2], &id).await;
    until("it attends again", async || notify(&operator, &id).await.ok()).await;
    assert!(told.recv().await.is_some());
    fleet.stop().await;
}
