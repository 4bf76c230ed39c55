//! Reads policies, in HCL or JSON.

use serde_json::{Map, Value};

use super::policy::Rule;
use super::policy_limits::Limits;
use super::setup::{Capability, PathRule};

/// Known to the real server, and not to us: a policy that says more than we would enforce is refused.
const NOT_ENFORCED: [&str; 5] = [
    "control_group",
    "expiration",
    "list_scan_response_keys_filter_path",
    "mfa_methods",
    "pagination_limit",
];

/// Why a policy is refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Mistake {
    #[error("path {path:?}: path {path:?}: invalid capability {name:?}")]
    Capability { path: String, name: String },
    #[error("path {path:?}: 1 error occurred:\n\t* invalid key {key:?} on line {line}\n\n")]
    Key { path: String, key: String, line: usize },
    #[error("path {path:?}: {key} is not enforced by the development vault: take it out")]
    NotEnforced { path: String, key: &'static str },
    #[error("path {path:?}: invalid policy {name:?}")]
    Shorthand { path: String, name: String },
    #[error("{0}")]
    Syntax(String),
    #[error("1 error occurred:\n\t* invalid key {key:?} on line {line}\n\n")]
    TopKey { key: String, line: usize },
    #[error("path {path:?}: max_wrapping_ttl cannot be less than min_wrapping_ttl")]
    Wrapping { path: String },
}

/// The rules of a policy.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, Mistake> {
    let mut rules = Vec::new();
    for (key, path, body) in blocks(text)? {
        match (key.as_str(), path) {
            ("name", _) => {}
            ("path", Some(path)) => rules.push(rule(text, path, &body)?),
            (_, _) => return Err(Mistake::TopKey { line: line_of(text, &key), key }),
        }
    }
    Ok(rules)
}

type Block = (String, Option<String>, Map<String, Value>);

fn blocks(text: &str) -> Result<Vec<Block>, Mistake> {
    if text.trim_start().starts_with('{') {
        let body: Value = serde_json::from_str(text).map_err(|e| Mistake::Syntax(e.to_string()))?;
        return Ok(json_blocks(&body));
    }
    let body: hcl::Body =
        hcl::parse(&spread(text)).map_err(|error| Mistake::Syntax(error.to_string()))?;
    body.into_iter().map(hcl_block).collect()
}

/// Blocks are spread over lines, for the older HCL does not mind where they end: `{ a = 1`, `}` and the next block may
/// share one.
fn spread(text: &str) -> String {
    let (mut spread, mut quoted, mut comment, mut last) = (String::new(), false, false, '\n');
    for (at, c) in text.char_indices() {
        match c {
            '\n' => comment = false,
            '"' if !comment && last != '\\' => quoted = !quoted,
            '#' if !quoted => comment = true,
            '/' if !quoted && last == '/' => comment = true,
            _ => {}
        }
        let plain = !quoted && !comment;
        if plain && c == '}' {
            spread.push('\n');
        }
        spread.push(c);
        let goes_on = || text[at + 1..].trim_start().starts_with([',', ']', ')']);
        if plain && (c == '{' || (c == '}' && !goes_on())) {
            spread.push('\n');
        }
        last = c;
    }
    spread
}

fn hcl_block(structure: hcl::Structure) -> Result<Block, Mistake> {
    match structure {
        hcl::Structure::Attribute(attribute) => Ok((attribute.key().to_owned(), None, Map::new())),
        hcl::Structure::Block(block) => {
            let label = block.labels.first().map(|label| label.as_str().to_owned());
            let body: Value =
                hcl::from_body(block.body).map_err(|error| Mistake::Syntax(error.to_string()))?;
            Ok((block.identifier.to_string(), label, super::tokens::object(body)))
        }
    }
}

/// `{"path": {"a/*": {…}}}`, or with a list of such objects.
fn json_blocks(body: &Value) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (key, value) in body.as_object().into_iter().flatten() {
        let groups = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        if groups.iter().all(|group| !group.is_object()) {
            blocks.push((key.clone(), None, Map::new()));
        }
        for (path, rule) in groups.iter().filter_map(Value::as_object).flatten() {
            let rule = rule.as_array().and_then(|all| all.first()).unwrap_or(rule);
            blocks.push((key.clone(), Some(path.clone()), super::tokens::object(rule.clone())));
        }
    }
    blocks
}

fn rule(text: &str, path: String, body: &Map<String, Value>) -> Result<Rule, Mistake> {
    let (mut capabilities, mut limits) = (Vec::new(), Limits::default());
    for (key, value) in body {
        match key.as_str() {
            "capabilities" => capabilities.extend(listed(&path, value)?),
            "policy" => capabilities.extend(shorthand(&path, value)?),
            "comment" => {}
            other if limits.read(other, value).is_some() => {}
            other => return Err(odd(text, path, other)),
        }
    }
    if limits.contradict() {
        return Err(Mistake::Wrapping { path });
    }
    // The real server reads a leading slash away.
    Ok(Rule { path: path.trim_start_matches('/').to_owned(), capabilities, limits })
}

