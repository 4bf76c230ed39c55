//! A policy, decided by a slower reader.

use std::fmt::Write as _;

use serde_yaml::Value;

use crate::take;

/// Segments of methods and of SPIFFE IDs, the odd ones last.
const SEGMENTS: [&str; 8] = ["a", "b", "a.v1.S", "*", "c-d_e", "A", "x", "y"];

/// Methods as callers name them; some are there to be denied.
pub const CALLS: [&str; 20] = [
    "/a",
    "/a/b",
    "/b/a",
    "/a.v1.S/a",
    "/a.v1.S/c-d_e",
    "/A/a",
    "/a/b/x",
    "/a/b/x/y",
    "/",
    "//",
    "/a/",
    "/a//b",
    "/a/..",
    "/a/%2e%2E",
    "/a/b%2Fx",
    "/a/.",
    "GET /a/b",
    "POST /a",
    "get /a",
    "",
];

/// Who calls.
pub const CALLERS: [&str; 8] = [
    "spiffe://td/a",
    "spiffe://td/a/b",
    "spiffe://td/b",
    "spiffe://td/A",
    "spiffe://td",
    "spiffe://other/a",
    "spiffe://other/a/b",
    "spiffe://td.x/a",
];

/// Writes a policy file that follows from the input.
pub fn write(input: &mut &[u8]) -> String {
    let mut text = "allow:\n".to_owned();
    for _ in 0..=take(input) % 4 {
        let methods: Vec<String> =
            (0..=take(input) % 3).map(|_| quoted(&method(input), input)).collect();
        match (take(input) % 3, methods.as_slice()) {
            (0, [method]) => _ = writeln!(text, "- methods: {method}"),
            (1, several) => _ = writeln!(text, "- methods: [{}]", several.join(", ")),
            (_, several) => _ = writeln!(text, "- methods:\n  - {}", several.join("\n  - ")),
        }
        let who = who(input, 3);
        _ = writeln!(text, "  who: {who}");
    }
    text
}

fn method(input: &mut &[u8]) -> String {
    let verb = ["", "", "", "GET "][take(input) % 4];
    let segments: Vec<&str> = (0..=take(input) % 3).map(|_| SEGMENTS[take(input) % 8]).collect();
    let end = ["", "", "/**"][take(input) % 3];
    format!("{verb}/{}{end}", segments.join("/"))
}

fn pattern(input: &mut &[u8]) -> String {
    let trust_domain = ["td", "td", "other", "td.x"][take(input) % 4];
    let segments: Vec<&str> = (0..=take(input) % 2).map(|_| SEGMENTS[take(input) % 6]).collect();
    let end = ["", "", "/**"][take(input) % 3];
    format!("spiffe://{trust_domain}/{}{end}", segments.join("/"))
}

fn who(input: &mut &[u8], depth: usize) -> String {
    let several = |input: &mut &[u8]| -> Vec<String> {
        (0..=take(input) % 3).map(|_| who(input, depth - 1)).collect()
    };
    match if depth == 0 { 0 } else { take(input) % 5 } {
        1 => format!("{{ all: [{}] }}", several(input).join(", ")),
        2 => format!("{{ any: [{}] }}", several(input).join(", ")),
        3 => format!("{{ not: {} }}", who(input, depth - 1)),
        _ => quoted(&pattern(input), input),
    }
}

fn quoted(text: &str, input: &mut &[u8]) -> String {
    match take(input) % 3 {
        0 => format!("'{text}'"),
        1 => format!("\"{text}\""),
        _ => text.to_owned(),
    }
}

/// What a policy file decides, as another YAML reader sees it; `None` if that one cannot read it.
pub fn allows(file: &Value, call: &str, caller: &str) -> Option<bool> {
    let mut allowed = false;
    for rule in file.get("allow")?.as_sequence()? {
        let methods = match rule.get("methods")? {
            Value::Sequence(several) => several.iter().map(text).collect::<Option<Vec<_>>>()?,
            one => vec![text(one)?],
        };
        let covered = methods.iter().any(|method| covers_call(method, call));
        allowed |= covered && means(rule.get("who")?, caller)?;
    }
    Some(allowed)
}

/// Every text in a file, wherever it stands.
pub fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Sequence(several) => several.iter().for_each(|one| texts(one, found)),
        Value::Mapping(entries) => entries.values().for_each(|one| texts(one, found)),
        _ => {}
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn means(who: &Value, caller: &str) -> Option<bool> {
    if let Some(pattern) = who.as_str() {
        let (wanted, given): (Vec<&str>, Vec<&str>) =
            (pattern.split('/').skip(2).collect(), caller.split('/').skip(2).collect());
        let (wanted_name, given_name) = (wanted.first()?.to_ascii_lowercase(), given.first()?);
        return Some(wanted_name == **given_name && covers(&wanted[1..], &given[1..], |_| true));
    }
    let judge = |several: &Value| -> Option<Vec<bool>> {
        several.as_sequence()?.iter().map(|one| means(one, caller)).collect()
    };
    let entries = who.as_mapping()?;
    let (key, value) = entries.iter().next()?;
    match key.as_str()? {
        "all" => judge(value).map(|several| several.iter().all(|one| *one)),
        "any" => judge(value).map(|several| several.contains(&true)),
        "not" => means(value, caller).map(|one| !one),
        _ => None,
    }
}

fn covers_call(method: &str, call: &str) -> bool {
    let (wanted_verb, wanted) =
        method.split_once(' ').map_or((None, method), |(verb, path)| (Some(verb), path));
    let (given_verb, given) =
        call.split_once(' ').map_or((None, call), |(verb, path)| (Some(verb), path));
    let (Some(wanted), Some(given)) = (wanted.strip_prefix('/'), given.strip_prefix('/')) else {
        return false;
    };
    let (wanted, given): (Vec<&str>, Vec<&str>) =
        (wanted.split('/').collect(), given.split('/').collect());
    (wanted_verb.is_none() || wanted_verb == given_verb) && covers(&wanted, &given, is_unambiguous)
}

fn covers(wanted: &[&str], given: &[&str], may_be_any: fn(&str) -> bool) -> bool {
    match (wanted, given) {
        (["**"], rest) => rest.iter().all(|segment| may_be_any(segment)),
        ([], []) => true,
        ([first, wanted @ ..], [other, given @ ..]) => {
            (first == other || *first == "*" && may_be_any(other))
                && covers(wanted, given, may_be_any)
        }
        _ => false,
    }
}

fn is_unambiguous(segment: &str) -> bool {
    let small = segment.to_ascii_lowercase();
    !["", ".", ".."].contains(&segment)
        && !["\\", "%2e", "%2f", "%5c", "%00"].iter().any(|odd| small.contains(odd))
}
