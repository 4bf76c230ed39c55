//! From a plan file to a [`Plan`], or to everything that is wrong with it.
//!
//! Reading goes on after each mistake: [`tree`] makes nodes that know their position, [`fields`]
//! and [`tickets`] turn them into drafts with gaps where something was wrong, and [`graph`] looks
//! at the drafts together. Only a file without a mistake becomes a plan.

mod credentials;
mod fields;
mod graph;
mod nearest;
mod notes;
mod parameters;
mod scalar;
mod tickets;
mod tree;

#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::time::Duration;

use self::fields::Fields;
use self::notes::{Notes, Position};
use self::tickets::Draft;
use self::tree::{Data, Node};
use crate::Mistakes;
use crate::plan::{Plan, SOURCE_BYTES_MAX, TICKETS_MAX};
use crate::ticket::TicketSpec;

const START: Position = Position { line: 1, column: 1 };

const DEADLINE_DEFAULT: Duration = Duration::from_secs(60 * 60);

/// A week: a plan is not a service.
const DEADLINE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);

/// Reads a plan file.
pub(crate) fn plan(source: &str) -> Result<Plan, Mistakes> {
    let mut notes = Notes::default();
    let plan = read(source, &mut notes);
    match notes.finish() {
        Some(mistakes) => Err(mistakes),
        None => Ok(plan.expect("a file without a mistake is a plan")),
    }
}

/// Reads a plan file that may not be text.
pub(crate) fn plan_bytes(source: &[u8]) -> Result<Plan, Mistakes> {
    match std::str::from_utf8(source) {
        Ok(source) => plan(source),
        Err(error) => {
            let (before, rest) = source.split_at(error.valid_up_to());
            let at = end_of(&String::from_utf8_lossy(before));
            let byte = rest.first().copied().unwrap_or_default();
            let message = format!("not UTF-8: byte {} is 0x{byte:02x}", before.len());
            let mut notes = Notes::default();
            notes.add(at, message);
            Err(notes.finish().expect("a mistake was added"))
        }
    }
}

fn read(source: &str, notes: &mut Notes) -> Option<Plan> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    if source.len() > SOURCE_BYTES_MAX {
        let size = source.len();
        notes.add(START, format!("{size} bytes are too many: at most {SOURCE_BYTES_MAX}"));
        return None;
    }
    if let Some(index) = source.find(is_forbidden) {
        let character = source[index..].chars().next().unwrap_or_default();
        let message = format!("control character U+{:04X}: remove it", u32::from(character));
        notes.add(end_of(&source[..index]), message);
        return None;
    }
    let root = tree::read(source, notes);
    match root {
        Some(Node { at, data: Data::Null }) => notes.add(at, EMPTY),
        Some(root) => return read_plan(&root, notes),
        None if notes.is_empty() => notes.add(START, EMPTY),
        None => {}
    }
    None
}

const EMPTY: &str = "the file holds no plan: begin with `plan: <name>` and `tickets:`";

/// What neither YAML nor JSON lets stand for itself. The parser would take a NUL for the end of the
/// file, and the rest of the plan for absent.
fn is_forbidden(c: char) -> bool {
    c < ' ' && !matches!(c, '\t' | '\n' | '\r')
}

/// The position just behind `text`, the beginning of a file.
fn end_of(text: &str) -> Position {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let last = lines.rsplit('\n').next().unwrap_or_default();
    Position { line: lines.matches('\n').count() + 1, column: last.chars().count() + 1 }
}

fn read_plan(root: &Node<'_>, notes: &mut Notes) -> Option<Plan> {
    let known = ["plan", "description", "deadline", "tickets"];
    let top = Fields::open(root, "a plan", &known, notes)?;
    let name = top.required("plan", notes).and_then(|node| fields::name(node, notes));
    let description = top.optional("description").and_then(|node| fields::any_text(node, notes));
    let deadline = top.optional("deadline").and_then(|n| fields::duration(n, &DEADLINE, notes));
    let tickets = top.required("tickets", notes).and_then(|node| read_tickets(node, notes));
    Some(Plan {
        name: name?.to_string(),
        description: description.unwrap_or_default().to_owned(),
        deadline: deadline.unwrap_or(DEADLINE_DEFAULT),
        tickets: tickets?,
    })
}

fn read_tickets(node: &Node<'_>, notes: &mut Notes) -> Option<Vec<TicketSpec>> {
    let list = fields::list(node, notes)?;
    if list.is_empty() {
        notes.add(node.at, "a plan needs at least one ticket");
    }
    if let Some(first_too_many) = list.get(TICKETS_MAX) {
        let message = format!("{} tickets are too many: at most {TICKETS_MAX}", list.len());
        notes.add(first_too_many.at, message);
    }
    let drafts = list.iter().take(TICKETS_MAX).filter_map(|node| Draft::read(node, notes));
    let drafts: Vec<Draft> = drafts.collect();
    graph::check(&drafts, notes);
    drafts.into_iter().map(Draft::finish).collect()
}
