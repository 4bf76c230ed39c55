//! A plan being carried out: a fold over its log. The crate's front page has
//! the picture of the states.

mod log;
mod progress;
mod task;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

pub use self::log::{Command, Event, Refused, UnixMillis};
pub use self::progress::{PlanStatus, TicketProgress, TicketState};
use self::task::{Budget, Mismatch, Phase, Task};
use crate::plan::Plan;
use crate::story;
use crate::template;
use crate::ticket::{Direction, Outcome, PlanId, TicketName, TicketSpec};

/// How often an undo is tried: what is left behind needs a person, so a little harder than most.
const UNDO_ATTEMPTS: u32 = 3;

static NO_OUTPUTS: BTreeMap<String, String> = BTreeMap::new();

/// A plan being carried out. [`Saga::apply`] is the only way its state changes: running, recovering
/// and testing are the same code, and the same events always give the same state and commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saga {
    id: PlanId,
    /// Shared, so that a copy of the state is cheap.
    plan: Arc<Plan>,
    started: UnixMillis,
    /// One for each ticket, in the order of the file.
    slots: Vec<Slot>,
    index: BTreeMap<TicketName, usize>,
    /// What is done and not yet looked at for undoing, in order of completion.
    done: Vec<usize>,
    /// Why the plan stopped before it was done.
    cause: Option<Cause>,
    end: Option<(PlanStatus, UnixMillis)>,
}

/// One ticket being carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    forward: Task,
    /// Only of a ticket that can be undone.
    undo: Option<Task>,
    outputs: BTreeMap<String, String>,
    /// The outputs that other tickets refer to.
    promised: BTreeSet<String>,
    /// The tickets that need this one.
    dependents: Vec<usize>,
    /// How many of the needs are not done.
    unmet: usize,
}

/// Why a plan stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Cancelled { by: String, reason: String },
    DeadlinePassed,
    Ticket { slot: usize, message: String },
}

impl Saga {
    /// Starts a plan: what needs nothing is queued.
    pub fn start(id: PlanId, plan: Plan, now: UnixMillis) -> (Self, Vec<Command>) {
        let names = plan.tickets().iter().map(|spec| spec.name.clone());
        let index: BTreeMap<TicketName, usize> = names.zip(0..).collect();
        let mut slots: Vec<Slot> = plan.tickets().iter().map(Slot::new).collect();
        for (slot, spec) in plan.tickets().iter().enumerate() {
            link(&mut slots, &index, slot, spec);
        }
        let plan = Arc::new(plan);
        let mut saga =
            Self { id, plan, started: now, slots, index, done: Vec::new(), cause: None, end: None };
        let ready = (0..saga.slots.len()).filter(|slot| saga.slots[*slot].unmet == 0);
        let commands = ready.collect::<Vec<_>>().into_iter();
        let commands = commands.map(|slot| saga.queue(now, slot, Direction::Forward)).collect();
        (saga, commands)
    }

    /// Takes in what happened and says what to do. On `Err` nothing has changed.
    pub fn apply(&mut self, now: UnixMillis, event: &Event) -> Result<Vec<Command>, Refused> {
        match event {
            Event::CancelRequested { by, reason } => {
                let cause =
                    Cause::Cancelled { by: story::one_line(by), reason: story::one_line(reason) };
                self.stop_on_request(now, cause)
            }
            Event::Claimed { ticket, direction, claim, worker } => {
                self.check_claimable(ticket, *direction, *claim)?;
                self.task_mut(ticket, *direction)?.claim(now, *claim, worker);
                Ok(Vec::new())
            }
            Event::DeadlinePassed => self.stop_on_request(now, Cause::DeadlinePassed),
            Event::Ended { ticket, direction, claim, outcome } => {
                let slot = self.check_current(ticket, *direction, *claim)?;
                Ok(self.ended(now, slot, *direction, *claim, outcome))
            }
            Event::Lost { ticket, direction, claim } => {
                let slot = self.check_current(ticket, *direction, *claim)?;
                Ok(self.lost(now, slot, *direction))
            }
        }
    }

