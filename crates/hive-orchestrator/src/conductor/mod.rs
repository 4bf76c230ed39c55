//! Owns every running plan and drives it: stores what the fold decided, then lets it happen.
//!
//! It never decides. `hive_plan::Saga` says what an event leads to; here that is stored in one transaction and only
//! then seen by anyone. If it cannot be stored, the conductor ends: memory is then ahead of the log, and the one way
//! back is to start again from the log, which is also what happens after a crash.

mod actor;
mod recovery;
mod running;

use crate::error::{Error, Refused};
use crate::queue::Queue;
use crate::store::{Change, Claim, Received, Step, Store, Submission};
use crate::view;
use hive_api::orchestrator::PlanView;
use hive_plan::{
    Direction, Event, Outcome, Plan, PlanId, Saga, TicketId, TicketKind, TicketSpec, UnixMillis,
};
use running::{Running, stop_reason};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(crate) use actor::{Clock, Handle};

/// Plans that run at once, at most: each is held in memory with its whole plan, a megabyte at worst.
const MAX_RUNNING: usize = 1_000;
/// Tickets in one list, at most: two megabytes of answer.
const MAX_LISTED_TICKETS: usize = 20_000;

/// Every running plan, the outstanding work, and the store.
#[derive(Debug)]
pub(crate) struct Conductor {
    store: Store,
    running: HashMap<PlanId, Running>,
    queue: Queue,
    last_claim: u64,
}

/// A ticket that was handed out: everything the worker needs to know.
#[derive(Debug)]
pub(crate) struct HandedOut {
    pub(crate) ticket: TicketId,
    pub(crate) plan_name: String,
    pub(crate) workspace: String,
    pub(crate) spec: TicketSpec,
    pub(crate) attempt: u32,
    pub(crate) claim: Claim,
    pub(crate) issued_at: UnixMillis,
    /// References already resolved.
    pub(crate) parameters: Map<String, Value>,
    /// What the ticket put out when it was done: for its undo.
    pub(crate) outputs: BTreeMap<String, String>,
}

/// What a call led to. The outer error ends the conductor, the inner one is the caller's answer.
type Answer<T> = Result<Result<T, Refused>, Error>;

/// What one event takes along into its transaction.
#[derive(Debug, Default)]
struct Along {
    change: Option<Change>,
    received: Option<Received>,
    last_claim: Option<u64>,
}

impl Conductor {
    /// Opens the store in `directory` and recovers what was running, by replay.
    pub(crate) async fn open(
        directory: &Path,
        now: UnixMillis,
        claim_ttl: Duration,
    ) -> Result<Self, Error> {
        let mut store = Store::open(directory).await?;
        let last_claim = store.last_claim().await?;
        let mut queue = Queue::new(claim_ttl);
        for work in store.work().await? {
            queue.apply(now, Change::Put(work));
        }
        let mut running = HashMap::new();
        for logged in store.running().await? {
            running.insert(logged.submission.plan_id.clone(), recovery::replay(logged)?);
        }
        tracing::info!(plans = running.len(), last_claim, "recovered from the log");
        Ok(Self { store, running, queue, last_claim })
    }

    /// Ends in an orderly way.
    pub(crate) async fn close(self) -> Result<(), Error> {
        Ok(self.store.close().await?)
    }

    /// Stores a plan; it runs from then on. The same submission again gives the plan it already made.
    pub(crate) async fn submit(&mut self, plan: Plan, submission: Submission) -> Answer<PlanId> {
        if let Some(earlier) = self.store.submitted(&submission.submission_id).await? {
            let same = earlier.source == submission.source
                && earlier.workspace == submission.workspace
                && earlier.submitted_by == submission.submitted_by;
            let reused = || Refused::SubmissionReused(submission.submission_id);
            return Ok(if same { Ok(earlier.plan_id) } else { Err(reused()) });
        }
        if self.running.len() >= MAX_RUNNING {
            let what = format!("{MAX_RUNNING} plans are running");
            return Ok(Err(Refused::Full { what, remedy: "submit again when one is over" }));
        }
        let (id, name, now) =
            (submission.plan_id.clone(), plan.name().to_owned(), submission.submitted_at);
        let (saga, commands) = Saga::start(id.clone(), plan, now);
        let mut plan = Running::new(saga, submission, 0);
        let changes = plan.changes(&commands, &self.queue, "");
        let summary = plan.summary(now);
        let step = Step {
            plan_id: &id,
            at: now,
            event: None,
            submission: Some((&plan.submission, &name)),
            summary: &summary,
            changes: &changes,
            received: None,
            last_claim: None,
        };
        self.store.commit(step).await?;
        tracing::info!(plan = %id, name, by = plan.submission.submitted_by, "submitted");
        plan.publish();
        self.running.insert(id.clone(), plan);
        self.settle(now, &id, changes);
        Ok(Ok(id))
    }

