//! One ticket, one deadline, one outcome.
//!
//! ```text
//! borrow ─▶ write credentials ─▶ execute ─▶ remove credentials ─▶ give back ─▶ report
//!   └────────── raced by: the deadline, a stop, the loss of the claim, the loss of the loan
//! ```
//!
//! What was borrowed is given back before the outcome is reported: once a plan is over, nothing of it is alive.
//! The outcome is acknowledged by the orchestrator before the slot is free; a claim that was lost is not reported at all.

mod halt;
mod home;
mod outcome;

use crate::backoff::Backoff;
use crate::credentials::{Credentials, Safe};
use crate::executors::{Executor, Executors, Failure, Verdict, Work};
use crate::workspace::Workspace;
use halt::{Cause, Halt};
use hive_api::orchestrator as wire;
use hive_plan::TicketKind;
use hive_security::epoch::{Issued, Request};
use home::Home;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use outcome::now_ms;

/// How long credentials may take to be issued.
const LEND_PATIENCE: Duration = Duration::from_secs(15);
/// How long they may take to be revoked.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// How long an executor may take to stop: longer than a sandbox needs to kill everything in it.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Executors that watch the deadline themselves know better what to say, and go first.
const DEADLINE_SLACK: Duration = Duration::from_millis(250);
/// How long one report may take before it is tried again.
const REPORT_PATIENCE: Duration = Duration::from_secs(10);

/// A ticket that was claimed, verified and understood.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The ticket.
    pub ticket: wire::Ticket,
    /// Its kind; of a ticket that undoes, the kind whose work is undone.
    pub kind: TicketKind,
    /// Whether it undoes.
    pub undoes: bool,
    /// How long the claim lives without an extension.
    pub claim_ttl: Duration,
}

/// What the orchestrator says about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Go on.
    Alive,
    /// It is no longer this worker's.
    Lost(String),
    /// Stop, and report it.
    Stop(String),
    /// Nobody answered.
    Unreachable(String),
}

/// What the orchestrator says about an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It is durable.
    Accepted,
    /// It came too late, or is of no use: it must not be sent again.
    Refused(String),
    /// Nobody answered.
    Unreachable(String),
}

/// The orchestrator, as far as one claim is concerned.
pub trait Desk: Send + Sync {
    /// Says that the work goes on.
    fn extend(&self, ticket_id: &str, claim: u64) -> impl Future<Output = Extension> + Send;
    /// Says what came of it.
    fn report(&self, outcome: &wire::Outcome) -> impl Future<Output = Receipt> + Send;
}

/// Why nothing was lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLent {
    /// Why.
    pub reason: String,
    /// Whether asking again may help.
    pub is_transient: bool,
}

/// Where credentials are borrowed.
pub trait Lender: Send + Sync {
    /// What was borrowed.
    type Loan: Loan;
    /// Borrows all that is asked for, within the deadline, or nothing.
    fn lend(
        &self,
        role: String,
        requests: Vec<Request>,
        deadline: Duration,
    ) -> impl Future<Output = Result<Self::Loan, NotLent>> + Send;
}

/// Credentials on loan. Dropping them gives them back as well as can be done without waiting.
pub trait Loan: Send + Sync {
    /// What was issued.
    fn issued(&self) -> &[Issued];
    /// The names of the optional ones that there are not.
    fn skipped(&self) -> &[String];
    /// Resolves, with the reason, when they may no longer be used.
    fn failed(&self) -> impl Future<Output = String> + Send + 'static;
    /// Gives everything back. The error says what may still be alive.
    fn close(self, deadline: Duration) -> impl Future<Output = Result<(), String>> + Send;
}

/// Runs tickets, one at a time for each call.
pub struct Runner<D, L> {
    /// Where claims are kept and outcomes go.
    pub desk: D,
    /// Where credentials come from.
    pub lender: L,
    /// What can be executed.
    pub executors: Arc<Executors>,
    /// Where credential files are.
    pub safe: Safe,
    /// Where tickets have their directories.
    pub tickets_dir: PathBuf,
}

