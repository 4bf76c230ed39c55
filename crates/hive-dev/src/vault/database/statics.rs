//! Static roles: a login that is there already, whose password changes by itself.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use hive_lease::Moment;
use hive_security::clock::Clock;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use super::{Ask, Databases, Fault, Inner, Reply, Verb, internal, new_password};
use crate::vault::clock::rfc3339;
use crate::vault::terms::since;

const PERIOD_MIN: Duration = Duration::from_secs(5);
/// A rotation that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);

/// One static role.
pub(super) struct Static {
    db: String,
    username: String,
    period: Duration,
    statements: Vec<String>,
    password: Zeroizing<String>,
    rotated: SystemTime,
    next: Moment,
    /// Rotates; gone with the role.
    upkeep: AbortHandle,
}

impl Drop for Static {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

impl Static {
    fn shown(&self) -> Value {
        json!({
            "credential_type": "password",
            "db_name": self.db,
            "last_vault_rotation": rfc3339(self.rotated),
            "rotation_period": self.period.as_secs(),
            "rotation_statements": self.statements,
            "username": self.username,
        })
    }
}

impl Databases {
    pub(super) async fn static_role(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        match ask.verb() {
            Verb::Delete => {
                self.0.state().statics.remove(name);
                Ok(Reply::Empty)
            }
            Verb::Read => {
                let state = self.0.state();
                let own = state.statics.get(name).ok_or_else(Fault::no_value)?;
                Ok(Reply::data(own.shown()))
            }
            Verb::Write => self.put_static(ask, name).await,
            _ => Err(Fault::unsupported()),
        }
    }

    async fn put_static(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let refused = |text: &str| Err(Fault::new(400, text));
        let old =
            self.0.state().statics.get(name).map(|own| {
                (own.db.clone(), own.username.clone(), own.period, own.statements.clone())
            });
        let is_new = old.is_none();
        let (db, username, period, statements) = old.unwrap_or_default();
        let given = |member: &str, old: String| ask.text(member).map_or(old, str::to_owned);
        let db = given("db_name", db);
        if db.is_empty() {
            return refused("database name is a required field");
        }
        let asked = given("username", username.clone());
        if asked.is_empty() {
            return refused("username is a required field to create a static account");
        }
        if !is_new && asked != username {
            return refused("cannot update static account username");
        }
        if ask.text("rotation_schedule").is_some_and(|text| !text.is_empty()) {
            return refused(
                "'rotation_schedule' is not served by the development vault: use 'rotation_period'",
            );
        }
        let period = ask.duration("rotation_period")?.unwrap_or(period);
        if period.is_zero() {
            return refused("rotation_period is required to create static accounts");
        }
        if period < PERIOD_MIN {
            return refused("rotation_period must be 5 seconds or more");
        }
        let statements = ask.strings("rotation_statements").unwrap_or(statements);
        self.0.connection_for(&db, name)?;
        let clock = ask.core.clock.clone();
        if is_new {
            self.add_static(&clock, name, (db, asked, period, statements)).await?;
        } else if let Some(own) = self.0.state().statics.get_mut(name) {
            (own.db, own.period, own.statements) = (db, period, statements);
            own.next = clock.now() + period;
            own.upkeep.abort();
            own.upkeep = self.keep_up(&clock, name, own.next);
        }
        Ok(Reply::Empty)
    }

    /// Its password is changed at once: from here on it is ours.
    async fn add_static(
        &self,
        clock: &Clock,
        name: &str,
        (db, username, period, statements): (String, String, Duration, Vec<String>),
    ) -> Result<(), Fault> {
        let password = new_password();
        let connection = self.0.connection_for(&db, name)?;
        let changed = connection.set_password(&username, &password, &statements).await;
        changed.map_err(|failure| internal(&failure))?;
        let next = clock.now() + period;
        let own = Static {
            db,
            username,
            period,
            statements,
            password,
            rotated: clock.wall(),
            next,
            upkeep: self.keep_up(clock, name, next),
        };
        self.0.state().statics.insert(name.to_owned(), own);
        Ok(())
    }

    fn keep_up(&self, clock: &Clock, name: &str, first: Moment) -> AbortHandle {
        keep_up(Arc::downgrade(&self.0), clock.clone(), name.to_owned(), first)
    }

    pub(super) async fn static_login(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let (data, password) = {
            let state = self.0.state();
            let own = state.statics.get(name);
            let own = own.ok_or_else(|| Fault::new(400, format!("unknown role: {name}")))?;
            let data = json!({
                "last_vault_rotation": rfc3339(own.rotated),
                "password": own.password.as_str(),
                "rotation_period": own.period.as_secs(),
                "ttl": since(ask.now(), own.next).as_secs(),
                "username": own.username,
            });
            (data, own.password.clone())
        };
        ask.witness("db-password", &password).await?;
        Ok(Reply::data(data))
    }

    pub(super) async fn rotate_role(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        if !self.0.state().statics.contains_key(name) {
            return Err(Fault::new(400, "no static role found for role name"));
        }
        self.0.rotate(&ask.core.clock, name).await?;
        Ok(Reply::Empty)
    }
}

impl Inner {
    /// Changes the password in the database first: should that fail, the old one is still good.
    async fn rotate(&self, clock: &Clock, name: &str) -> Result<(), Fault> {
        let _turn = self.turn.lock().await;
        let (db, username, statements) = {
            let state = self.state();
            let Some(own) = state.statics.get(name) else { return Ok(()) };
            (own.db.clone(), own.username.clone(), own.statements.clone())
        };
        let connection = self.connection_for(&db, name)?;
        let password = new_password();
        let changed = connection.set_password(&username, &password, &statements).await;
        changed.map_err(|failure| internal(&failure))?;
        if let Some(own) = self.state().statics.get_mut(name) {
            own.password = password;
            own.rotated = clock.wall();
            own.next = clock.now() + own.period;
        }
        Ok(())
    }

    fn next(&self, name: &str) -> Option<Moment> {
        self.state().statics.get(name).map(|own| own.next)
    }

    fn put_off(&self, clock: &Clock, name: &str) {
        if let Some(own) = self.state().statics.get_mut(name) {
            own.next = clock.now() + RETRY;
        }
    }
}

/// Rotates when it is time, for as long as the role is there.
fn keep_up(inner: Weak<Inner>, clock: Clock, name: String, first: Moment) -> AbortHandle {
    let work = async move {
        let mut next = first;
        loop {
            clock.sleep_until(next).await;
            let Some(inner) = inner.upgrade() else { return };
            // Somebody may have rotated it meanwhile.
            let is_due = inner.next(&name).is_some_and(|next| next <= clock.now());
            if is_due && let Err(fault) = inner.rotate(&clock, &name).await {
                let why = fault.errors.concat();
                tracing::warn!(
                    role = name,
                    why,
                    "a password was not rotated; it will be tried again"
                );
                inner.put_off(&clock, &name);
            }
            let Some(planned) = inner.next(&name) else { return };
            next = planned;
        }
    };
    tokio::spawn(work).abort_handle()
}