    /// Hands out the next ticket of one of these kinds, if there is one.
    pub(crate) async fn claim(
        &mut self,
        now: UnixMillis,
        worker: &str,
        kinds: &[TicketKind],
    ) -> Result<Option<HandedOut>, Error> {
        let Some(work) = self.queue.next(now, kinds) else { return Ok(None) };
        let mut work = work.clone();
        let number = self.last_claim + 1;
        let ticket = work.ticket.clone();
        let spec = self.spec(&ticket)?;
        let claim = Claim {
            number,
            worker: worker.to_owned(),
            deadline: UnixMillis(now.0.saturating_add(millis(spec.timeout))),
            stop: None,
        };
        let attempt = work.attempt;
        work.claim = Some(claim.clone());
        let event = Event::Claimed {
            ticket: ticket.ticket.clone(),
            direction: ticket.direction,
            claim: number,
            worker: worker.to_owned(),
        };
        let along =
            Along { change: Some(Change::Put(work)), last_claim: Some(number), ..Along::default() };
        if let Err(reason) = self.happen(now, &ticket.plan, &event, along).await? {
            return Err(diverged(&ticket, &reason));
        }
        self.last_claim = number;
        tracing::info!(%ticket, claim = number, worker, attempt, "claimed");
        self.handed_out(now, ticket, attempt, claim).map(Some)
    }

    /// Keeps a claim alive. Says why the worker shall stop, if it shall.
    pub(crate) fn extend(
        &mut self,
        now: UnixMillis,
        caller: &str,
        ticket: &TicketId,
        number: u64,
    ) -> Result<Option<String>, Refused> {
        let claim = self.held(caller, ticket, number)?;
        let late = (now > claim.deadline).then(|| "its deadline passed".to_owned());
        let stop = claim.stop.clone().or(late);
        self.queue.extend(now, number);
        Ok(stop)
    }

    /// Takes in what came of a claim. The same outcome of the same claim again changes nothing.
    pub(crate) async fn report(&mut self, now: UnixMillis, received: Received) -> Answer<()> {
        let (ticket, claim) = (received.ticket.clone(), received.claim);
        match self.held(&received.worker, &ticket, claim) {
            Ok(_) => {}
            Err(Refused::Stale { .. }) => return self.repeated(received).await,
            Err(refused) => return Ok(Err(refused)),
        }
        let outcome = received.outcome.clone();
        tracing::info!(%ticket, claim, status = ?outcome.status, message = outcome.message, "ended");
        let event = ended(&ticket, claim, outcome);
        let change = Some(Change::Remove(ticket.clone()));
        let along = Along { change, received: Some(received), ..Along::default() };
        match self.happen(now, &ticket.plan, &event, along).await? {
            Ok(()) => Ok(Ok(())),
            Err(reason) => Err(diverged(&ticket, &reason)),
        }
    }

    /// Asks a plan to stop. Asked twice, or too late, it changes nothing.
    pub(crate) async fn cancel(
        &mut self,
        now: UnixMillis,
        prefix: &str,
        by: &str,
        reason: &str,
    ) -> Answer<PlanView> {
        let plan_id = match self.resolve(prefix).await? {
            Ok(plan_id) => plan_id,
            Err(refused) => return Ok(Err(refused)),
        };
        let event = Event::CancelRequested { by: by.to_owned(), reason: reason.to_owned() };
        // A plan that is over or already stopping refuses, and that is as good as a yes.
        match self.happen(now, &plan_id, &event, Along::default()).await? {
            Ok(()) => tracing::info!(plan = %plan_id, by, reason, "cancelled"),
            Err(refused) => tracing::debug!(plan = %plan_id, by, %refused, "nothing to cancel"),
        }
        self.view(&plan_id).await
    }

