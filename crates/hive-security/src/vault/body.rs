//! The body of a request, which is wiped when it was sent.

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::SecretJson;

/// A JSON object that is put together without leaving copies of its secrets behind.
#[derive(Default)]
pub(super) struct Body(Vec<(&'static str, Zeroizing<String>)>);

impl Body {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn text(self, name: &'static str, value: &str) -> Self {
        self.json(name, quoted(value))
    }

    pub(super) fn secret(self, name: &'static str, value: &SecretString) -> Self {
        self.text(name, value.expose_secret())
    }

    pub(super) fn document(self, name: &'static str, value: &SecretJson) -> Self {
        self.json(name, Zeroizing::new(value.expose_text().to_owned()))
    }

    /// What is not secret.
    pub(super) fn plain(self, name: &'static str, value: impl Into<Value>) -> Self {
        self.json(name, Zeroizing::new(value.into().to_string()))
    }

    /// Nothing at all where there is no value.
    pub(super) fn maybe(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.plain(name, value),
            None => self,
        }
    }

    fn json(mut self, name: &'static str, value: Zeroizing<String>) -> Self {
        self.0.push((name, value));
        self
    }

    pub(super) fn bytes(self) -> Bytes {
        // Made once in its full size: a buffer that grows leaves its old places unwiped.
        let size = self.0.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let mut text = Zeroizing::new(Vec::with_capacity(size + 2));
        text.push(b'{');
        for (place, (name, value)) in self.0.iter().enumerate() {
            text.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b"\":");
            text.extend_from_slice(value.as_bytes());
        }
        text.push(b'}');
        Bytes::from_owner(text)
    }
}

/// JSON makes at most six bytes out of one.
fn quoted(value: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(value.len() * 6 + 2));
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{0}'..='\u{1f}' => {
                text.push_str("\\u00");
                let hexadecimal = |digit: u32| char::from_digit(digit, 16).unwrap_or('0');
                text.push(hexadecimal(u32::from(c) >> 4));
                text.push(hexadecimal(u32::from(c) & 15));
            }
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_is_put_in_comes_out_again() {
        let odd = "a\"b\\c\n\t\u{1}\u{1f}ü€😀";
        let body = Body::new()
            .text("a", odd)
            .plain("n", 3)
            .maybe("none", None::<u64>)
            .document("d", &SecretJson::new(json!({ "k": odd })));
        let read: Value = serde_json::from_slice(&body.bytes()).unwrap();
        assert_eq!(read, json!({ "a": odd, "n": 3, "d": { "k": odd } }));
        assert_eq!(&Body::new().bytes()[..], b"{}");
    }
}
