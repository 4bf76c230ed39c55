//! A plan: a validated DAG of tickets.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::ticket::{CredentialRequest, TicketKind, TicketName, TicketSpec};
use crate::{Mistakes, duration, parse};

/// The longest plan file, in bytes.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// The most tickets in one plan.
pub const TICKETS_MAX: usize = 1_000;

/// What shall be done, by tickets that need one another: names are unique, every need exists, and
/// no ticket needs itself, however indirectly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) deadline: Duration,
    pub(crate) tickets: Vec<TicketSpec>,
}

impl Plan {
    /// Reads a plan file, or says everything that is wrong with it.
    pub fn parse(source: &str) -> Result<Self, Mistakes> {
        parse::plan(source)
    }

    /// As [`Plan::parse`], for bytes that may not be text.
    pub fn parse_bytes(source: &[u8]) -> Result<Self, Mistakes> {
        parse::plan_bytes(source)
    }

    /// The plan's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for, in its author's words; may be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// How long it may take from its submission until it has to stop.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Its tickets, in the order of the file.
    pub fn tickets(&self) -> &[TicketSpec] {
        &self.tickets
    }

    /// The ticket of this name.
    pub fn ticket(&self, name: &TicketName) -> Option<&TicketSpec> {
        self.tickets.iter().find(|ticket| ticket.name == *name)
    }
}

/// Writes the plan as a plan file that says the defaults too. In JSON, which is YAML, [`Plan::parse`]
/// reads it back. There is no `Deserialize`: it would be a second way in, without the checks.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = File {
            plan: &self.name,
            description: &self.description,
            deadline: duration::write(self.deadline),
            tickets: self.tickets.iter().map(Ticket::new).collect(),
        };
        file.serialize(serializer)
    }
}

/// The shape of a plan file.
#[derive(Serialize)]
struct File<'p> {
    plan: &'p str,
    description: &'p str,
    deadline: String,
    tickets: Vec<Ticket<'p>>,
}

#[derive(Serialize)]
struct Ticket<'p> {
    name: &'p TicketName,
    kind: TicketKind,
    needs: &'p [TicketName],
    timeout: String,
    attempts: u32,
    backoff: String,
    with: &'p Map<String, Value>,
    credentials: &'p [CredentialRequest],
}

impl<'p> Ticket<'p> {
    fn new(spec: &'p TicketSpec) -> Self {
        Self {
            name: &spec.name,
            kind: spec.kind,
            needs: &spec.needs,
            timeout: duration::write(spec.timeout),
            attempts: spec.attempts,
            backoff: duration::write(spec.backoff),
            with: &spec.parameters,
            credentials: &spec.credentials,
        }
    }
}
