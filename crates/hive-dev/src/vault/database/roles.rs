//! How one kind of login is made, and for how long.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Ask, Fault};
use crate::vault::setup::DatabaseRole;

#[derive(Clone, Default)]
pub(super) struct Role {
    pub(super) db: String,
    pub(super) creation: Vec<String>,
    pub(super) renew: Vec<String>,
    pub(super) revocation: Vec<String>,
    rollback: Vec<String>,
    pub(super) default_ttl: Duration,
    pub(super) max_ttl: Duration,
}

impl Role {
    pub(super) fn of_setup(db: &str, role: DatabaseRole) -> Self {
        Self {
            db: db.to_owned(),
            creation: role.creation_statements,
            revocation: role.revocation_statements,
            default_ttl: Duration::from_secs(role.default_ttl_s),
            max_ttl: Duration::from_secs(role.max_ttl_s),
            ..Self::default()
        }
    }

    /// Takes over what the body says, and leaves the rest as it is.
    pub(super) fn read(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        self.db = ask.text("db_name").unwrap_or(&self.db).to_owned();
        if self.db.is_empty() {
            return Err(Fault::new(400, "database name is required"));
        }
        if ask.text("credential_type").is_some_and(|kind| !["", "password"].contains(&kind)) {
            let text = "this development vault issues passwords alone: leave 'credential_type' out";
            return Err(Fault::new(400, text));
        }
        for (member, own) in [
            ("creation_statements", &mut self.creation),
            ("renew_statements", &mut self.renew),
            ("revocation_statements", &mut self.revocation),
            ("rollback_statements", &mut self.rollback),
        ] {
            // SQL has commas of its own: text is one statement.
            match ask.call.body.get(member) {
                Some(Value::String(text)) => *own = vec![text.clone()],
                Some(Value::Array(_)) => *own = ask.strings(member).unwrap_or_default(),
                _ => {}
            }
        }
        self.default_ttl = ask.duration("default_ttl")?.unwrap_or(self.default_ttl);
        self.max_ttl = ask.duration("max_ttl")?.unwrap_or(self.max_ttl);
        Ok(())
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "creation_statements": self.creation,
            "credential_type": "password",
            "db_name": self.db,
            "default_ttl": self.default_ttl.as_secs(),
            "max_ttl": self.max_ttl.as_secs(),
            "renew_statements": self.renew,
            "revocation_statements": self.revocation,
            "rollback_statements": self.rollback,
        })
    }
}