    /// The commands that still wait for an event to answer them: a driver whose queue is gone
    /// begins with these.
    pub fn outstanding(&self) -> Vec<Command> {
        let tickets = (0..self.slots.len()).flat_map(|slot| {
            let forward = self.outstanding_task(slot, Direction::Forward);
            forward.into_iter().chain(self.outstanding_task(slot, Direction::Undo))
        });
        tickets.chain(self.end.map(|(status, _)| Command::Finish { status })).collect()
    }

    /// Where the plan stands.
    pub fn status(&self) -> PlanStatus {
        match (self.end, &self.cause) {
            (Some((status, _)), _) => status,
            (None, Some(_)) => PlanStatus::Unwinding,
            (None, None) => PlanStatus::Running,
        }
    }

    /// When the plan has to stop, unless it is over by then.
    pub fn deadline(&self) -> UnixMillis {
        self.started.after(self.plan.deadline())
    }

    /// When it was started.
    pub fn started(&self) -> UnixMillis {
        self.started
    }

    /// When it was over.
    pub fn ended_at(&self) -> Option<UnixMillis> {
        self.end.map(|(_, at)| at)
    }

    /// What is being carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan's ID.
    pub fn id(&self) -> &PlanId {
        &self.id
    }

    /// Where each ticket stands, in the order of the file.
    pub fn tickets(&self) -> impl Iterator<Item = TicketProgress<'_>> {
        (0..self.slots.len()).map(|slot| self.progress(slot))
    }

    /// A ticket's parameters, with `${name.output}` resolved; none if there is no such ticket.
    pub fn parameters(&self, ticket: &TicketName) -> Map<String, Value> {
        let Some(slot) = self.index.get(ticket) else { return Map::new() };
        let lookup = |name: &str, output: &str| {
            let slot = self.index.get(name)?;
            self.slots[*slot].outputs.get(output).map(String::as_str)
        };
        let parameters = self.spec(*slot).parameters.iter();
        parameters.map(|(key, value)| (key.clone(), template::resolve(value, &lookup))).collect()
    }

    /// What a ticket put out when it was done; nothing before.
    pub fn outputs(&self, ticket: &TicketName) -> &BTreeMap<String, String> {
        self.index.get(ticket).map_or(&NO_OUTPUTS, |slot| &self.slots[*slot].outputs)
    }

    /// The plan as a story: what was done, undone, failed, never started.
    pub fn story(&self) -> String {
        story::tell(self)
    }

    fn spec(&self, slot: usize) -> &TicketSpec {
        &self.plan.tickets()[slot]
    }
}

/// What may happen.
impl Saga {
    fn task(&self, ticket: &TicketName, direction: Direction) -> Result<(usize, &Task), Refused> {
        let slot = self.index.get(ticket).copied();
        let task = slot.and_then(|slot| Some((slot, self.slots[slot].task(direction)?)));
        task.ok_or_else(|| Refused::UnknownTicket { ticket: ticket.clone() })
    }

    fn task_mut(
        &mut self,
        ticket: &TicketName,
        direction: Direction,
    ) -> Result<&mut Task, Refused> {
        let (slot, _) = self.task(ticket, direction)?;
        let task = self.slots[slot].task_mut(direction);
        task.ok_or_else(|| Refused::UnknownTicket { ticket: ticket.clone() })
    }

    fn check_claimable(
        &self,
        ticket: &TicketName,
        direction: Direction,
        claim: u64,
    ) -> Result<(), Refused> {
        let (_, task) = self.task(ticket, direction)?;
        if self.end.is_some() {
            return Err(Refused::Over);
        }
        if !task.is_newer(claim) {
            return Err(Refused::StaleClaim { ticket: ticket.clone(), claim });
        }
        if !matches!(task.phase, Phase::Queued { .. }) {
            return Err(Refused::NotQueued { ticket: ticket.clone() });
        }
        Ok(())
    }

