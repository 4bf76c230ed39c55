//! One generation of something borrowed.

use std::fmt;
use std::sync::Arc;

use secrecy::SecretString;

use crate::SecretJson;

/// A credential as it was issued, all of its fields together: a user name never meets another generation's password.
///
/// Cheap to clone. `Debug` shows its name and generation only.
#[derive(Clone)]
pub struct Credential(Arc<Inner>);

struct Inner {
    name: String,
    generation: u64,
    data: SecretJson,
}

impl Credential {
    /// A credential that its holder calls `name`. Generations count from 1 and only grow.
    pub fn new(name: impl Into<String>, generation: u64, data: SecretJson) -> Self {
        Self(Arc::new(Inner { name: name.into(), generation, data }))
    }

    /// What the holder calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Which one it is: a later one has a greater number.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Its fields, such as `username` and `password`.
    pub fn data(&self) -> &SecretJson {
        &self.0.data
    }

    /// One field, if it is there and is text.
    pub fn field(&self, name: &str) -> Option<SecretString> {
        self.0.data.text(name)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.0.name)
            .field("generation", &self.0.generation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_credential_has_fields_and_shows_none_of_them() {
        let data = json!({ "username": "v-app", "password": "hunter2" });
        let credential = Credential::new("db", 3, SecretJson::new(data));
        let password = credential.field("password").expect("it has one");
        assert_eq!(password.expose_secret(), "hunter2");
        assert!(credential.field("token").is_none());
        let shown = format!("{credential:?}");
        assert_eq!(shown, r#"Credential { name: "db", generation: 3, .. }"#);
    }
}
