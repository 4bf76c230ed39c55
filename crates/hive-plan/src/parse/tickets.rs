//! One ticket of the file, with gaps where something is wrong.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use hive_yaml::{Node, Position};

use super::credentials;
use super::fields::{self, Fields};
use super::notes::Notes;
use super::parameters::{self, Reference};
use crate::ticket::{CredentialRequest, TicketKind, TicketName, TicketSpec};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

const ATTEMPTS: RangeInclusive<u32> = 1..=10;

const BACKOFF_DEFAULT: Duration = Duration::from_secs(1);
/// The pause grows with each attempt, but never beyond a minute; so it cannot begin beyond it.
const BACKOFF: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

const KEYS: [&str; 8] =
    ["name", "kind", "needs", "timeout", "attempts", "backoff", "with", "credentials"];

/// A ticket as far as it could be read.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Option<Placed>,
    pub(super) kind: Option<TicketKind>,
    pub(super) needs: Vec<Placed>,
    pub(super) references: Vec<Reference>,
    timeout: Duration,
    attempts: u32,
    backoff: Duration,
    parameters: Map<String, Value>,
    credentials: Vec<CredentialRequest>,
}

/// A name and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) at: Position,
    pub(super) name: TicketName,
}

impl Draft {
    /// Reads one item of the list of tickets.
    pub(super) fn read(node: &Node<'_>, notes: &mut Notes) -> Option<Self> {
        let ticket = Fields::open(node, "a ticket", &KEYS, notes)?;
        let name = ticket.required("name", notes).and_then(|node| placed(node, notes));
        let kind = ticket.required("kind", notes).and_then(|node| read_kind(node, notes));
        let timeout = ticket.optional("timeout");
        let timeout = timeout.and_then(|node| fields::duration(node, &TIMEOUT, notes));
        let attempts = ticket.optional("attempts");
        let attempts = attempts.and_then(|node| fields::integer(node, &ATTEMPTS, notes));
        let backoff = ticket.optional("backoff");
        let backoff = backoff.and_then(|node| fields::duration(node, &BACKOFF, notes));
        let needs = ticket.optional("needs").map(|node| read_needs(node, notes));
        let credentials = ticket.optional("credentials");
        let credentials =
            credentials.map(|node| credentials::read(node, notes)).unwrap_or_default();
        let with = parameters::read(node.at, ticket.optional("with"), kind, &credentials, notes);
        Some(Self {
            name,
            kind,
            needs: needs.unwrap_or_default(),
            references: with.references,
            timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
            attempts: attempts.unwrap_or(1),
            backoff: backoff.unwrap_or(BACKOFF_DEFAULT),
            parameters: with.parameters,
            credentials,
        })
    }

    /// The ticket, if it has no gaps.
    pub(super) fn finish(self) -> Option<TicketSpec> {
        Some(TicketSpec {
            name: self.name?.name,
            kind: self.kind?,
            needs: self.needs.into_iter().map(|need| need.name).collect(),
            timeout: self.timeout,
            attempts: self.attempts,
            backoff: self.backoff,
            parameters: self.parameters,
            credentials: self.credentials,
        })
    }
}

fn placed(node: &Node<'_>, notes: &mut Notes) -> Option<Placed> {
    fields::name(node, notes).map(|name| Placed { at: node.at, name })
}

fn read_kind(node: &Node<'_>, notes: &mut Notes) -> Option<TicketKind> {
    let text = fields::any_text(node, notes)?;
    match text.parse() {
        Ok(TicketKind::Compensate) => {
            let message = "COMPENSATE cannot be asked for: when a plan fails, what was done is \
                           undone without it";
            notes.add(node.at, message);
            None
        }
        Ok(kind) => Some(kind),
        Err(_) => {
            let known = TicketKind::ALL.iter().filter(|kind| **kind != TicketKind::Compensate);
            notes.add_unknown(node.at, "kind", text, known.map(|kind| kind.as_str()));
            None
        }
    }
}

/// The needs; of those named twice, the first.
fn read_needs(node: &Node<'_>, notes: &mut Notes) -> Vec<Placed> {
    let mut seen = BTreeSet::new();
    let mut needs = Vec::new();
    for node in fields::list(node, notes).unwrap_or_default() {
        let Some(need) = placed(node, notes) else { continue };
        if seen.insert(need.name.clone()) {
            needs.push(need);
        } else {
            notes.add(need.at, format!("`{}` is needed twice: remove one", need.name));
        }
    }
    needs
}