    fn check_current(
        &self,
        ticket: &TicketName,
        direction: Direction,
        claim: u64,
    ) -> Result<usize, Refused> {
        let (slot, task) = self.task(ticket, direction)?;
        let refused = |mismatch| {
            let ticket = ticket.clone();
            match mismatch {
                Mismatch::AlreadyEnded => Refused::AlreadyEnded { ticket, claim },
                Mismatch::Stale => Refused::StaleClaim { ticket, claim },
                Mismatch::Unknown => Refused::UnknownClaim { ticket, claim },
            }
        };
        task.check(claim).map_err(refused)?;
        Ok(slot)
    }

    fn stop_on_request(&mut self, now: UnixMillis, cause: Cause) -> Result<Vec<Command>, Refused> {
        match self.status() {
            PlanStatus::Running => {
                let mut commands = self.stop(now, cause);
                commands.extend(self.unwind(now));
                Ok(commands)
            }
            PlanStatus::Unwinding => Err(Refused::AlreadyUnwinding),
            _ => Err(Refused::Over),
        }
    }
}

/// What follows.
impl Saga {
    fn ended(
        &mut self,
        now: UnixMillis,
        slot: usize,
        direction: Direction,
        claim: u64,
        outcome: &Outcome,
    ) -> Vec<Command> {
        let may_retry = self.may_retry(direction);
        let task = self.slots[slot].active_task(direction);
        task.end(now, claim, outcome, may_retry);
        if direction == Direction::Forward && task.phase == Phase::Done {
            self.slots[slot].outputs.clone_from(&outcome.outputs);
            self.done.push(slot);
        }
        self.follow(now, slot, direction)
    }

    fn lost(&mut self, now: UnixMillis, slot: usize, direction: Direction) -> Vec<Command> {
        let may_retry = self.may_retry(direction);
        self.slots[slot].active_task(direction).lose(now, may_retry);
        self.follow(now, slot, direction)
    }

    /// While a plan unwinds, nothing is tried again but to undo.
    fn may_retry(&self, direction: Direction) -> bool {
        direction == Direction::Undo || self.cause.is_none()
    }

    /// Decides what comes after a claim has ended.
    fn follow(&mut self, now: UnixMillis, slot: usize, direction: Direction) -> Vec<Command> {
        let task = self.slots[slot].active_task(direction);
        if let Phase::Queued { .. } = task.phase {
            return self.outstanding_task(slot, direction).into_iter().collect();
        }
        if self.cause.is_some() {
            return self.unwind(now).into_iter().collect();
        }
        let failure = match task.phase {
            Phase::Done => self.slots[slot].broken_promise(),
            _ => Some(task.message.clone()),
        };
        match failure {
            None => self.proceed(now, slot),
            Some(message) => {
                let mut commands = self.stop(now, Cause::Ticket { slot, message });
                commands.extend(self.unwind(now));
                commands
            }
        }
    }

    /// A ticket is done: queues what waited for it last, or ends the plan.
    fn proceed(&mut self, now: UnixMillis, slot: usize) -> Vec<Command> {
        if self.done.len() == self.slots.len() {
            return vec![self.finish(now, PlanStatus::Done)];
        }
        let mut commands = Vec::new();
        for dependent in self.slots[slot].dependents.clone() {
            self.slots[dependent].unmet -= 1;
            if self.slots[dependent].unmet == 0 {
                commands.push(self.queue(now, dependent, Direction::Forward));
            }
        }
        commands
    }

    /// Withdraws everything: what is queued is gone, what is claimed will be heard of.
    fn stop(&mut self, now: UnixMillis, cause: Cause) -> Vec<Command> {
        self.cause = Some(cause);
        let mut commands = Vec::new();
        for (spec, slot) in self.plan.tickets().iter().zip(&mut self.slots) {
            if slot.forward.is_active() {
                let (ticket, direction) = (spec.name.clone(), Direction::Forward);
                commands.push(Command::Withdraw { ticket, direction });
            }
            if let Phase::Queued { .. } = slot.forward.phase {
                slot.forward.withdraw(now);
            }
        }
        commands
    }

