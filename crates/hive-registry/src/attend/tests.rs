//! One agent's stream, without sockets.

use super::*;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;

/// An agent that attends: what it is told, and where it answers.
struct Agent {
    told: mpsc::Receiver<Result<Notification, Status>>,
    answers: mpsc::Sender<Result<AttendRequest, Status>>,
}

fn attend(desk: &Desk, id: AgentId) -> Agent {
    let (out, told) = mpsc::channel(LETTERS_MAX);
    let (answers, acknowledgements) = mpsc::channel(1);
    let mut letters = desk.attend(id);
    tokio::spawn(async move {
        carry(&mut letters, ReceiverStream::new(acknowledgements), out).await;
    });
    Agent { told, answers }
}

impl Agent {
    async fn is_told(&mut self) -> Notification {
        self.told.recv().await.expect("the stream is open").expect("it goes on")
    }
}

#[tokio::test]
async fn a_notification_counts_once_the_agent_has_acknowledged_it() {
    let (desk, id) = (Arc::new(Desk::default()), AgentId::from_random(1));
    let mut agent = attend(&desk, id);
    let sent = tokio::spawn({
        let desk = Arc::clone(&desk);
        async move { desk.notify(id, Notification::default()).await }
    });
    let acknowledged = agent.is_told().await.sequence;
    assert!(!sent.is_finished());
    let answer = AttendRequest { acknowledged, ..AttendRequest::default() };
    agent.answers.send(Ok(answer)).await.expect("it is read");
    assert_eq!(sent.await.expect("it does not panic"), Some(Ok(())));
}

#[tokio::test]
async fn an_agent_that_says_nothing_was_not_reached() {
    let (desk, id) = (Desk::default(), AgentId::from_random(1));
    let mut agent = attend(&desk, id);
    let (sent, _) = tokio::join!(desk.notify(id, Notification::default()), agent.is_told());
    assert_eq!(sent, Some(Err("the agent did not acknowledge within 5 s".to_owned())));
}

#[tokio::test]
async fn an_agent_whose_stream_ends_was_not_reached() {
    let (desk, id) = (Desk::default(), AgentId::from_random(1));
    let agent = attend(&desk, id);
    let leave = async {
        let mut agent = agent;
        agent.is_told().await;
    };
    let (sent, ()) = tokio::join!(desk.notify(id, Notification::default()), leave);
    assert_eq!(sent, Some(Err("the agent's stream ended before it acknowledged".to_owned())));
}
