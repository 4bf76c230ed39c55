//! SPIRE's programs, as processes that end with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::waiting::in_time;

/// How much of a log is shown when something went wrong.
const LOG_LINES: usize = 20;

/// Killed when it is dropped.
pub(super) struct Process(Child);

impl Process {
    pub(super) fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).expect("a log");
        let child = Command::new(find(program))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end: what it printed, or what it complained about.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = tokio::process::Command::new(find(program))
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = in_time(program, output).await.expect("it can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

/// One of the real servers' programs.
pub(crate) fn find(program: &str) -> PathBuf {
    hive_dev::tools::program(program).unwrap_or_else(|| {
        panic!("{program} is not in the target directory; `cargo xtask real` puts it there")
    })
}

/// A port that nobody listens on. Whoever takes it next should be quick.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// The last lines of all logs.
pub(super) fn logs(directory: &Path) -> String {
    let last = |name: &str| {
        let text = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{name}:\n{}\n", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
    };
    last("server.log") + &last("agent.log")
}
