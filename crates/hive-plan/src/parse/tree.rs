//! From YAML to a tree of nodes that know where they stand.
//!
//! Much of YAML is refused on purpose: a plan says each thing once, in the place where it counts.
//! Anchors could make a small file enormous, and tags and second documents could make two readers
//! of one file see two plans.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::Number;

use super::notes::{Notes, Position};
use super::scalar::{Plain, plain};
use crate::ticket::excerpt;

/// How deep collections may nest: a plan needs 6, the input of a policy a few more. Everything that
/// walks the tree may therefore recurse.
const DEPTH_MAX: usize = 32;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node<'s> {
    pub(super) at: Position,
    pub(super) data: Data<'s>,
}

/// A value.
#[derive(Debug)]
pub(super) enum Data<'s> {
    Bool(bool),
    /// Something that has been noted as a mistake; whoever meets it says no more about it.
    Broken,
    List(Vec<Node<'s>>),
    Map(Vec<Entry<'s>>),
    Null,
    Number(Number),
    Text(Cow<'s, str>),
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry<'s> {
    pub(super) at: Position,
    pub(super) key: Cow<'s, str>,
    pub(super) value: Node<'s>,
}

impl Data<'_> {
    /// What to call it in a mistake.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth value",
            Self::Broken => "a mistake",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Null => "nothing",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
        }
    }
}

/// Reads the one document of a file. `None` if that cannot be done; the reason is noted.
pub(super) fn read<'s>(source: &'s str, notes: &mut Notes) -> Option<Node<'s>> {
    let mut parser = Parser::new_from_str(source);
    let mut builder = Builder::default();
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                notes.add(position(error.marker()), format!("not YAML: {}", error.info()));
                return None;
            }
        };
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
        }
        if documents > 1 {
            notes.add(position(&span.start), "a plan file holds one document: remove this one");
            break;
        }
        builder.take(event, span, notes);
    }
    builder.root
}

fn position(marker: &saphyr_parser::Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A collection whose end has not been seen yet.
enum Open<'s> {
    List(Position, Vec<Node<'s>>),
    Map(Position, Vec<Entry<'s>>, Option<Node<'s>>),
}

/// Makes the tree from the parser's events, without recursion: depth is the stranger's choice.
#[derive(Default)]
struct Builder<'s> {
    open: Vec<Open<'s>>,
    /// How many collections are open below the deepest that is kept.
    skipping: usize,
    root: Option<Node<'s>>,
}

impl<'s> Builder<'s> {
    fn take(&mut self, event: Event<'s>, span: Span, notes: &mut Notes) {
        let at = position(&span.start);
        refuse_extras(&event, at, notes);
        match event {
            Event::Alias(_) if self.skipping == 0 => {
                self.push(Node { at, data: Data::Broken }, notes);
            }
            Event::Scalar(text, style, ..) if self.skipping == 0 => {
                let data = scalar(text, style, at, notes);
                self.push(Node { at, data }, notes);
            }
            Event::SequenceStart(..) => self.enter(Open::List(at, Vec::new()), at, notes),
            Event::MappingStart(..) => self.enter(Open::Map(at, Vec::new(), None), at, notes),
            Event::SequenceEnd | Event::MappingEnd => self.leave(notes),
            _ => {}
        }
    }

    fn enter(&mut self, collection: Open<'s>, at: Position, notes: &mut Notes) {
        if self.skipping > 0 {
            self.skipping += 1;
        } else if self.open.len() == DEPTH_MAX {
            self.skipping = 1;
            notes.add(at, format!("nested deeper than {DEPTH_MAX} levels"));
        } else {
            self.open.push(collection);
        }
    }

    fn leave(&mut self, notes: &mut Notes) {
        if self.skipping > 0 {
            self.skipping -= 1;
            if self.skipping == 0 {
                let at = Position { line: 1, column: 1 };
                self.push(Node { at, data: Data::Broken }, notes);
            }
            return;
        }
        let node = match self.open.pop() {
            Some(Open::List(at, items)) => Node { at, data: Data::List(items) },
            Some(Open::Map(at, entries, _)) => {
                Node { at, data: Data::Map(without_duplicates(entries, notes)) }
            }
            None => return,
        };
        self.push(node, notes);
    }

    fn push(&mut self, node: Node<'s>, notes: &mut Notes) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, pending)) => match pending.take() {
                None => *pending = Some(node),
                Some(key) => entries.extend(entry(key, node, notes)),
            },
        }
    }
}

/// Notes what YAML allows and a plan does not.
fn refuse_extras(event: &Event<'_>, at: Position, notes: &mut Notes) {
    let (anchor, tag) = match event {
        Event::Alias(_) => {
            notes.add(at, "aliases are not part of a plan file: write the value here again");
            return;
        }
        Event::Scalar(_, _, anchor, tag)
        | Event::SequenceStart(anchor, tag)
        | Event::MappingStart(anchor, tag) => (*anchor, tag),
        _ => return,
    };
    if anchor > 0 {
        notes.add(at, "anchors are not part of a plan file: remove the `&…`");
    }
    if let Some(tag) = tag {
        let tag = excerpt(&format!("{}{}", tag.handle, tag.suffix));
        notes.add(at, format!("tags are not part of a plan file: remove `{tag}`"));
    }
}

fn scalar<'s>(text: Cow<'s, str>, style: ScalarStyle, at: Position, notes: &mut Notes) -> Data<'s> {
    if style != ScalarStyle::Plain {
        return Data::Text(text);
    }
    match plain(&text) {
        Plain::Bool(value) => Data::Bool(value),
        Plain::Null => Data::Null,
        Plain::Number(value) => Data::Number(value),
        Plain::Text => Data::Text(text),
        Plain::Unrepresentable => {
            let shown = excerpt(&text);
            notes.add(at, format!("the number `{shown}` is too large; put text in quotes"));
            Data::Broken
        }
    }
}

fn entry<'s>(key: Node<'s>, value: Node<'s>, notes: &mut Notes) -> Option<Entry<'s>> {
    match key.data {
        Data::Text(text) => return Some(Entry { at: key.at, key: text, value }),
        Data::Broken => {}
        other => notes.add(
            key.at,
            format!("a key must be text, and this is {}; put it in quotes", other.noun()),
        ),
    }
    None
}

/// Keeps the first entry of each key.
fn without_duplicates<'s>(entries: Vec<Entry<'s>>, notes: &mut Notes) -> Vec<Entry<'s>> {
    let mut first_lines: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept = Vec::with_capacity(entries.len());
    for entry in entries {
        if let Some(line) = first_lines.get(entry.key.as_ref()) {
            let key = excerpt(&entry.key);
            notes.add(entry.at, format!("duplicate key `{key}`: it is already on line {line}"));
        } else {
            first_lines.insert(entry.key.to_string(), entry.at.line);
            kept.push(entry);
        }
    }
    kept
}
