//! The shape of an answer: what is left when ids, times and secrets, which nobody can foresee, are replaced by what
//! they look like.

use serde_json::{Map, Value};

use crate::vault::certificates;
use crate::vault::recorder::Answer;

/// Numbers of seconds that are left.
const MOMENTS: [&str; 2] = ["lease_duration", "ttl"];
/// A number this large is a time since 1970.
const ERA: i64 = 1_000_000_000;
/// How far apart the two servers may have come to the same call.
const TIME_SLACK: i64 = 120;
/// The two servers are asked one after the other, on a machine that is busy.
const MOMENT_SLACK: i64 = 15;
/// Text that is random and may contain anything; its length is compared.
const SECRETS: [&str; 1] = ["password"];
/// Keys are as long as this; texts that the calls seal are shorter.
const BASE64_MIN: usize = 40;
/// Behind it stands what is left of a longest life.
const CAPPED_AT: &str = "exceeded the effective max_ttl of \"";
/// So are capitals in a piece as long as this: no word is.
const WORD_MAX: usize = 20;
/// Letters and digits in one piece, as long as this and with both among them, are random.
const RANDOM_MIN: usize = 12;

/// An answer in which only what can be foreseen is left.
pub(crate) fn of(answer: &Answer) -> Value {
    shaped(&answer.body, &answer.names)
}

fn shaped(value: &Value, names: &[(String, String)]) -> Value {
    match value {
        Value::String(text) => {
            let text = named(text, names);
            let shape = || Value::String(text_shape(&text));
            certificates::of_pem(&text).unwrap_or_else(shape)
        }
        Value::Array(items) => list_shape(items, names),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| match value {
                Value::String(text) if SECRETS.contains(&name.as_str()) && !text.is_empty() => {
                    (name.clone(), Value::String(format!("<{}>", text.len())))
                }
                _ => (text_shape(&named(name, names)), shaped(value, names)),
            });
            Value::Object(members.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// A listing is in the order of what it lists, which cannot be foreseen where that is random.
fn list_shape(items: &[Value], names: &[(String, String)]) -> Value {
    let mut shapes: Vec<_> = items.iter().map(|item| shaped(item, names)).collect();
    if shapes.iter().all(Value::is_string) && shapes != items {
        shapes.sort_by_key(Value::to_string);
    }
    Value::Array(shapes)
}

fn named(text: &str, names: &[(String, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (value, name)| text.replace(value.as_str(), name))
}

fn text_shape(text: &str) -> String {
    if let Some((head, tail)) = text.split_once(CAPPED_AT) {
        let tail = tail.split_once('"').map_or("", |(_, tail)| tail);
        return format!("{head}{CAPPED_AT}<moment>\"{tail}");
    }
    if let Some(time) = time(text) {
        return time.to_owned();
    }
    let serial = text.split(':').collect::<Vec<_>>();
    if serial.len() >= 8 && serial.iter().all(|part| is_hex(part, 2)) {
        return "<serial>".to_owned();
    }
    if let Some((head, sealed)) = text.rsplit_once(':')
        && head.starts_with("vault:v")
        && sealed.len() >= RANDOM_MIN
    {
        return format!("{head}:<base64>");
    }
    if text.len() >= BASE64_MIN && text.bytes().all(is_base64) {
        return format!("<base64 {}>", text.len());
    }
    masked(text)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

/// What a time looks like, with a fraction or without.
fn time(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let at = |index: usize, byte: u8| bytes.get(index) == Some(&byte);
    let is = at(4, b'-') && at(7, b'-') && at(10, b'T') && at(13, b':') && at(16, b':');
    match text.get(19..) {
        Some("Z") if is => Some("<time>"),
        Some(rest) if is && rest.starts_with('.') && rest.ends_with('Z') => Some("<time.fraction>"),
        Some(rest) if is && rest.starts_with(['+', '-']) => Some("<time, zone>"),
        _ => None,
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Pieces that are random become `<length>`, and so do UUIDs and times since 1970.
pub(crate) fn masked(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(uuid) = rest.get(..36).filter(|piece| is_uuid(piece)) {
            shape.push_str("<uuid>");
            rest = &rest[uuid.len()..];
        } else if let Some(moment) = rest.split([' ', '"']).next().filter(|one| time(one).is_some())
        {
            shape.push_str("<time>");
            rest = &rest[moment.len()..];
        } else if first.is_ascii_alphanumeric() {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric());
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            shape.push_str(&word_shape(word, shape.ends_with(['_', '-'])));
            rest = after;
        } else {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shape
}

fn word_shape(word: &str, after_joint: bool) -> String {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let upper = word.bytes().any(|byte| byte.is_ascii_uppercase());
    let random = word.len() >= RANDOM_MIN && (digits > 0 || (upper && word.len() >= WORD_MAX));
    let since_1970 = word.len() == 10 && digits == 10;
    let accessor = after_joint && is_hex(word, 8);
    match () {
        () if since_1970 => "<unix>".to_owned(),
        () if random || accessor => format!("<{}>", word.len()),
        () => word.to_owned(),
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let lengths = [8, 4, 4, 4, 12];
    parts.len() == 5 && parts.iter().zip(lengths).all(|(part, length)| is_hex(part, length))
}

/// Where two bodies differ, and how.
pub(crate) fn differences(at: &str, theirs: &Value, ours: &Value) -> Vec<(String, String)> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => members(at, theirs, ours),
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            let pairs = theirs.iter().zip(ours).enumerate();
            pairs.flat_map(|(index, (a, b))| differences(&format!("{at}/{index}"), a, b)).collect()
        }
        _ if theirs == ours || are_close(at, theirs, ours) => Vec::new(),
        _ => vec![(at.to_owned(), format!("OpenBao {theirs}, ours {ours}"))],
    }
}

fn members(
    at: &str,
    theirs: &Map<String, Value>,
    ours: &Map<String, Value>,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, value) in theirs {
        let at = format!("{at}/{}", escaped(name));
        match ours.get(name) {
            Some(other) => found.extend(differences(&at, value, other)),
            None => found.push((at, format!("OpenBao {value}, ours nothing"))),
        }
    }
    let extra = ours.iter().filter(|(name, _)| !theirs.contains_key(*name));
    found.extend(extra.map(|(name, value)| {
        (format!("{at}/{}", escaped(name)), format!("OpenBao nothing, ours {value}"))
    }));
    found
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn are_close(at: &str, theirs: &Value, ours: &Value) -> bool {
    let name = at.rsplit('/').next().unwrap_or_default();
    let close = |a: i64, b: i64| match (a - b).abs() {
        apart if a > ERA && b > ERA => apart <= TIME_SLACK,
        apart => MOMENTS.contains(&name) && (a == 0) == (b == 0) && apart <= MOMENT_SLACK,
    };
    theirs.as_i64().zip(ours.as_i64()).is_some_and(|(a, b)| close(a, b))
}
