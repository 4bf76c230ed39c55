//! Secrets that a program must hold for a moment.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zeroize::Zeroize;

/// A JSON document that is secret, such as the data of a lease.
///
/// It is kept as text that is wiped when it is dropped. `Debug` shows nothing of it, and it cannot be
/// serialised by accident, for it does not implement `Serialize`.
#[derive(Clone)]
pub struct SecretJson(SecretString);

/// A secret document does not have the shape that was asked for.
///
/// It says where, and never what: the message of a JSON parser quotes the value that it did not like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret document does not have the expected shape (at line {line}, column {column})")]
pub struct SecretShape {
    /// Line in the document's compact text.
    pub line: usize,
    /// Column in the document's compact text.
    pub column: usize,
}

impl SecretJson {
    /// Takes the document over and wipes the text values of the original.
    pub fn new(mut document: Value) -> Self {
        let text = document.to_string();
        wipe(&mut document);
        Self(SecretString::from(text))
    }

    /// The document as compact JSON text.
    pub fn expose_text(&self) -> &str {
        self.0.expose_secret()
    }

    /// Reads the document into `T`, which should wipe itself as well.
    pub fn expose<T: DeserializeOwned>(&self) -> Result<T, SecretShape> {
        serde_json::from_str(self.expose_text())
            .map_err(|error| SecretShape { line: error.line(), column: error.column() })
    }

    /// The value of the top-level field `name`, if it is there and is text.
    pub fn text(&self, name: &str) -> Option<SecretString> {
        let mut document: Value = self.expose().ok()?;
        let found = document.get(name).and_then(Value::as_str).map(SecretString::from);
        wipe(&mut document);
        found
    }

    /// The value of the top-level field `name`, as JSON where it is no text; none where it is `null`.
    pub fn text_or_json(&self, name: &str) -> Option<SecretString> {
        let mut document: Value = self.expose().ok()?;
        let found = match document.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(SecretString::from(text.as_str())),
            Some(value) => Some(SecretString::from(value.to_string())),
        };
        wipe(&mut document);
        found
    }

    /// Whether it is the same document.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(
            self.expose_text().as_bytes(),
            other.expose_text().as_bytes(),
        )
        .is_ok()
    }

    /// The names of the top-level fields, in order; names are not secret.
    pub fn field_names(&self) -> Vec<String> {
        let mut document: Value = self.expose().unwrap_or_default();
        let names =
            document.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
        wipe(&mut document);
        names
    }
}

impl fmt::Debug for SecretJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretJson(..)")
    }
}

impl<'de> Deserialize<'de> for SecretJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::new)
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_can_be_read_and_nothing_is_shown() {
        let secret = SecretJson::new(json!({ "username": "u", "password": "hunter2" }));
        assert_eq!(secret.text("password").unwrap().expose_secret(), "hunter2");
        assert_eq!(secret.field_names(), ["password", "username"]);
        assert_eq!(format!("{secret:?}"), "SecretJson(..)");
    }

    #[test]
    fn a_wrong_shape_is_reported_without_the_value() {
        let secret = SecretJson::new(json!({ "ttl": "hunter2" }));
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only its shape matters")]
        struct Shape {
            ttl: u32,
        }
        let error = secret.expose::<Shape>().unwrap_err();
        assert!(!error.to_string().contains("hunter2") && error.line == 1);
    }
}
