//! What a worker can do: one executor for each kind of ticket.
//!
//! An executor tells the truth or fails: nothing here is ever simulated. It stops when it is told to, within the
//! grace that the runner gives it, and leaves nothing half done.

mod build;
mod deploy;
mod execute;
mod ledger;
mod releases;
mod test;
mod validate;

use crate::artifacts::Artifacts;
use crate::config::LedgerAddress;
use crate::credentials::Credentials;
use crate::sandbox::{Captured, End, Job, Sandbox};
use crate::workspace::Workspace;
use hive_plan::TicketKind;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One ticket, as its executor sees it.
#[derive(Debug)]
pub struct Work {
    /// The ticket's ID, `<plan>/<name>`; that of the ticket to undo when this undoes one.
    pub ticket_id: String,
    /// Its claim: later ones have greater numbers.
    pub claim: u64,
    /// The plan it belongs to.
    pub plan_id: String,
    /// The plan's name.
    pub plan_name: String,
    /// What its kind needs to know, references resolved.
    pub parameters: Map<String, Value>,
    /// When this undoes a ticket: what that ticket put out.
    pub outputs: BTreeMap<String, String>,
    /// Where relative paths of the plan are.
    pub workspace: Workspace,
    /// A directory of its own, removed when it ends.
    pub home: PathBuf,
    /// What it borrowed.
    pub credentials: Credentials,
    /// When it must have ended.
    pub deadline: Instant,
    /// Cancelled when it must end at once.
    pub stop: CancellationToken,
}

/// What came of a ticket that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Small facts for the tickets that depend on it.
    pub outputs: BTreeMap<String, String>,
    /// What is worth knowing, or nothing.
    pub message: String,
}

/// Why a ticket was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Trying again cannot help.
    Final(String),
    /// Trying again may help.
    Retryable(String),
    /// It was told to stop, and did.
    Stopped,
    /// Its deadline passed; what it said last, if anything.
    TimedOut(Option<String>),
}

impl Failure {
    pub(crate) fn refused(reason: impl Display) -> Self {
        Self::Final(reason.to_string())
    }

    pub(crate) fn retryable(reason: impl Display) -> Self {
        Self::Retryable(reason.to_string())
    }

    /// For an error whose cause is not in its own message.
    pub(crate) fn because(error: &dyn std::error::Error) -> Self {
        Self::Retryable(hive_runtime::errors::chain(error))
    }
}

/// What came of it.
pub type Verdict = Result<Done, Failure>;

/// A future that an executor returns.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// Carries out one kind of ticket.
pub trait Executor: Send + Sync {
    /// Which kind.
    fn kind(&self) -> TicketKind;

    /// Does it.
    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a>;

    /// Whether taking it back needs the credentials that doing it needed. What is not needed is not borrowed.
    fn undo_borrows(&self) -> bool {
        false
    }

    /// Takes it back. Most kinds leave nothing that could be taken back.
    fn undo<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        let _ = work;
        let kind = self.kind();
        Box::pin(async move { Err(Failure::refused(format!("{kind} leaves nothing to undo"))) })
    }
}

/// What executors work with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Where commands run.
    pub sandbox: Sandbox,
    /// Where artifacts are.
    pub artifacts: Artifacts,
    /// Where the release ledger is, if there is one.
    pub ledger: Option<LedgerAddress>,
}

/// Every executor of this worker.
pub struct Executors(Vec<Box<dyn Executor>>);

impl From<Vec<Box<dyn Executor>>> for Executors {
    fn from(executors: Vec<Box<dyn Executor>>) -> Self {
        Self(executors)
    }
}

impl Executors {
    /// Those that are built in.
    pub fn standard(tools: &Tools) -> Self {
        Self(vec![
            Box::new(build::Build(tools.clone())),
            Box::new(deploy::Deploy(tools.clone())),
            Box::new(execute::Execute(tools.clone())),
            Box::new(test::Test(tools.clone())),
            Box::new(validate::Validate(tools.clone())),
        ])
    }

    /// The kinds that this worker offers: what it executes, and undoing.
    pub fn kinds(&self) -> Vec<TicketKind> {
        self.0.iter().map(|executor| executor.kind()).chain([TicketKind::Compensate]).collect()
    }

    /// The executor of a kind.
    pub fn of(&self, kind: TicketKind) -> Option<&dyn Executor> {
        self.0.iter().find(|executor| executor.kind() == kind).map(AsRef::as_ref)
    }
}

/// The parameters of a kind; unknown or missing keys are the plan's mistake.
fn parameters<T: DeserializeOwned>(work: &Work) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(work.parameters.clone()))
        .map_err(|error| Failure::refused(format!("the parameters do not fit: {error}")))
}

/// Runs what blocks off the async threads. It is not interrupted: keep it short.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::retryable(format!("the work was lost: {error}"))),
    }
}

/// Runs a command of the plan and returns what it printed, if it succeeded.
async fn run_command(
    sandbox: &Sandbox,
    work: &Work,
    command: &[String],
    directory: &Path,
    readable: &[PathBuf],
) -> Result<Captured, Failed> {
    let job = Job {
        command,
        directory,
        home: &work.home,
        readable,
        credentials: work.credentials.directory(),
        deadline: work.deadline,
        stop: &work.stop,
    };
    match sandbox.run(job).await.map_err(|error| Failure::because(&error))? {
        End::Exited { status, output } if status.success() => Ok(output),
        End::Exited { status, output } => {
            Err(Failed::Status(status_sentence(status, &output), output))
        }
        End::DeadlinePassed(output) => Err(Failure::TimedOut(output.last_line()).into()),
        End::Stopped => Err(Failure::Stopped.into()),
    }
}

/// Why a command did not succeed.
enum Failed {
    /// It ended with another status than 0: the sentence that says so, and what it printed.
    Status(String, Captured),
    /// It did not get that far.
    Other(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Status(sentence, output) => match output.last_line() {
                Some(line) => Self::Retryable(format!("{sentence}: {line}")),
                None => Self::Retryable(sentence),
            },
            Failed::Other(failure) => failure,
        }
    }
}

fn status_sentence(status: std::process::ExitStatus, output: &Captured) -> String {
    match status.code() {
        Some(crate::sandbox::NOT_STARTED) if output.last_line().is_some() => {
            "did not start".to_owned()
        }
        // The warden reports a signal the way a shell does.
        Some(code @ 129..=192) => format!("was killed by signal {}", code - 128),
        Some(code) => format!("exited with status {code}"),
        None => "was killed together with its sandbox".to_owned(),
    }
}

/// Copies `source`, a path of the plan, into the ticket's directory.
async fn copy_source(work: &Work, source: &str) -> Result<PathBuf, Failure> {
    let from = work.workspace.resolve(source).map_err(Failure::refused)?;
    if !from.is_dir() {
        return Err(Failure::refused(format!("the source {} is not a directory", from.display())));
    }
    let to = work.home.join("source");
    let target = to.clone();
    blocking(move || crate::tree::copy(&from, &target).map_err(Failure::retryable)).await?;
    Ok(to)
}

fn fact(name: &str, value: impl Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}
