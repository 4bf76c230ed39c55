//! A worker's surroundings, without a worker: a workspace, a store, a sandbox.

use hive_plan::TicketKind;
use hive_security::SecretJson;
use hive_worker::artifacts::Artifacts;
use hive_worker::config::LedgerAddress;
use hive_worker::credentials::{Credentials, Safe};
use hive_worker::executors::{Executors, Failure, Tools, Verdict, Work};
use hive_worker::sandbox::{Confinement, End, Job, Launcher, Sandbox, Toolchain};
use hive_worker::workspace::Workspace;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn sandbox(confinement: Confinement) -> Sandbox {
    let launcher = Launcher::new(env!("CARGO_BIN_EXE_hive-sandbox-exec"), []);
    let variable = |name| std::env::var(name).ok();
    let home = variable("HOME").map(PathBuf::from);
    let rustup =
        variable("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".rustup")));
    let path = variable("PATH").unwrap_or_default();
    let toolchain = Toolchain::find(&path, home.as_deref(), rustup, variable("RUSTUP_TOOLCHAIN"));
    Sandbox::new(launcher, confinement, toolchain)
}

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) workspace: PathBuf,
    pub(crate) safe: Safe,
    pub(crate) tools: Tools,
    executors: Executors,
    pub(crate) timeout: Duration,
}

impl Drop for World {
    fn drop(&mut self) {
        self.safe.clone().remove();
    }
}

impl World {
    /// A workspace that holds the program of the example plans.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().join("workspace");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        for name in ["hello/src", "hello/tests", "policy"] {
            copy(&example.join(name), &workspace.join(name));
        }
        for name in ["hello/Cargo.toml", "hello/Cargo.lock"] {
            std::fs::copy(example.join(name), workspace.join(name)).unwrap();
        }
        let artifacts = Artifacts::open(&directory.path().join("artifacts")).unwrap();
        let tools = Tools { sandbox: sandbox(Confinement::Landlock), artifacts, ledger: None };
        let executors = Executors::standard(&tools);
        let safe = Safe::open(directory.path(), None).unwrap();
        Self { directory, workspace, safe, tools, executors, timeout: PATIENCE }
    }

    pub(crate) fn with_ledger(mut self, address: LedgerAddress) -> Self {
        self.tools.ledger = Some(address);
        self.executors = Executors::standard(&self.tools);
        self
    }

    pub(crate) fn work(&self, ticket: &str, parameters: Value) -> Work {
        let home = tempfile::Builder::new()
            .prefix("home-")
            .tempdir_in(self.directory.path())
            .unwrap()
            .keep();
        std::fs::create_dir(home.join("tmp")).unwrap();
        Work {
            ticket_id: format!("{ticket}/it"),
            claim: 1,
            plan_id: ticket.to_owned(),
            plan_name: "release".to_owned(),
            parameters: parameters.as_object().unwrap().clone(),
            outputs: BTreeMap::new(),
            workspace: Workspace::open(&self.workspace).unwrap(),
            home,
            credentials: Credentials::none(),
            deadline: Instant::now() + self.timeout,
            stop: CancellationToken::new(),
        }
    }

    pub(crate) async fn run(&self, kind: TicketKind, work: &Work) -> Verdict {
        self.executors.of(kind).unwrap().execute(work).await
    }

    pub(crate) async fn undo(&self, kind: TicketKind, work: &Work) -> Verdict {
        self.executors.of(kind).unwrap().undo(work).await
    }

    pub(crate) async fn execute(&self, kind: TicketKind, parameters: Value) -> Verdict {
        self.run(kind, &self.work("p1", parameters)).await
    }

    pub(crate) fn credentials(
        &self,
        ticket: &str,
        issued: &[(&str, Value)],
        skipped: &[(&str, &str)],
    ) -> Credentials {
        let issued: Vec<_> =
            issued.iter().map(|(name, data)| (*name, SecretJson::new(data.clone()))).collect();
        let skipped =
            skipped.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned())).collect();
        self.safe.put(ticket, issued.iter().map(|(name, data)| (*name, data)), skipped).unwrap()
    }

    /// Runs a shell script in the sandbox. The shell is part of the test, not of the sandbox.
    pub(crate) async fn script(&self, script: &str) -> End {
        self.script_until(script, PATIENCE, &CancellationToken::new()).await
    }

    pub(crate) async fn script_until(
        &self,
        script: &str,
        timeout: Duration,
        stop: &CancellationToken,
    ) -> End {
        let work = self.work("p1", json!({}));
        let command = ["sh", "-c", script].map(str::to_owned);
        let job = Job {
            command: &command,
            directory: &work.home,
            home: &work.home,
            readable: &[],
            credentials: None,
            deadline: Instant::now() + timeout,
            stop,
        };
        self.tools.sandbox.run(job).await.unwrap()
    }
}

pub(crate) fn reason(verdict: Verdict) -> String {
    match verdict.expect_err("it fails") {
        Failure::Final(reason) | Failure::Retryable(reason) => reason,
        other => panic!("it failed otherwise: {other:?}"),
    }
}

pub(crate) fn printed(end: End) -> (Option<i32>, String, String) {
    match end {
        End::Exited { status, output } => (status.code(), output.stdout, output.stderr),
        other => panic!("it did not end by itself: {other:?}"),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Waits for a condition of another process.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