impl<D: Desk, L: Lender> Runner<D, L> {
    /// Runs a ticket until its outcome is acknowledged, or its claim is lost. When `drain` is cancelled, the ticket is withdrawn.
    /// Returns the status that was reported, if one was.
    pub async fn run(
        &self,
        assignment: &Assignment,
        drain: &CancellationToken,
    ) -> Option<wire::OutcomeStatus> {
        let halt = Halt::default();
        let mut lost = pin!(self.keep_claim(assignment, &halt));
        let mut work = pin!(self.work(assignment, &halt));
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                reason = &mut lost => {
                    tracing::warn!(ticket = assignment.ticket.ticket_id, reason, "the claim is lost: the work is stopped");
                    halt.order(Cause::Lost);
                    work.await;
                    return None;
                }
                () = drain.cancelled(), if !halt.is_ordered() => halt.order(Cause::Draining),
            }
        };
        tokio::select! {
            is_accepted = self.report(&outcome) => is_accepted.then(|| outcome.status()),
            reason = &mut lost => {
                tracing::warn!(ticket = outcome.ticket_id, reason, "the claim is lost: the outcome is not reported");
                None
            }
        }
    }

    /// Reports an outcome until somebody acknowledges or refuses it.
    pub async fn report(&self, outcome: &wire::Outcome) -> bool {
        let mut backoff = Backoff::default();
        loop {
            let unanswered = match timeout(REPORT_PATIENCE, self.desk.report(outcome)).await {
                Ok(Receipt::Accepted) => return true,
                Ok(Receipt::Refused(reason)) => {
                    tracing::warn!(ticket = outcome.ticket_id, reason, "the outcome was refused");
                    return false;
                }
                Ok(Receipt::Unreachable(reason)) => reason,
                Err(_) => "no answer".to_owned(),
            };
            if backoff.is_fresh() {
                tracing::warn!(
                    ticket = outcome.ticket_id,
                    reason = unanswered,
                    "the outcome is reported again"
                );
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Extends the claim until it is lost. A stop is handed on, and the claim kept: the outcome is still to come.
    async fn keep_claim(&self, assignment: &Assignment, halt: &Halt) -> String {
        let ticket = &assignment.ticket;
        let period = assignment.claim_ttl / 3;
        loop {
            sleep(period).await;
            let patience = period.max(Duration::from_secs(1));
            match timeout(patience, self.desk.extend(&ticket.ticket_id, ticket.claim)).await {
                Ok(Extension::Alive) => {}
                Ok(Extension::Lost(reason)) => return reason,
                Ok(Extension::Stop(reason)) => halt.order(Cause::Withdrawn(reason)),
                Ok(Extension::Unreachable(reason)) => {
                    tracing::warn!(
                        ticket = ticket.ticket_id,
                        reason,
                        "the claim could not be extended"
                    );
                }
                Err(_) => tracing::warn!(
                    ticket = ticket.ticket_id,
                    "the claim could not be extended: no answer"
                ),
            }
        }
    }

    async fn work(&self, assignment: &Assignment, halt: &Halt) -> wire::Outcome {
        let started_at_ms = now_ms();
        let mut notes = Vec::new();
        let verdict = self.attempt(assignment, halt, &mut notes).await;
        outcome::of(assignment, verdict, halt.cause(), &notes, started_at_ms)
    }

    async fn attempt(
        &self,
        assignment: &Assignment,
        halt: &Halt,
        notes: &mut Vec<String>,
    ) -> Verdict {
        let deadline = outcome::deadline(&assignment.ticket);
        let workspace =
            Workspace::open(assignment.ticket.workspace.as_ref()).map_err(Failure::refused)?;
        let home = Home::make(&self.tickets_dir, assignment).map_err(Failure::retryable)?;
        let verdict = match self.borrow(assignment, deadline).await? {
            None => {
                self.execute(
                    assignment,
                    workspace,
                    &home,
                    Credentials::none(),
                    deadline,
                    halt,
                    None,
                )
                .await
            }
            Some(loan) => {
                let verdict =
                    self.execute_with(assignment, workspace, &home, &loan, deadline, halt).await;
                if let Err(left) = loan.close(CLOSE_PATIENCE).await {
                    tracing::error!(
                        ticket = assignment.ticket.ticket_id,
                        left,
                        "credentials were not all given back"
                    );
                    notes.push(format!("not all of its credentials could be revoked: {left}"));
                }
                verdict
            }
        };
        home.remove().await;
        verdict
    }

    /// Never interrupted, only bounded: an answer that nobody waits for would leave a lease that nobody revokes.
    async fn borrow(
        &self,
        assignment: &Assignment,
        deadline: Instant,
    ) -> Result<Option<L::Loan>, Failure> {
        let asked = &assignment.ticket.credentials;
        let undo_borrows = self.executors.of(assignment.kind).is_some_and(Executor::undo_borrows);
        if asked.is_empty() || (assignment.undoes && !undo_borrows) {
            return Ok(None);
        }
        let requests = asked.iter().cloned().map(|asked| Request {
            name: asked.name,
            path: asked.path,
            optional: asked.optional,
        });
        let role = hive_api::names::ticket_role(assignment.kind);
        let patience = LEND_PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
        self.lender.lend(role, requests.collect(), patience).await.map(Some).map_err(|refused| {
            let reason = format!("its credentials were not issued: {}", refused.reason);
            if refused.is_transient { Failure::Retryable(reason) } else { Failure::Final(reason) }
        })
    }

    async fn execute_with(
        &self,
        assignment: &Assignment,
        workspace: Workspace,
        home: &Home,
        loan: &L::Loan,
        deadline: Instant,
        halt: &Halt,
    ) -> Verdict {
        let issued = loan.issued().iter().map(|issued| (issued.name.as_str(), &issued.data));
        let why = |name: &String| (name.clone(), why_skipped(assignment, name));
        let skipped = loan.skipped().iter().map(why).collect();
        let credentials =
            self.safe.put(home.name(), issued, skipped).map_err(Failure::retryable)?;
        self.execute(assignment, workspace, home, credentials, deadline, halt, Some(loan)).await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the one place where everything that a ticket needs comes together"
    )]
    async fn execute(
        &self,
        assignment: &Assignment,
        workspace: Workspace,
        home: &Home,
        credentials: Credentials,
        deadline: Instant,
        halt: &Halt,
        loan: Option<&L::Loan>,
    ) -> Verdict {
        let ticket = &assignment.ticket;
        let work = Work {
            ticket_id: outcome::forward_id(&ticket.ticket_id).to_owned(),
            claim: ticket.claim,
            plan_id: ticket.plan_id.clone(),
            plan_name: ticket.plan_name.clone(),
            parameters: parse_parameters(&ticket.parameters_json)?,
            outputs: ticket.outputs.clone().into_iter().collect::<BTreeMap<_, _>>(),
            workspace,
            home: home.path().to_owned(),
            credentials,
            deadline,
            stop: halt.token(),
        };
        let (executors, kind, undoes) =
            (Arc::clone(&self.executors), assignment.kind, assignment.undoes);
        // A task of its own: a panic in an executor is an outcome, and the credential files go with it.
        let task = tokio::spawn(async move { perform(&executors, kind, undoes, &work).await });
        let failed = loan.map(Loan::failed);
        race(task, deadline, halt, failed).await
    }
}

async fn perform(executors: &Executors, kind: TicketKind, undoes: bool, work: &Work) -> Verdict {
    let executor = executors
        .of(kind)
        .ok_or_else(|| Failure::Final(format!("this worker has no executor for {kind}")))?;
    if undoes { executor.undo(work).await } else { executor.execute(work).await }
}

/// Waits for the end, or brings it about.
async fn race(
    mut task: JoinHandle<Verdict>,
    deadline: Instant,
    halt: &Halt,
    failed: Option<impl Future<Output = String>>,
) -> Verdict {
    let failed = async {
        match failed {
            Some(failed) => failed.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = &mut task => return joined(ended),
        () = sleep_until(deadline + DEADLINE_SLACK) => halt.order(Cause::Deadline),
        () = halt.ordered() => {}
        reason = failed => halt.order(Cause::LoanFailed(reason)),
    }
    if let Ok(ended) = timeout(STOP_GRACE, &mut task).await {
        return joined(ended);
    }
    tracing::error!("an executor did not stop in time and is dropped");
    task.abort();
    let _ = task.await;
    Err(Failure::Stopped)
}

fn joined(ended: Result<Verdict, tokio::task::JoinError>) -> Verdict {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "an executor panicked");
        Err(Failure::Retryable("its executor panicked; the worker's log says where".to_owned()))
    })
}

fn parse_parameters(json: &str) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
    serde_json::from_str(json)
        .map_err(|error| Failure::Final(format!("its parameters are no JSON object: {error}")))
}

fn why_skipped(assignment: &Assignment, name: &str) -> String {
    let asked = assignment.ticket.credentials.iter().find(|asked| asked.name == name);
    let path = asked.map_or(name, |asked| asked.path.as_str());
    format!("nothing is mounted at {path}, or it has no such role")
}

#[cfg(test)]
mod tests;
