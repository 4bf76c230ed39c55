//! Reads the members of a body as Vault does: numbers as text, lists with commas, durations in either form.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::clock;
use super::reply::Fault;

type Body = Map<String, Value>;

fn given<'a>(body: &'a Body, member: &str) -> Option<&'a Value> {
    body.get(member).filter(|value| !value.is_null())
}

pub(super) fn text<'a>(body: &'a Body, member: &str) -> Option<&'a str> {
    given(body, member).and_then(Value::as_str)
}

pub(super) fn duration(body: &Body, member: &str) -> Result<Option<Duration>, Fault> {
    let Some(value) = given(body, member) else { return Ok(None) };
    if value.as_str() == Some("") {
        return Ok(None);
    }
    clock::parse_duration(value).map(Some).ok_or_else(|| {
        let shown = shown(value);
        let positive = shown.strip_prefix('-').map(|rest| clock::parse_duration(&json!(rest)));
        let why = match positive.flatten() {
            Some(positive) => format!("cannot provide negative value '-{}'", positive.as_secs()),
            None => format!("time: invalid duration \"{shown}\""),
        };
        Fault::new(400, format!("error converting input for field \"{member}\": {why}"))
    })
}

pub(super) fn strings(body: &Body, member: &str) -> Option<Vec<String>> {
    match given(body, member)? {
        Value::Array(items) => Some(items.iter().map(shown).collect()),
        Value::String(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(items.map(str::to_owned).collect())
        }
        other => Some(vec![other.to_string()]),
    }
}

/// Text as it is, anything else as JSON writes it.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn flag(body: &Body, member: &str) -> Option<bool> {
    match given(body, member)? {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            _ => Some(false),
        },
        Value::Number(number) => Some(number.as_i64() != Some(0)),
        _ => None,
    }
}

/// A boolean, or text that says one; other text is refused.
pub(super) fn whole_flag(body: &Body, member: &str) -> Result<Option<bool>, Fault> {
    const BOTH: [&str; 13] =
        ["", "0", "1", "F", "FALSE", "False", "T", "TRUE", "True", "f", "false", "t", "true"];
    if text(body, member).is_some_and(|text| !BOTH.contains(&text)) {
        let why = "'' cannot parse value as 'bool': strconv.ParseBool: invalid syntax";
        let text = format!("error converting input for field \"{member}\": {why}");
        return Err(Fault::new(400, text).of_field());
    }
    Ok(flag(body, member))
}

pub(super) fn number(body: &Body, member: &str) -> Result<Option<i64>, Fault> {
    let Some(value) = given(body, member) else { return Ok(None) };
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.map(Some).ok_or_else(|| {
        let why = "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax";
        Fault::new(400, format!("error converting input for field \"{member}\": {why}"))
    })
}

/// Text by text: `metadata`, `custom_metadata`.
pub(super) fn pairs(body: &Body, member: &str) -> Option<Vec<(String, String)>> {
    let pairs = given(body, member)?.as_object()?;
    Some(pairs.iter().map(|(name, value)| (name.clone(), shown(value))).collect())
}