    /// The plan that `prefix` means.
    pub(crate) async fn get(&mut self, prefix: &str) -> Answer<PlanView> {
        match self.resolve(prefix).await? {
            Ok(plan_id) => self.view(&plan_id).await,
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// The plan that `prefix` means, now and as it becomes.
    pub(crate) async fn watch(&mut self, prefix: &str) -> Answer<watch::Receiver<Arc<PlanView>>> {
        let plan_id = match self.resolve(prefix).await? {
            Ok(plan_id) => plan_id,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Some(plan) = self.running.get_mut(&plan_id) {
            let receiver = plan.views.subscribe();
            plan.publish();
            return Ok(Ok(receiver));
        }
        let view = self.view(&plan_id).await?;
        Ok(view.map(|view| watch::channel(Arc::new(view)).1))
    }

    /// The latest plans, newest first, as many as fit into one answer.
    pub(crate) async fn list(&mut self, limit: u32) -> Result<Vec<PlanView>, Error> {
        let mut tickets = 0;
        let mut views = Vec::new();
        for plan_id in self.store.latest(limit).await? {
            let Ok(view) = self.view(&plan_id).await? else { continue };
            tickets += view.tickets.len();
            if tickets > MAX_LISTED_TICKETS {
                break;
            }
            views.push(view::brief(view));
        }
        Ok(views)
    }

    /// Lets happen what time brings: claims run out, plans reach their deadline.
    pub(crate) async fn tick(&mut self, now: UnixMillis) -> Result<(), Error> {
        for number in self.queue.expired(now) {
            self.lose(now, number).await?;
        }
        let due = |plan: &&Running| plan.deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<PlanId> =
            self.running.values().filter(due).map(|plan| plan.saga.id().clone()).collect();
        for plan_id in due {
            tracing::warn!(plan = %plan_id, "the deadline passed");
            // A plan that began to stop in the meantime refuses, and is stopping already.
            let _ = self.happen(now, &plan_id, &Event::DeadlinePassed, Along::default()).await?;
        }
        Ok(())
    }

    /// When [`tick`](Self::tick) has something to do, or queued work may begin.
    pub(crate) fn next_timer(&self, now: UnixMillis) -> Option<UnixMillis> {
        let deadlines = self.running.values().filter_map(Running::deadline);
        deadlines.chain(self.queue.next_timer(now)).min()
    }

    async fn lose(&mut self, now: UnixMillis, number: u64) -> Result<(), Error> {
        let Some(work) = self.queue.claimed(number) else { return Ok(()) };
        let ticket = work.ticket.clone();
        let worker = work.claim.as_ref().map(|claim| claim.worker.as_str());
        tracing::warn!(%ticket, claim = number, worker, "lost: its claim ran out");
        let event = Event::Lost {
            ticket: ticket.ticket.clone(),
            direction: ticket.direction,
            claim: number,
        };
        let change = Some(Change::Remove(ticket.clone()));
        let along = Along { change, ..Along::default() };
        match self.happen(now, &ticket.plan, &event, along).await? {
            Ok(()) => Ok(()),
            Err(reason) => Err(diverged(&ticket, &reason)),
        }
    }

    /// Lets the fold decide what `event` leads to, stores that, and then shows it. Refused, nothing has changed.
    async fn happen(
        &mut self,
        now: UnixMillis,
        plan_id: &PlanId,
        event: &Event,
        along: Along,
    ) -> Result<Result<(), hive_plan::Refused>, Error> {
        let Some(plan) = self.running.get_mut(plan_id) else {
            return Ok(Err(hive_plan::Refused::Over));
        };
        let commands = match plan.saga.apply(now, event) {
            Ok(commands) => commands,
            Err(refused) => return Ok(Err(refused)),
        };
        plan.revision += 1;
        let mut changes: Vec<Change> = along.change.into_iter().collect();
        changes.extend(plan.changes(&commands, &self.queue, &stop_reason(event)));
        let summary = plan.summary(now);
        let step = Step {
            plan_id,
            at: now,
            event: Some(event),
            submission: None,
            summary: &summary,
            changes: &changes,
            received: along.received.as_ref(),
            last_claim: along.last_claim,
        };
        self.store.commit(step).await?;
        plan.publish();
        self.settle(now, plan_id, changes);
        Ok(Ok(()))
    }

    /// Takes over what was stored.
    fn settle(&mut self, now: UnixMillis, plan_id: &PlanId, changes: Vec<Change>) {
        for change in changes {
            self.queue.apply(now, change);
        }
        let status = self.running.get(plan_id).map(|plan| plan.saga.status());
        if let Some(status) = status.filter(|status| status.is_over()) {
            tracing::info!(plan = %plan_id, ?status, "over");
            self.running.remove(plan_id);
        }
    }

    /// Whether a report repeats the one that was applied.
    async fn repeated(&mut self, again: Received) -> Answer<()> {
        let (claim, ticket) = (again.claim, again.ticket.clone());
        Ok(match self.store.received(claim).await? {
            None => Err(Refused::Stale { claim, ticket }),
            Some(first) if first.worker != again.worker => {
                Err(Refused::NotTheClaimant { claim, holder: first.worker, caller: again.worker })
            }
            Some(first) if first.ticket == ticket && first.outcome == again.outcome => Ok(()),
            Some(_) => Err(Refused::OtherOutcome { claim }),
        })
    }

    /// The claim, if it counts, is of this ticket, and is the caller's.
    fn held(&self, caller: &str, ticket: &TicketId, number: u64) -> Result<&Claim, Refused> {
        let stale = || Refused::Stale { claim: number, ticket: ticket.clone() };
        let work = self.queue.claimed(number).ok_or_else(stale)?;
        let claim = work.claim.as_ref().ok_or_else(stale)?;
        if claim.worker != caller {
            let (holder, caller) = (claim.worker.clone(), caller.to_owned());
            return Err(Refused::NotTheClaimant { claim: number, holder, caller });
        }
        if work.ticket != *ticket {
            return Err(Refused::Invalid(format!(
                "claim {number} is of {}, not of {ticket}",
                work.ticket
            )));
        }
        Ok(claim)
    }

    async fn resolve(&mut self, prefix: &str) -> Answer<PlanId> {
        let unknown =
            || Refused::UnknownPlan(format!("{:?}", prefix.chars().take(64).collect::<String>()));
        let Ok(prefix) = PlanId::parse(prefix) else { return Ok(Err(unknown())) };
        let matching = self.store.matching(&prefix).await?;
        Ok(match matching.as_slice() {
            [] => Err(unknown()),
            [one] => Ok(one.clone()),
            [exact, ..] if *exact == prefix => Ok(prefix),
            [first, second, ..] => Err(Refused::Ambiguous {
                prefix: prefix.to_string(),
                first: first.clone(),
                second: second.clone(),
            }),
        })
    }

    async fn view(&mut self, plan_id: &PlanId) -> Answer<PlanView> {
        if let Some(plan) = self.running.get(plan_id) {
            return Ok(Ok(plan.view()));
        }
        let Some(stored) = self.store.view(plan_id).await? else {
            return Ok(Err(Refused::UnknownPlan(plan_id.to_string())));
        };
        recovery::view(plan_id, &stored).map(Ok)
    }

    fn spec(&self, ticket: &TicketId) -> Result<TicketSpec, Error> {
        let plan = self.running.get(&ticket.plan);
        let spec = plan.and_then(|plan| plan.saga.plan().ticket(&ticket.ticket));
        spec.cloned().ok_or_else(|| diverged(ticket, &"it has no such ticket"))
    }

    fn handed_out(
        &self,
        now: UnixMillis,
        ticket: TicketId,
        attempt: u32,
        claim: Claim,
    ) -> Result<HandedOut, Error> {
        let spec = self.spec(&ticket)?;
        let plan =
            self.running.get(&ticket.plan).ok_or_else(|| diverged(&ticket, &"it is over"))?;
        let outputs = match ticket.direction {
            Direction::Forward => BTreeMap::new(),
            Direction::Undo => plan.saga.outputs(&ticket.ticket).clone(),
        };
        Ok(HandedOut {
            plan_name: plan.saga.plan().name().to_owned(),
            workspace: plan.submission.workspace.clone(),
            parameters: plan.saga.parameters(&ticket.ticket),
            outputs,
            ticket,
            spec,
            attempt,
            claim,
            issued_at: now,
        })
    }
}

fn ended(ticket: &TicketId, claim: u64, outcome: Outcome) -> Event {
    let (name, direction) = (ticket.ticket.clone(), ticket.direction);
    Event::Ended { ticket: name, direction, claim, outcome }
}

fn diverged(ticket: &TicketId, reason: &impl ToString) -> Error {
    Error::Diverged { ticket: ticket.clone(), reason: reason.to_string() }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
