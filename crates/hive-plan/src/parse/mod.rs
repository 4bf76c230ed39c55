//! From a plan file to a [`Plan`], or to everything that is wrong with it.
//!
//! Reading goes on after each mistake: `hive_yaml` makes nodes that know their position, [`fields`]
//! and [`tickets`] turn them into drafts with gaps where something was wrong, and [`graph`] looks
//! at the drafts together. Only a file without a mistake becomes a plan.

mod credentials;
mod fields;
mod graph;
mod nearest;
mod notes;
mod parameters;
mod tickets;

#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::time::Duration;

use hive_yaml::{Dialect, Node, core_schema, end_of};

use self::fields::Fields;
use self::notes::Notes;
use self::tickets::Draft;
use crate::Mistakes;
use crate::plan::{Plan, SOURCE_BYTES_MAX, TICKETS_MAX};
use crate::ticket::TicketSpec;

const DIALECT: Dialect = Dialect {
    file: "plan file",
    bytes_max: SOURCE_BYTES_MAX,
    // A plan needs 6, the input of a policy a few more.
    depth_max: 32,
    empty: "the file holds no plan: begin with `plan: <name>` and `tickets:`",
    instead_of_alias: "write the value here again",
    instead_of_key: "; put it in quotes",
    scalar: core_schema,
};

const DEADLINE_DEFAULT: Duration = Duration::from_secs(60 * 60);

/// A week: a plan is not a service.
const DEADLINE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);

/// Reads a plan file.
pub(crate) fn plan(source: &str) -> Result<Plan, Mistakes> {
    let mut notes = Notes::new();
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
            let mut notes = Notes::new();
            notes.add(at, message);
            Err(notes.finish().expect("a mistake was added"))
        }
    }
}

fn read(source: &str, notes: &mut Notes) -> Option<Plan> {
    let root = notes.open(source)?;
    read_plan(&root, notes)
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
