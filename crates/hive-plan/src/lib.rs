//! Plans, tickets and sagas: decisions without I/O.
//!
//! A [`Plan`] is a DAG of tickets, read from a YAML file. A [`Saga`] is a plan being carried out:
//! it folds what happened ([`Event`]) into its state and says what to do next ([`Command`]).
//! Gating, retries, losses, cancellation, deadlines and undoing in reverse order are all decided
//! here, so whatever drives a saga only appends to a log and moves tickets about.
//!
//! ```
//! use hive_plan::{Command, Direction, Event, Outcome, OutcomeStatus, Plan, PlanId, PlanStatus};
//! use hive_plan::{Saga, TicketName, UnixMillis};
//!
//! let plan = Plan::parse(
//!     "
//! plan: greeting
//! tickets:
//!   - name: greet
//!     kind: EXECUTE
//!     with: { command: [echo, hello], undo: [echo, bye] }
//!   - name: verify
//!     kind: EXECUTE
//!     needs: [greet]
//!     with: { command: ['false'] }
//! ",
//! )?;
//!
//! let (mut saga, mut commands) = Saga::start(PlanId::parse("greeting-1")?, plan, UnixMillis(0));
//! let mut claim = 0;
//! while let Some(Command::Queue { ticket, direction, .. }) = commands.pop() {
//!     claim += 1;
//!     let fails = ticket.as_str() == "verify";
//!     let outcome = Outcome {
//!         status: if fails { OutcomeStatus::Failed } else { OutcomeStatus::Done },
//!         outputs: Default::default(),
//!         message: if fails { "exited with status 1".into() } else { String::new() },
//!     };
//!     let worker = "worker-1".to_owned();
//!     let claimed = Event::Claimed { ticket: ticket.clone(), direction, claim, worker };
//!     saga.apply(UnixMillis(1), &claimed)?;
//!     let ended = Event::Ended { ticket, direction, claim, outcome };
//!     commands = saga.apply(UnixMillis(2), &ended)?;
//! }
//!
//! assert_eq!(commands, []);
//! assert_eq!(saga.status(), PlanStatus::Failed);
//! assert_eq!(
//!     saga.story(),
//!     "plan greeting  failed: verify: exited with status 1\n\
//!      ├─ greet   done → undone\n\
//!      └─ verify  failed  exited with status 1"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The states
//!
//! A plan runs until all is done, or until something fails, somebody cancels or its deadline
//! passes. Then it unwinds: nothing new starts, what is queued is withdrawn, what runs is told to
//! stop and waited for, and what was done is undone, the last first, one at a time.
//!
//! ```text
//!            all tickets are done
//!  running ──────────────────────────▶ done
//!     │
//!     │ a ticket failed or was lost,          ┌──▶ failed     everything that can be undone was
//!     │ the deadline passed, or      unwinding┼──▶ cancelled  the same, on request
//!     └────────── cancelled ────────────▶─────┴──▶ stuck      an undo failed: something is left
//! ```
//!
//! A ticket is queued once everything that it needs is done, and runs while a worker holds a claim
//! on it. The claim's number fences: a report under any other is refused.
//!
//! ```text
//!  waiting ──▶ queued ──▶ running ──▶ done ──▶ undoing ──▶ undone
//!     │         │  ▲         │                    └──────▶ undo failed
//!     │         │  └─────────┤ lost, or failed and worth another attempt
//!     ▼         ▼            ▼
//!  never started     withdrawn, failed, lost
//! ```
//!
//! # What this crate does not know
//!
//! No clock: the time comes with each event. No randomness, no I/O, no async. Not who may submit,
//! claim or report; not how tickets travel; and no secret, for a plan names credentials and never
//! holds one.

mod duration;
mod kinds;
mod parse;
mod plan;
mod saga;
mod story;
mod template;
mod ticket;

pub use hive_yaml::{Mistake, Mistakes, MistakesInFile};
pub use plan::{Plan, SOURCE_BYTES_MAX, TICKETS_MAX};
pub use saga::{
    Command, Event, PlanStatus, Refused, Saga, TicketProgress, TicketState, UnixMillis,
};
pub use ticket::{
    CredentialRequest, Direction, InvalidName, Outcome, OutcomeStatus, PlanId, TicketId,
    TicketKind, TicketName, TicketSpec,
};