    /// Once nobody works any more: undoes what was done last, or ends the plan.
    fn unwind(&mut self, now: UnixMillis) -> Option<Command> {
        if self.slots.iter().any(Slot::is_active) {
            return None;
        }
        while let Some(slot) = self.done.pop() {
            if self.slots[slot].undo.is_some() {
                return Some(self.queue(now, slot, Direction::Undo));
            }
        }
        let status = match &self.cause {
            _ if self.slots.iter().any(Slot::is_left_behind) => PlanStatus::Stuck,
            Some(Cause::Cancelled { .. }) => PlanStatus::Cancelled,
            _ => PlanStatus::Failed,
        };
        Some(self.finish(now, status))
    }

    fn queue(&mut self, now: UnixMillis, slot: usize, direction: Direction) -> Command {
        let task = self.slots[slot].active_task(direction);
        task.queue(now);
        let (attempt, ticket) = (task.attempt, self.spec(slot).name.clone());
        Command::Queue { ticket, direction, attempt, not_before: now }
    }

    fn finish(&mut self, now: UnixMillis, status: PlanStatus) -> Command {
        self.end = Some((status, now));
        Command::Finish { status }
    }

    fn outstanding_task(&self, slot: usize, direction: Direction) -> Option<Command> {
        let task = self.slots[slot].task(direction)?;
        let ticket = self.spec(slot).name.clone();
        match task.phase {
            Phase::Queued { not_before } => {
                Some(Command::Queue { ticket, direction, attempt: task.attempt, not_before })
            }
            Phase::Claimed { .. } if !self.may_retry(direction) => {
                Some(Command::Withdraw { ticket, direction })
            }
            _ => None,
        }
    }
}

impl Slot {
    fn new(spec: &TicketSpec) -> Self {
        let task = |attempts| Task::new(Budget { attempts, backoff: spec.backoff });
        Self {
            forward: task(spec.attempts),
            undo: spec.can_be_undone().then(|| task(UNDO_ATTEMPTS)),
            outputs: BTreeMap::new(),
            promised: BTreeSet::new(),
            dependents: Vec::new(),
            unmet: spec.needs.len(),
        }
    }

    fn task(&self, direction: Direction) -> Option<&Task> {
        match direction {
            Direction::Forward => Some(&self.forward),
            Direction::Undo => self.undo.as_ref(),
        }
    }

    fn task_mut(&mut self, direction: Direction) -> Option<&mut Task> {
        match direction {
            Direction::Forward => Some(&mut self.forward),
            Direction::Undo => self.undo.as_mut(),
        }
    }

    /// The task of a direction that is known to exist.
    fn active_task(&mut self, direction: Direction) -> &mut Task {
        self.task_mut(direction).expect("only a ticket that can be undone gets this far")
    }

    fn is_active(&self) -> bool {
        self.forward.is_active() || self.undo.as_ref().is_some_and(Task::is_active)
    }

    /// Whether it acted, or may have, and that could not be undone.
    fn is_left_behind(&self) -> bool {
        let Some(undo) = &self.undo else { return false };
        matches!(undo.phase, Phase::Failed | Phase::Lost) || self.forward.phase == Phase::Lost
    }

    /// What to say if this ticket is done without an output that another refers to: that one could
    /// only run with a hole in its parameters.
    fn broken_promise(&self) -> Option<String> {
        let missing = self.promised.iter().find(|output| !self.outputs.contains_key(*output))?;
        Some(format!("done, but without `{missing}`, which other tickets refer to"))
    }
}

/// Tells the tickets that `spec` needs about it.
fn link(slots: &mut [Slot], index: &BTreeMap<TicketName, usize>, slot: usize, spec: &TicketSpec) {
    for need in &spec.needs {
        slots[index[need]].dependents.push(slot);
    }
    for value in spec.parameters.values() {
        template::each_reference(value, &mut |ticket, output| {
            if let Some(target) = index.get(ticket) {
                slots[*target].promised.insert(output.to_owned());
            }
        });
    }
}
