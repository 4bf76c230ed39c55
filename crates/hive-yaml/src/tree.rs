//! From YAML to a tree of nodes that know where they stand.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::Number;

use crate::{Dialect, Notes, Plain, Position, excerpt};

/// A value and where it begins.
#[derive(Debug)]
pub struct Node<'s> {
    /// Where it begins.
    pub at: Position,
    /// The value.
    pub data: Data<'s>,
}

/// A value.
#[derive(Debug)]
pub enum Data<'s> {
    /// A truth value.
    Bool(bool),
    /// Something that has been noted as a mistake; whoever meets it says no more about it.
    Broken,
    /// A list.
    List(Vec<Node<'s>>),
    /// A map; no key stands twice.
    Map(Vec<Entry<'s>>),
    /// Nothing.
    Null,
    /// A number.
    Number(Number),
    /// Text.
    Text(Cow<'s, str>),
}

/// A key and its value.
#[derive(Debug)]
pub struct Entry<'s> {
    /// Where the key begins.
    pub at: Position,
    /// The key.
    pub key: Cow<'s, str>,
    /// Its value.
    pub value: Node<'s>,
}

impl Data<'_> {
    /// What to call it in a mistake.
    pub fn noun(&self) -> &'static str {
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

/// Reads the one document of a file. `None` if that cannot be done; the reason is noted, unless it is empty.
pub(crate) fn read<'s>(source: &'s str, dialect: &Dialect, notes: &mut Notes) -> Option<Node<'s>> {
    let mut parser = Parser::new_from_str(source);
    let mut builder = Builder { dialect, open: Vec::new(), skipping: 0, root: None };
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
            notes.add(at, format!("a {} holds one document: remove this one", dialect.file));
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
struct Builder<'s, 'd> {
    dialect: &'d Dialect,
    open: Vec<Open<'s>>,
    /// How many collections are open below the deepest that is kept.
    skipping: usize,
    root: Option<Node<'s>>,
}

impl<'s> Builder<'s, '_> {
    fn take(&mut self, event: Event<'s>, at: Position, notes: &mut Notes) {
        refuse_extras(&event, at, self.dialect, notes);
        match event {
            Event::Alias(_) if self.skipping == 0 => {
                self.push(Node { at, data: Data::Broken }, notes);
            }
            Event::Scalar(text, style, ..) if self.skipping == 0 => {
                let data = scalar(text, style, at, self.dialect, notes);
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
        } else if self.open.len() == self.dialect.depth_max {
            self.skipping = 1;
            notes.add(at, format!("nested deeper than {} levels", self.dialect.depth_max));
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
                Some(key) => entries.extend(entry(key, node, self.dialect, notes)),
            },
        }
    }
}

/// Notes what YAML allows and a file of ours does not.
fn refuse_extras(event: &Event<'_>, at: Position, dialect: &Dialect, notes: &mut Notes) {
    let file = dialect.file;
    let (anchor, tag) = match event {
        Event::Alias(_) => {
            let instead = dialect.instead_of_alias;
            notes.add(at, format!("aliases are not part of a {file}: {instead}"));
            return;
        }
        Event::Scalar(_, _, anchor, tag)
        | Event::SequenceStart(anchor, tag)
        | Event::MappingStart(anchor, tag) => (*anchor, tag),
        _ => return,
    };
    if anchor > 0 {
        notes.add(at, format!("anchors are not part of a {file}: remove the `&…`"));
    }
    if let Some(tag) = tag {
        let tag = excerpt(&format!("{}{}", tag.handle, tag.suffix));
        notes.add(at, format!("tags are not part of a {file}: remove `{tag}`"));
    }
}

fn scalar<'s>(
    text: Cow<'s, str>,
    style: ScalarStyle,
    at: Position,
    dialect: &Dialect,
    notes: &mut Notes,
) -> Data<'s> {
    if style != ScalarStyle::Plain {
        return Data::Text(text);
    }
    match (dialect.scalar)(&text) {
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

fn entry<'s>(
    key: Node<'s>,
    value: Node<'s>,
    dialect: &Dialect,
    notes: &mut Notes,
) -> Option<Entry<'s>> {
    match key.data {
        Data::Text(text) => return Some(Entry { at: key.at, key: text, value }),
        Data::Broken => {}
        other => {
            let (noun, instead) = (other.noun(), dialect.instead_of_key);
            notes.add(key.at, format!("a key must be text, and this is {noun}{instead}"));
        }
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
