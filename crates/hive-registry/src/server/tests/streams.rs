//! Watches and notifications on real wires.

use super::*;
use hive_api::registry::{
    AgentChangeEvent, AttendRequest, EventType, NotifyAgentRequest, WatchAgentsRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(10);

async fn next(events: &mut Streaming<AgentChangeEvent>) -> AgentChangeEvent {
    let event = tokio::time::timeout(DEADLINE, events.message()).await;
    event.expect("an event comes").expect("no error").expect("the watch goes on")
}

#[tokio::test]
async fn a_watch_tells_what_is_there_then_that_it_is_in_sync_and_then_each_change() {
    let mut stack = Stack::start().await;
    let first = stack.registered("a").await;
    let watch = stack.operator.watch_agents(WatchAgentsRequest::default()).await;
    let mut events = watch.expect("allowed").into_inner();
    let told = next(&mut events).await;
    assert!(told.snapshot && told.event_type() == EventType::Registered, "{told:?}");
    assert_eq!(told.agent.map(|agent| agent.agent_id), Some(first.clone()));
    let synced = next(&mut events).await;
    assert_eq!((synced.event_type(), synced.agent), (EventType::InSync, None));
    stack.worker.deregister(DeregisterRequest { agent_id: first }).await.expect("its own");
    let told = next(&mut events).await;
    assert_eq!(told.event_type(), EventType::Deregistered);
    assert!(told.revision > synced.revision);
    // Resuming, it is told what it missed and nothing else.
    drop(events);
    let second = stack.registered("b").await;
    let request = WatchAgentsRequest { resume_revision: told.revision, ..Default::default() };
    let watch = stack.operator.watch_agents(request).await;
    let mut events = watch.expect("allowed").into_inner();
    let told = next(&mut events).await;
    assert!(!told.snapshot, "{told:?}");
    assert_eq!(told.agent.map(|agent| agent.agent_id), Some(second));
    assert_eq!(next(&mut events).await.event_type(), EventType::InSync);
    // A registry that stops says where to go on.
    stack.stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, events.message()).await.expect("it ends in time");
    let ended = ended.expect_err("it stops");
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("resume_revision"), "{ended}");
    assert!(stack.served.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_notification_reaches_the_agent_or_is_said_not_to() {
    let mut stack = Stack::start().await;
    let agent_id = stack.registered("a").await;
    let notice = |agent_id: &str| NotifyAgentRequest {
        agent_id: agent_id.to_owned(),
        notification_type: "drain".to_owned(),
        message: "soon".to_owned(),
        ..Default::default()
    };
    let unheard = stack.operator.notify_agent(notice(&agent_id)).await.expect("it is answered");
    assert!(!unheard.get_ref().success && unheard.get_ref().error.contains("no open stream"));
    let unknown = "00000000-0000-4000-8000-000000000000";
    let unknown = stack.operator.notify_agent(notice(unknown)).await.expect("it is answered");
    assert!(!unknown.get_ref().success && unknown.get_ref().error.contains("no agent"));

    let (say, said) = mpsc::channel(4);
    say.send(AttendRequest { agent_id: agent_id.clone(), acknowledged: 0 }).await.expect("room");
    let attended = stack.worker.attend(ReceiverStream::new(said)).await.expect("it is its own");
    let mut notifications = attended.into_inner();
    let mut operator = stack.operator.clone();
    let request = notice(&agent_id);
    let notifying = tokio::spawn(async move { operator.notify_agent(request).await });
    let told = notifications.message().await.expect("no error").expect("it goes on");
    assert_eq!((&*told.notification_type, &*told.message), ("drain", "soon"));
    assert!(told.spiffe_id.ends_with(OPERATOR.path), "{told:?}");
    assert!(!notifying.is_finished(), "it is not taken yet");
    let taken = AttendRequest { agent_id: String::new(), acknowledged: told.sequence };
    say.send(taken).await.expect("room");
    let reached = notifying.await.expect("no panic").expect("it is answered").into_inner();
    assert!(reached.success && reached.error.is_empty(), "{reached:?}");

    // One that hangs up before it acknowledges was not reached.
    let (mut operator, request) = (stack.operator.clone(), notice(&agent_id));
    let notifying = tokio::spawn(async move { operator.notify_agent(request).await });
    notifications.message().await.expect("no error").expect("it goes on");
    drop((say, notifications));
    let lost = notifying.await.expect("no panic").expect("it is answered").into_inner();
    assert!(!lost.success && lost.error.contains("ended"), "{lost:?}");
}
