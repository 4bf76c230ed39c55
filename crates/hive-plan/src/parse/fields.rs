//! Typed looks at a node. Each notes what is wrong and then yields nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use hive_yaml::{Data, Entry, Node, Position, excerpt};

use super::notes::Notes;
use crate::duration;
use crate::ticket::TicketName;

/// A map of which every key is known.
pub(super) struct Fields<'n, 's> {
    at: Position,
    what: &'static str,
    entries: &'n [Entry<'s>],
}

impl<'n, 's> Fields<'n, 's> {
    /// Looks at a map; notes every key that is not known.
    pub(super) fn open(
        node: &'n Node<'s>,
        what: &'static str,
        known: &[&'static str],
        notes: &mut Notes,
    ) -> Option<Self> {
        let entries = map(node, what, notes)?;
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_ref())) {
            notes.add_unknown(entry.at, "key", &entry.key, known.iter().copied());
        }
        Some(Self { at: node.at, what, entries })
    }

    /// The value of a key that need not be there.
    pub(super) fn optional(&self, key: &str) -> Option<&'n Node<'s>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value of a key that must be there.
    pub(super) fn required(&self, key: &str, notes: &mut Notes) -> Option<&'n Node<'s>> {
        let value = self.optional(key);
        if value.is_none() {
            notes.add(self.at, format!("{} needs the key `{key}`", self.what));
        }
        value
    }
}

/// A map with any keys.
pub(super) fn map<'n, 's>(
    node: &'n Node<'s>,
    what: &str,
    notes: &mut Notes,
) -> Option<&'n [Entry<'s>]> {
    match &node.data {
        Data::Map(entries) => Some(entries),
        other => wrong_type(node.at, &format!("{what} is a map"), other, notes),
    }
}

/// A list.
pub(super) fn list<'n, 's>(node: &'n Node<'s>, notes: &mut Notes) -> Option<&'n [Node<'s>]> {
    match &node.data {
        Data::List(items) => Some(items),
        other => wrong_type(node.at, "expected a list", other, notes),
    }
}

/// Text, perhaps none at all.
pub(super) fn any_text<'n>(node: &'n Node<'_>, notes: &mut Notes) -> Option<&'n str> {
    match &node.data {
        Data::Text(text) => Some(text),
        other @ (Data::Bool(_) | Data::Number(_)) => {
            wrong_type(node.at, "expected text in quotes", other, notes)
        }
        other => wrong_type(node.at, "expected text", other, notes),
    }
}

/// Text of at least one character.
pub(super) fn text<'n>(node: &'n Node<'_>, notes: &mut Notes) -> Option<&'n str> {
    let text = any_text(node, notes)?;
    if text.is_empty() {
        notes.add(node.at, "this text must not be empty");
        return None;
    }
    Some(text)
}

/// The name of a ticket or of the plan.
pub(super) fn name(node: &Node<'_>, notes: &mut Notes) -> Option<TicketName> {
    let parsed = TicketName::parse(any_text(node, notes)?);
    parsed.map_err(|error| notes.add(node.at, error.to_string())).ok()
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node<'_>, notes: &mut Notes) -> Option<bool> {
    match &node.data {
        Data::Bool(value) => Some(*value),
        other => wrong_type(node.at, "expected true or false", other, notes),
    }
}

/// A whole number within `range`.
pub(super) fn integer(
    node: &Node<'_>,
    range: &RangeInclusive<u32>,
    notes: &mut Notes,
) -> Option<u32> {
    let Data::Number(number) = &node.data else {
        return wrong_type(node.at, "expected a whole number", &node.data, notes);
    };
    let value = number.as_u64().and_then(|number| u32::try_from(number).ok());
    let value = value.filter(|value| range.contains(value));
    if value.is_none() {
        let (min, max) = (range.start(), range.end());
        notes.add(node.at, format!("expected a whole number from {min} to {max}, found {number}"));
    }
    value
}

/// A duration within `range`.
pub(super) fn duration(
    node: &Node<'_>,
    range: &RangeInclusive<Duration>,
    notes: &mut Notes,
) -> Option<Duration> {
    let found = match &node.data {
        Data::Text(text) => excerpt(text),
        Data::Number(number) => number.to_string(),
        other => return wrong_type(node.at, "expected a duration such as 30s", other, notes),
    };
    let Some(value) = duration::parse(&found) else {
        let forms = "a whole number and its unit, such as 500ms, 30s, 5m or 2h";
        notes.add(node.at, format!("`{found}` is not a duration: write {forms}"));
        return None;
    };
    if !range.contains(&value) {
        let (min, max) = (duration::write(*range.start()), duration::write(*range.end()));
        notes.add(node.at, format!("`{found}` is out of range: from {min} to {max}"));
        return None;
    }
    Some(value)
}

fn wrong_type<T>(at: Position, expected: &str, found: &Data<'_>, notes: &mut Notes) -> Option<T> {
    // What is broken has been noted already, at its own place.
    if !matches!(found, Data::Broken) {
        notes.add(at, format!("{expected}, found {}", found.noun()));
    }
    None
}
