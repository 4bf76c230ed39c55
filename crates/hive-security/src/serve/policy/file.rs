//! From a policy file to a [`MethodPolicy`], or to everything that is wrong with it.

use std::num::NonZeroUsize;

use hive_yaml::{Data, Dialect, Entry, Mistakes, Node, Notes, Plain, Position, end_of, excerpt};

use super::methods::Methods;
use super::who::Who;
use super::{MethodPolicy, Rule};
use crate::{Error, IdPattern};

/// A policy that people can read is far smaller.
const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// Each call is held against the rules in turn.
const RULES_MAX: usize = 1_000;

/// The most mistakes that are listed; nobody reads more.
const MISTAKES_MAX: usize = 100;

const DIALECT: Dialect = Dialect {
    file: "policy file",
    bytes_max: SOURCE_BYTES_MAX,
    // A rule needs 3, and its `who` a few more.
    depth_max: 16,
    empty: "the file holds no policy: write `allow:` and rules, or `allow: []` to deny everything",
    instead_of_alias: "write the value here again (and a pattern that begins with * in quotes)",
    instead_of_key: "",
    scalar: text_or_nothing,
};

const COMBINATIONS: [&str; 3] = ["all", "any", "not"];

pub(super) fn read(source: &str) -> Result<MethodPolicy, Mistakes> {
    let mut notes = Notes::new(MISTAKES_MAX);
    let root = hive_yaml::open(source, &DIALECT, &mut notes);
    let policy = root.and_then(|root| read_policy(&root, &mut notes));
    if !notes.is_empty() {
        notes.keep_before(end_of(source.strip_prefix('\u{feff}').unwrap_or(source)));
    }
    match notes.finish() {
        Some(mistakes) => Err(mistakes),
        None => Ok(policy.expect("a file without a mistake is a policy")),
    }
}

/// A policy has no numbers and no truth values.
fn text_or_nothing(text: &str) -> Plain {
    if matches!(text, "" | "~" | "null") { Plain::Null } else { Plain::Text }
}

fn read_policy(root: &Node<'_>, notes: &mut Notes) -> Option<MethodPolicy> {
    let entries = map(root, "a policy", &["allow"], notes)?;
    let allow = required(root, entries, "a policy", "allow", notes)?;
    let rules = list(allow, "`allow` is a list of rules", notes)?;
    if let Some(first_too_many) = rules.get(RULES_MAX) {
        let message = format!("{} rules are too many: at most {RULES_MAX}", rules.len());
        notes.add(first_too_many.at, message);
    }
    let rules = rules.iter().take(RULES_MAX).filter_map(|rule| read_rule(rule, notes));
    Some(MethodPolicy { rules: rules.collect() })
}

fn read_rule(node: &Node<'_>, notes: &mut Notes) -> Option<Rule> {
    let entries = map(node, "a rule", &["methods", "who"], notes)?;
    let methods = required(node, entries, "a rule", "methods", notes);
    let methods = methods.and_then(|methods| read_methods(methods, notes));
    let who = required(node, entries, "a rule", "who", notes).and_then(|who| read_who(who, notes));
    Some(Rule { methods: methods?, who: who?, line: NonZeroUsize::new(node.at.line) })
}

/// One method, or a list of them.
fn read_methods(node: &Node<'_>, notes: &mut Notes) -> Option<Vec<Methods>> {
    let items = match &node.data {
        Data::List(items) if items.is_empty() => {
            notes.add(node.at, "a rule needs at least one method");
            return None;
        }
        Data::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut read = |item: &Node<'_>| {
        let text = text(item, "a method is text such as /pkg.Service/Method", notes)?;
        let parsed = Methods::parse(text);
        let wrong = |reason| notes.add(item.at, format!("`{}`: {reason}", excerpt(text)));
        parsed.map_err(wrong).ok()
    };
    Some(items.iter().filter_map(&mut read).collect())
}

/// A pattern, or a map with one of the combinations. The depth of the tree is bounded.
fn read_who(node: &Node<'_>, notes: &mut Notes) -> Option<Who> {
    if let Data::Text(pattern) = &node.data {
        return read_pattern(node.at, pattern, notes).map(Who::One);
    }
    let entries = map(node, "`who`, unless it is one pattern,", &COMBINATIONS, notes)?;
    let known = |entry: &&Entry<'_>| COMBINATIONS.contains(&&*entry.key);
    let mut known = entries.iter().filter(known);
    let Some(first) = known.next() else {
        // An unknown key has been noted by its name.
        if entries.is_empty() {
            notes.add(node.at, "write a pattern, or one of `all`, `any` and `not`");
        }
        return None;
    };
    if let Some(second) = known.next() {
        let message =
            format!("`{}` beside `{}`: write one inside the other", second.key, first.key);
        notes.add(second.at, message);
    }
    match &*first.key {
        "all" => read_several(&first.value, notes).map(Who::All),
        "any" => read_several(&first.value, notes).map(Who::Any),
        _ => read_who(&first.value, notes).map(|who| Who::Not(Box::new(who))),
    }
}

fn read_several(node: &Node<'_>, notes: &mut Notes) -> Option<Vec<Who>> {
    let items = list(node, "`all` and `any` take a list", notes)?;
    if items.is_empty() {
        notes.add(node.at, "this list must not be empty");
        return None;
    }
    let read: Vec<Who> = items.iter().filter_map(|item| read_who(item, notes)).collect();
    Some(read)
}

fn read_pattern(at: Position, text: &str, notes: &mut Notes) -> Option<IdPattern> {
    let wrong = |error: Error| {
        let reason = match error {
            Error::Invalid { reason, .. } => reason,
            other => other.to_string(),
        };
        notes.add(at, format!("`{}` is not a SPIFFE ID pattern: {reason}", excerpt(text)));
    };
    IdPattern::parse(text).map_err(wrong).ok()
}

/// A map; every key that is not known is noted.
fn map<'n, 's>(
    node: &'n Node<'s>,
    what: &str,
    known: &[&str],
    notes: &mut Notes,
) -> Option<&'n [Entry<'s>]> {
    let Data::Map(entries) = &node.data else {
        return wrong_type(node, &format!("{what} is a map"), notes);
    };
    for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
        let (key, known) = (excerpt(&entry.key), known.join(", "));
        notes.add(entry.at, format!("unknown key `{key}`; known: {known}"));
    }
    Some(entries)
}

fn required<'n, 's>(
    node: &Node<'s>,
    entries: &'n [Entry<'s>],
    what: &str,
    key: &str,
    notes: &mut Notes,
) -> Option<&'n Node<'s>> {
    let value = entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    if value.is_none() {
        notes.add(node.at, format!("{what} needs the key `{key}`"));
    }
    value
}

fn list<'n, 's>(node: &'n Node<'s>, rule: &str, notes: &mut Notes) -> Option<&'n [Node<'s>]> {
    match &node.data {
        Data::List(items) => Some(items),
        _ => wrong_type(node, rule, notes),
    }
}

fn text<'n>(node: &'n Node<'_>, rule: &str, notes: &mut Notes) -> Option<&'n str> {
    match &node.data {
        Data::Text(text) => Some(text),
        _ => wrong_type(node, rule, notes),
    }
}

fn wrong_type<T>(node: &Node<'_>, rule: &str, notes: &mut Notes) -> Option<T> {
    if !matches!(node.data, Data::Broken) {
        notes.add(node.at, format!("{rule}, and this is {}", node.data.noun()));
    }
    None
}
