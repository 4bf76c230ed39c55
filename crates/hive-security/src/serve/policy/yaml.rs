//! From YAML to a tree of nodes that know where they stand.
//!
//! A policy needs text, lists and maps. Anchors could make a small file enormous, and tags and second
//! documents could make two readers of one file see two policies, so they are mistakes.

use std::borrow::Cow;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::mistake::{Notes, Position, excerpt};

/// How deep collections may nest: a rule needs 3, and its `who` a few more. Whatever walks the tree may
/// therefore recurse.
const DEPTH_MAX: usize = 16;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node<'s> {
    pub(super) at: Position,
    pub(super) data: Data<'s>,
}

/// A value.
#[derive(Debug)]
pub(super) enum Data<'s> {
    /// Noted as a mistake already; whoever meets it says no more about it.
    Broken,
    List(Vec<Node<'s>>),
    Map(Vec<Entry<'s>>),
    Nothing,
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
            Self::Broken => "a mistake",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Nothing => "nothing",
            Self::Text(_) => "text",
        }
    }
}

/// Reads the one document of a file. `None` if that cannot be done; the reason is noted, unless it is empty.
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
        let at = position(&span.start);
        documents += usize::from(matches!(event, Event::DocumentStart(_)));
        if documents > 1 {
            notes.add(at, "a policy file holds one document: remove this one");
            break;
        }
        builder.take(event, at, notes);
    }
    builder.root
}

fn position(marker: &Marker) -> Position {
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
    fn take(&mut self, event: Event<'s>, at: Position, notes: &mut Notes) {
        let extra = refuse_extras(&event, at, notes);
        match event {
            Event::SequenceStart(..) => self.enter(Open::List(at, Vec::new()), at, notes),
            Event::MappingStart(..) => self.enter(Open::Map(at, Vec::new(), None), at, notes),
            Event::SequenceEnd | Event::MappingEnd => self.leave(notes),
            Event::Alias(_) | Event::Scalar(..) if self.skipping > 0 => {}
            Event::Alias(_) => self.push(Node { at, data: Data::Broken }, notes),
            Event::Scalar(..) if extra => self.push(Node { at, data: Data::Broken }, notes),
            Event::Scalar(text, style, ..) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                let data = if nothing { Data::Nothing } else { Data::Text(text) };
                self.push(Node { at, data }, notes);
            }
            _ => {}
        }
    }

    fn enter(&mut self, collection: Open<'s>, at: Position, notes: &mut Notes) {
        if self.skipping > 0 {
            self.skipping += 1;
        } else if self.open.len() == DEPTH_MAX {
            self.skipping = 1;
            notes.add(at, format!("nested deeper than {DEPTH_MAX} levels"));
            self.push(Node { at, data: Data::Broken }, notes);
        } else {
            self.open.push(collection);
        }
    }

    fn leave(&mut self, notes: &mut Notes) {
        if self.skipping > 0 {
            self.skipping -= 1;
            return;
        }
        let node = match self.open.pop() {
            Some(Open::List(at, items)) => Node { at, data: Data::List(items) },
            Some(Open::Map(at, entries, _)) => Node { at, data: Data::Map(entries) },
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
                Some(key) => {
                    if let Some(entry) = entry(key, node, entries, notes) {
                        entries.push(entry);
                    }
                }
            },
        }
    }
}

/// Notes what YAML allows and a policy does not; whether there was such a thing.
fn refuse_extras(event: &Event<'_>, at: Position, notes: &mut Notes) -> bool {
    let (anchor, tag) = match event {
        Event::Alias(_) => {
            let advice = "aliases are not part of a policy file: write the value here again (and a pattern \
                          that begins with * in quotes)";
            notes.add(at, advice);
            return true;
        }
        Event::Scalar(_, _, anchor, tag)
        | Event::SequenceStart(anchor, tag)
        | Event::MappingStart(anchor, tag) => (*anchor, tag),
        _ => return false,
    };
    if anchor > 0 {
        notes.add(at, "anchors are not part of a policy file: remove the `&…`");
    }
    if let Some(tag) = tag {
        let tag = excerpt(&format!("{}{}", tag.handle, tag.suffix));
        notes.add(at, format!("tags are not part of a policy file: remove `{tag}`"));
    }
    anchor > 0 || tag.is_some()
}

/// An entry, unless its key is no text or was there before.
fn entry<'s>(
    key: Node<'s>,
    value: Node<'s>,
    before: &[Entry<'s>],
    notes: &mut Notes,
) -> Option<Entry<'s>> {
    let at = key.at;
    let key = match key.data {
        Data::Text(text) => text,
        Data::Broken => return None,
        other => {
            notes.add(at, format!("a key must be text, and this is {}", other.noun()));
            return None;
        }
    };
    // The keys that a policy knows are few, but a file may hold any number of others.
    if let Some(first) = before.iter().take(KEYS_COMPARED).find(|entry| entry.key == key) {
        let (key, line) = (excerpt(&key), first.at.line);
        notes.add(at, format!("duplicate key `{key}`: it is already on line {line}"));
        return None;
    }
    Some(Entry { at, key, value })
}

/// No map of a policy has more keys than three; what comes after so many is unknown, and noted as that.
const KEYS_COMPARED: usize = 64;
