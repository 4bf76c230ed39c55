//! A file of somebody else's format, with values of credentials in it.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::place::is_file_name;
use crate::credentials::Credential;

/// A text in which `{{ credential.field }}` stands for a value.
///
/// A filter says what the value is made into: `{{ db.password | json }}` is a JSON string with its quotes, `url` a part
/// of a URL, `shell` a word of a shell, `sql` a string of SQL, `base64` that. Without one the value is put in as it is, unless it holds
/// a line break or another control character, with which it could become a line of its own. `{{ "…" }}` is the
/// text between the quotes, for files that need `{{` themselves.
///
/// There are no conditions and no loops: values stay in memory that is wiped, which no general template language
/// promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// All that is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TemplateError {
    /// Line, counted from 1, and what is wrong there.
    pub mistakes: Vec<(usize, &'static str)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value { credential: String, field: String, filter: Filter },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Base64,
    Json,
    None,
    Shell,
    Sql,
    Url,
}

/// Why a template cannot be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfilled {
    Control,
    Missing,
}

impl Template {
    /// Reads it, and finds all mistakes at once.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut pieces, mut mistakes) = (Vec::new(), Vec::new());
        let (mut rest, mut line) = (text, 1);
        while let Some((before, after)) = rest.split_once("{{") {
            pieces.push(Piece::Text(before.to_owned()));
            line += before.matches('\n').count();
            let Some((inside, after)) = split_end(after) else {
                mistakes.push((line, "`{{` is never closed by `}}`"));
                return Err(TemplateError { mistakes });
            };
            match Piece::parse(inside.trim()) {
                Ok(piece) => pieces.push(piece),
                Err(mistake) => mistakes.push((line, mistake)),
            }
            line += inside.matches('\n').count();
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if mistakes.is_empty() { Ok(Self(pieces)) } else { Err(TemplateError { mistakes }) }
    }

    /// The names of the credentials that are needed for it.
    pub fn credentials(&self) -> BTreeSet<&str> {
        let named = self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Value { credential, .. } => Some(credential.as_str()),
        });
        named.collect()
    }

    pub(super) fn fill<'a>(
        &self,
        held: impl Fn(&str) -> Option<&'a Credential>,
    ) -> Result<Zeroizing<String>, Unfilled> {
        // Sized once: text that grows leaves copies of itself behind.
        let mut parts = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            parts.push(piece.fill(&held)?);
        }
        let mut text =
            Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
        parts.iter().for_each(|part| text.push_str(part));
        Ok(text)
    }
}

/// The end of a placeholder; one in quotes does not count.
fn split_end(after: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let end = after.char_indices().find(|(at, c)| {
        quoted ^= *c == '"';
        !quoted && after[*at..].starts_with("}}")
    });
    let (at, _) = end?;
    Some((&after[..at], &after[at + 2..]))
}

impl Piece {
    fn parse(inside: &str) -> Result<Self, &'static str> {
        if let Some(text) = inside.strip_prefix('"') {
            let text = text.strip_suffix('"').ok_or("text in quotes is all there may be")?;
            return Ok(Self::Text(text.to_owned()));
        }
        let (value, filter) = inside.split_once('|').unwrap_or((inside, "none"));
        let (credential, field) =
            value.trim().rsplit_once('.').ok_or("expected `credential.field`")?;
        if !is_file_name(credential) || !is_file_name(field) {
            return Err("a name has letters, digits, `-` and `_` only");
        }
        let filter = Filter::parse(filter.trim())
            .ok_or("the filters are `base64`, `json`, `shell`, `sql` and `url`")?;
        Ok(Self::Value { credential: credential.to_owned(), field: field.to_owned(), filter })
    }

    fn fill<'a>(
        &self,
        held: &impl Fn(&str) -> Option<&'a Credential>,
    ) -> Result<Zeroizing<String>, Unfilled> {
        match self {
            Self::Text(text) => Ok(Zeroizing::new(text.clone())),
            Self::Value { credential, field, filter } => {
                let value = held(credential).and_then(|held| held.data().text_or_json(field));
                filter.apply(value.ok_or(Unfilled::Missing)?.expose_secret())
            }
        }
    }
}

