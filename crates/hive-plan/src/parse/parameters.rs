//! What stands under `with`, held against the table of the ticket's kind.

use serde_json::{Map, Value};

use hive_yaml::{Data, Entry, Node, Position, excerpt};

use super::fields::{self, Fields};
use super::notes::Notes;
use crate::kinds::{self, Key, Shape};
use crate::template::{self, Part};
use crate::ticket::{CredentialRequest, TicketKind};

/// The parameters as JSON, and what they refer to.
#[derive(Debug, Default)]
pub(super) struct With {
    pub(super) parameters: Map<String, Value>,
    pub(super) references: Vec<Reference>,
}

/// `${ticket.output}`, and where the text around it begins.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) at: Position,
    pub(super) ticket: String,
    pub(super) output: String,
}

/// Reads the map under `with`. Without one, the ticket's own place is where keys are missed.
pub(super) fn read(
    ticket_at: Position,
    node: Option<&Node<'_>>,
    kind: Option<TicketKind>,
    credentials: &[CredentialRequest],
    notes: &mut Notes,
) -> With {
    let absent = Node { at: ticket_at, data: Data::Map(Vec::new()) };
    let node = node.unwrap_or(&absent);
    match kind.and_then(|kind| kinds::of(kind).keys) {
        Some(keys) => check(node, keys, credentials, notes),
        None => {
            fields::map(node, "`with`", notes);
        }
    }
    let mut with = With::default();
    if let Data::Map(entries) = &node.data {
        with.parameters = with.object(entries, notes);
    }
    with
}

fn check(node: &Node<'_>, keys: &[Key], credentials: &[CredentialRequest], notes: &mut Notes) {
    let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let Some(with) = Fields::open(node, "`with`", &known, notes) else { return };
    for key in keys {
        let value = match key.required {
            true => with.required(key.name, notes),
            false => with.optional(key.name),
        };
        if let Some(value) = value {
            check_shape(value, key.shape, credentials, notes);
        }
    }
}

fn check_shape(
    node: &Node<'_>,
    shape: Shape,
    credentials: &[CredentialRequest],
    notes: &mut Notes,
) {
    match shape {
        Shape::Command => check_command(node, notes),
        Shape::Credential => check_credential(node, credentials, notes),
        Shape::FileName => check_path(node, is_file_name, "one name, without `/`", notes),
        Shape::Map => {
            fields::map(node, "this", notes);
        }
        Shape::PathBelow => check_path(node, is_below, "a relative path, without `..`", notes),
        Shape::Text => {
            fields::text(node, notes);
        }
    }
}

fn check_command(node: &Node<'_>, notes: &mut Notes) {
    let Some(items) = fields::list(node, notes) else { return };
    match items.split_first() {
        None => notes.add(node.at, "a command needs at least its program"),
        Some((program, arguments)) => {
            fields::text(program, notes);
            for argument in arguments {
                fields::any_text(argument, notes);
            }
        }
    }
}

fn check_credential(node: &Node<'_>, credentials: &[CredentialRequest], notes: &mut Notes) {
    let Some(name) = fields::text(node, notes) else { return };
    if !credentials.iter().any(|request| request.name == name) {
        let name = excerpt(name);
        notes.add(node.at, format!("this ticket's `credentials` list no credential `{name}`"));
    }
}

/// A path with references is for the executor to judge, once they are resolved.
fn check_path(node: &Node<'_>, is_valid: fn(&str) -> bool, rule: &str, notes: &mut Notes) {
    let Some(text) = fields::text(node, notes) else { return };
    if !text.contains("${") && !is_valid(text) {
        notes.add(node.at, format!("`{}` will not do: write {rule}", excerpt(text)));
    }
}

fn is_file_name(text: &str) -> bool {
    !text.contains('/') && !matches!(text, "." | "..")
}

fn is_below(text: &str) -> bool {
    !text.starts_with('/') && text.split('/').all(|component| component != "..")
}

impl With {
    fn object(&mut self, entries: &[Entry<'_>], notes: &mut Notes) -> Map<String, Value> {
        let entry = |entry: &Entry<'_>| (entry.key.to_string(), self.value(&entry.value, notes));
        entries.iter().map(entry).collect()
    }

    /// Recursion is bounded: the tree is not deep.
    fn value(&mut self, node: &Node<'_>, notes: &mut Notes) -> Value {
        match &node.data {
            Data::Bool(value) => Value::Bool(*value),
            Data::Broken | Data::Null => Value::Null,
            Data::List(items) => items.iter().map(|item| self.value(item, notes)).collect(),
            Data::Map(entries) => Value::Object(self.object(entries, notes)),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => {
                self.collect_references(node.at, text, notes);
                Value::String(text.to_string())
            }
        }
    }

    fn collect_references(&mut self, at: Position, text: &str, notes: &mut Notes) {
        for part in template::parts(text) {
            match part {
                Part::Literal(_) => {}
                Part::Malformed(text) => {
                    let text = excerpt(text);
                    let advice = "write ${ticket.output}, or $${ for a literal ${";
                    notes.add(at, format!("`{text}` is not a reference: {advice}"));
                }
                Part::Output { ticket, output } => {
                    let (ticket, output) = (ticket.to_owned(), output.to_owned());
                    self.references.push(Reference { at, ticket, output });
                }
            }
        }
    }
}