fn odd(text: &str, path: String, key: &str) -> Mistake {
    match NOT_ENFORCED.iter().find(|known| **known == key) {
        Some(key) => Mistake::NotEnforced { path, key },
        None => Mistake::Key { path, line: line_of(text, key), key: key.to_owned() },
    }
}

fn listed(path: &str, value: &Value) -> Result<Vec<Capability>, Mistake> {
    let names = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let capability = |name: Value| {
        serde_json::from_value(name.clone()).map_err(|_| Mistake::Capability {
            path: path.to_owned(),
            name: super::fields::shown(&name),
        })
    };
    names.into_iter().map(capability).collect()
}

/// The words from before there were capabilities.
fn shorthand(path: &str, value: &Value) -> Result<Vec<Capability>, Mistake> {
    use Capability::{Create, Delete, Deny, List, Read, Sudo, Update};
    match value.as_str() {
        Some("deny") => Ok(vec![Deny]),
        Some("read") => Ok(vec![Read, List]),
        Some("sudo") => Ok(vec![Create, Read, Update, Delete, List, Sudo]),
        Some("write") => Ok(vec![Create, Read, Update, Delete, List]),
        _ => Err(Mistake::Shorthand { path: path.to_owned(), name: super::fields::shown(value) }),
    }
}

fn line_of(text: &str, key: &str) -> usize {
    text.lines().position(|line| line.contains(key)).map_or(0, |at| at + 1)
}

/// What rules from a setup would be written as.
pub(super) fn write(rules: &[PathRule]) -> String {
    let block = |rule: &PathRule| {
        let names = serde_json::to_string(&rule.capabilities).unwrap_or_default();
        format!("path {:?} {{\n  capabilities = {names}\n}}\n", rule.path)
    };
    rules.iter().map(block).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use Capability::{Create, Delete, List, Read, Update};

    fn read(text: &str) -> Vec<(String, Vec<Capability>)> {
        let rules = parse(text).unwrap().into_iter();
        rules.map(|rule| (rule.path, rule.capabilities)).collect()
    }

    #[test]
    fn hcl_and_json_say_the_same() {
        let hcl = "# a comment\npath \"secret/*\" { capabilities = [\"read\", \"list\"] }\n/* more */\npath \"a/+\" {\n  capabilities = [\n    \"update\", // last\n  ]\n}";
        let json = r#"{"path":{"secret/*":{"capabilities":["read","list"]},"a/+":{"capabilities":["update"]}}}"#;
        let mut from_json = read(json);
        from_json.sort_by_key(|(path, _)| std::cmp::Reverse(path.clone()));
        let expected =
            vec![("secret/*".to_owned(), vec![Read, List]), ("a/+".to_owned(), vec![Update])];
        assert_eq!((read(hcl), from_json), (expected.clone(), expected.clone()));
        let line = "path \"secret/*\" { capabilities = [\"read\", \"list\"] } path \"a/+\" { capabilities = [\"update\"] }";
        assert_eq!(read(line), expected);
    }

    #[test]
    fn the_older_words_are_understood() {
        let granted = &read("path \"secret/*\" { policy = \"write\" }")[0].1;
        assert_eq!(granted, &[Create, Read, Update, Delete, List]);
    }

    #[test]
    fn a_policy_with_a_mistake_is_refused_with_the_text_of_the_real_server() {
        let table = [
            (
                "path \"secret/*\" { capabilities=[\"reead\"] }",
                "path \"secret/*\": path \"secret/*\": invalid capability \"reead\"",
            ),
            (
                "path \"secret/*\" { capabilties=[\"read\"] }",
                "path \"secret/*\": 1 error occurred:\n\t* invalid key \"capabilties\" on line 1\n\n",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
        assert!(matches!(parse("foo \"a\" {}"), Err(Mistake::TopKey { .. })));
        assert!(matches!(parse("path \"secret/* { "), Err(Mistake::Syntax(_))));
    }

    #[test]
    fn what_would_not_be_enforced_is_refused() {
        for more in ["pagination_limit = 5", "expiration = \"2026-01-01T00:00:00Z\""] {
            let text = format!("path \"a\" {{ capabilities=[\"update\"]\n {more} }}");
            assert!(matches!(parse(&text).unwrap_err(), Mistake::NotEnforced { .. }), "{more}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let rule = PathRule { path: "a/*".to_owned(), capabilities: vec![Read] };
        assert_eq!(read(&write(&[rule])), [("a/*".to_owned(), vec![Read])]);
    }
}