impl Filter {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "base64" => Self::Base64,
            "json" => Self::Json,
            "none" => Self::None,
            "shell" => Self::Shell,
            "sql" => Self::Sql,
            "url" => Self::Url,
            _ => return None,
        })
    }

    fn apply(self, value: &str) -> Result<Zeroizing<String>, Unfilled> {
        Ok(Zeroizing::new(match self {
            Self::Base64 => STANDARD.encode(value),
            Self::Json => serde_json::Value::from(value).to_string(),
            Self::None if value.chars().any(char::is_control) => return Err(Unfilled::Control),
            Self::None => value.to_owned(),
            Self::Shell if value.contains('\0') => return Err(Unfilled::Control),
            Self::Shell => format!("'{}'", value.replace('\'', r"'\''")),
            Self::Sql if value.contains('\0') => return Err(Unfilled::Control),
            Self::Sql => format!("'{}'", value.replace('\'', "''")),
            Self::Url => percent_encoded(value),
        }))
    }
}

/// All but what RFC 3986 calls unreserved.
fn percent_encoded(value: &str) -> String {
    let mut text = String::with_capacity(3 * value.len());
    for byte in value.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (line, what)) in self.mistakes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}line {line}: {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::SecretJson;

    fn filled(template: &str, data: Value) -> Result<String, Unfilled> {
        let credential = Credential::new("db", 1, SecretJson::new(data));
        let template = Template::parse(template).unwrap();
        let text = template.fill(|name| (name == "db").then_some(&credential))?;
        Ok(text.as_str().to_owned())
    }

    #[test]
    fn values_stand_where_they_are_named_and_the_rest_is_as_it_was() {
        let data = json!({ "username": "u", "password": "p w", "port": 5432 });
        let text = "a={{db.username}}\n b = {{ db.password }};{{ db.port }}\n{{ \"{{ }}\" }} }}\n";
        assert_eq!(filled(text, data).unwrap(), "a=u\n b = p w;5432\n{{ }} }}\n");
    }

    #[test]
    fn a_filter_keeps_a_value_from_becoming_anything_else() {
        let data = json!({ "v": "a'b\"c/d e\nf" });
        for (filter, expected) in [
            ("json", r#""a'b\"c/d e\nf""#),
            ("url", "a%27b%22c%2Fd%20e%0Af"),
            ("shell", "'a'\\''b\"c/d e\nf'"),
            ("sql", "'a''b\"c/d e\nf'"),
            ("base64", "YSdiImMvZCBlCmY="),
        ] {
            let text = format!("{{{{ db.v | {filter} }}}}");
            assert_eq!(filled(&text, data.clone()).unwrap(), expected, "{filter}");
        }
        assert_eq!(filled("{{ db.v }}", data), Err(Unfilled::Control));
    }

    #[test]
    fn a_value_that_is_not_there_is_never_an_empty_one() {
        assert_eq!(filled("{{ db.v }}", json!({})), Err(Unfilled::Missing));
        assert_eq!(filled("{{ cache.v }}", json!({ "v": "x" })), Err(Unfilled::Missing));
    }

    #[test]
    fn all_mistakes_are_found_with_their_lines() {
        let text = "{{ db }}\n{{ db.v | upper }}\n\n{{ ../x.v }}{{ db.v";
        let error = Template::parse(text).unwrap_err();
        let lines: Vec<usize> = error.mistakes.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 4, 4], "{error}");
        assert_eq!(Template::parse("{{ \"x").unwrap_err().mistakes.len(), 1);
    }

    #[test]
    fn it_knows_which_credentials_it_needs() {
        let template = Template::parse("{{ b.x }}{{ a.y }}{{ a.z }}").unwrap();
        assert_eq!(template.credentials().into_iter().collect::<Vec<_>>(), ["a", "b"]);
    }
}
