//! The development authority as a child, and the pipe on which it learns who the others are.

use super::Failure;
use super::launch::{self, Launcher, Output};
use super::service::Event;
use hive_runtime::ready::Announcement;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

const NAME: &str = "authority";
const START_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Tells the authority which process is who. Clones share the pipe, one question at a time.
#[derive(Clone)]
pub(super) struct Registrar(Arc<Mutex<Control>>);

struct Control {
    questions: ChildStdin,
    answers: Output,
}

/// A running authority.
pub(super) struct Authority {
    child: Child,
    pub(super) registrar: Registrar,
    pub(super) facts: Announcement,
}

impl Authority {
    /// Starts the authority and waits until it serves.
    pub(super) async fn start(
        launcher: &Launcher,
        environment: &[(&'static str, String)],
    ) -> Result<Self, Failure> {
        let cannot = |how: String| {
            let lines = launcher.last_lines(NAME).join("\n  ");
            Failure::error(format!("the development authority {how}\n  {lines}"))
        };
        let mut child = launcher
            .spawn(NAME, &["dev", "authority"], environment)
            .map_err(|error| cannot(format!("cannot be started: {error}")))?;
        let questions = child.stdin.take().expect("the child was spawned with a pipe");
        let mut answers = launch::output(&mut child);
        match tokio::time::timeout(START_DEADLINE, launch::announcement(&mut answers)).await {
            Ok(Some(facts)) => {
                let registrar = Registrar(Arc::new(Mutex::new(Control { questions, answers })));
                Ok(Self { child, registrar, facts })
            }
            Ok(None) => Err(cannot(launch::describe(child.wait().await))),
            Err(_) => Err(cannot(format!("did not serve within {START_DEADLINE:?}"))),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Watches over the authority until it is told to stop. It is not restarted: its keys died with it, and with
    /// them every identity.
    pub(super) async fn keep(
        mut self,
        launcher: Launcher,
        events: mpsc::Sender<Event>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            biased;
            () = stop.cancelled() => launch::terminate(&mut self.child).await,
            status = self.child.wait() => {
                let how = launch::describe(status);
                let last_lines = launcher.last_lines(NAME);
                let event = Event::GaveUp { name: NAME.to_owned(), how, last_lines };
                // Nobody listens any more when the stack is already ending.
                let _ = events.send(event).await;
            }
        }
    }
}

impl Registrar {
    /// The process `pid` is the workload with this SPIFFE ID path.
    pub(super) async fn register(&self, pid: u32, path: &str) -> Result<(), Failure> {
        self.ask(json!({ "register": { "pid": pid, "path": path } })).await
    }

    /// Processes of this user that run this executable are the operator.
    pub(super) async fn operator(
        &self,
        uid: u32,
        executable: &str,
        path: &str,
    ) -> Result<(), Failure> {
        self.ask(json!({ "operator": { "uid": uid, "path": executable, "spiffe_path": path } }))
            .await
    }

    /// What `pid` starts may be the operator although it descends from the supervisor.
    pub(super) async fn operator_root(&self, pid: u32) -> Result<(), Failure> {
        self.ask(json!({ "operator_root": { "pid": pid } })).await
    }

    async fn ask(&self, question: Value) -> Result<(), Failure> {
        let failed = |why: &str| {
            Failure::error(format!("the development authority did not take {question}: {why}"))
        };
        let mut control = self.0.lock().await;
        let answer = tokio::time::timeout(ANSWER_DEADLINE, control.exchange(&question)).await;
        match answer {
            Err(_) => Err(failed("it did not answer")),
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Ok(Ok(answer)) => match answer.get("refused").and_then(Value::as_str) {
                Some(reason) => Err(failed(reason)),
                None => Ok(()),
            },
        }
    }
}

impl Control {
    async fn exchange(&mut self, question: &Value) -> std::io::Result<Value> {
        self.questions.write_all(format!("{question}\n").as_bytes()).await?;
        self.questions.flush().await?;
        match self.answers.next_line().await? {
            Some(line) => serde_json::from_str(&line).map_err(std::io::Error::other),
            None => Err(std::io::Error::other("it has ended")),
        }
    }
}
