//! This program once more, as another process that takes orders on its standard input.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Ten thousand connections are opened meanwhile, on a machine that may have other things to do.
const ANSWER_DEADLINE: Duration = Duration::from_secs(300);

pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// What it says besides its answers goes to `log`.
    pub(crate) fn start(arguments: &[&str], log: impl Into<Stdio>) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()), arguments, log)
    }

    /// The same for one that yields the processors to whoever wants them.
    pub(crate) fn start_nicely(arguments: &[&str], log: impl Into<Stdio>) -> Self {
        let mut nice = Command::new("nice");
        nice.args(["-n", "10"]).arg(std::env::current_exe().unwrap());
        Self::run(nice, arguments, log)
    }

    fn run(mut command: Command, arguments: &[&str], log: impl Into<Stdio>) -> Self {
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { orders: child.stdin.take().unwrap(), child, answers }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) async fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> String {
        let line = timeout(ANSWER_DEADLINE, self.answers.next_line()).await;
        line.expect("an answer in time").unwrap().expect("it has not ended")
    }

    pub(crate) async fn ask(&mut self, order: &str) -> String {
        self.order(order).await;
        self.answer().await
    }

    /// It ends with its input.
    pub(crate) async fn stop(mut self) {
        drop(self.orders);
        timeout(ANSWER_DEADLINE, self.child.wait()).await.expect("it ends").unwrap();
    }
}
