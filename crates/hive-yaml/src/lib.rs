//! Files that people write: plans, policies. Read to a tree of nodes that know where they stand, or to everything that
//! is wrong with them.
//!
//! Much of YAML is refused on purpose: a file says each thing once, in the place where it counts. Anchors could make a
//! small file enormous, and tags and second documents could make two readers of one file see two things. A stranger's
//! file is bounded in size and depth, and reading it never recurses.
//!
//! It deliberately does not know what a file is about: a [`Dialect`] names it, and whoever reads the tree goes on noting
//! mistakes in the same [`Notes`].
//!
//! ```
//! use hive_yaml::{Data, Dialect, Notes, Plain, open};
//!
//! const SHOPPING: Dialect = Dialect {
//!     file: "shopping list",
//!     bytes_max: 1024,
//!     depth_max: 4,
//!     empty: "the list is empty",
//!     instead_of_alias: "write the value here again",
//!     instead_of_key: "",
//!     scalar: |_| Plain::Text,
//! };
//! let mut notes = Notes::new(10);
//! let root = open("[milk, bread]", &SHOPPING, &mut notes).expect("it is a list");
//! assert!(matches!(root.data, Data::List(items) if items.len() == 2));
//!
//! assert!(open("[milk, *milk", &SHOPPING, &mut notes).is_none());
//! assert!(notes.finish().expect("there are mistakes").to_string().starts_with("1:8: not YAML"));
//! ```

mod mistake;
mod scalar;
mod tree;

pub use mistake::{Mistake, Mistakes, MistakesInFile, Notes, Position};
pub use scalar::{Plain, core_schema};
pub use tree::{Data, Entry, Node};

/// The beginning of every file.
const START: Position = Position { line: 1, column: 1 };

/// What a kind of file is called and may be.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// What it is called in a mistake, such as `plan file`.
    pub file: &'static str,
    /// A longer file is refused unread.
    pub bytes_max: usize,
    /// How deep collections may nest. Whatever walks the tree may therefore recurse.
    pub depth_max: usize,
    /// What to say of a file that holds nothing.
    pub empty: &'static str,
    /// What to do instead of an alias.
    pub instead_of_alias: &'static str,
    /// What to do about a key that is no text; behind the sentence that says so.
    pub instead_of_key: &'static str,
    /// What a scalar without quotes means, such as [`core_schema`].
    pub scalar: fn(&str) -> Plain,
}

/// Reads the one document of a file. `None` if there is none to read on; the reason is noted.
pub fn open<'s>(source: &'s str, dialect: &Dialect, notes: &mut Notes) -> Option<Node<'s>> {
    // A byte order mark, which no position counts.
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    if source.len() > dialect.bytes_max {
        let (size, max) = (source.len(), dialect.bytes_max);
        notes.add(START, format!("{size} bytes are too many: at most {max}"));
        return None;
    }
    if let Some(index) = source.find(is_forbidden) {
        let code = source.as_bytes()[index];
        notes.add(end_of(&source[..index]), format!("control character U+{code:04X}: remove it"));
        return None;
    }
    match tree::read(source, dialect, notes) {
        Some(Node { at, data: Data::Null }) => notes.add(at, dialect.empty),
        Some(root) => return Some(root),
        None if notes.is_empty() => notes.add(START, dialect.empty),
        None => {}
    }
    None
}

/// What neither YAML nor JSON lets stand for itself. The parser would take a NUL for the end of the file, and the rest
/// for absent.
fn is_forbidden(c: char) -> bool {
    c < ' ' && !matches!(c, '\t' | '\n' | '\r')
}

/// The position just behind `text`, the beginning of a file.
pub fn end_of(text: &str) -> Position {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let last = lines.rsplit('\n').next().unwrap_or_default();
    Position { line: lines.matches('\n').count() + 1, column: last.chars().count() + 1 }
}

/// The beginning of a stranger's text, safe to show on a terminal.
pub fn excerpt(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
