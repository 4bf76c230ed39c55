//! The database engine: logins that exist for as long as their lease, and passwords that change by themselves, in a
//! real PostgreSQL or Redis.
//!
//! Not here: other databases, password policies, username templates, rotation by a schedule.

mod connection;
mod postgres;
mod redis;
mod roles;
mod statics;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::connection::Connection;
use self::roles::Role;
use self::statics::Static;
use super::core::{Core, Lease};
use super::engine::{Ask, Engine};
use super::reply::{Fault, Reply, random_text};
use super::routes::Verb;
use super::setup::Database;
use super::terms::Terms;
use super::{Error, clock, fields};

/// The connection that a setup describes.
const OF_SETUP: &str = "setup";
const PASSWORD_LETTERS: usize = 20;

/// One mount of the engine.
#[derive(Clone, Default)]
pub(super) struct Databases(Arc<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    state: Mutex<State>,
    /// Passwords of static roles change one after the other.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    connections: BTreeMap<String, Arc<Connection>>,
    roles: BTreeMap<String, Role>,
    statics: BTreeMap<String, Static>,
}

/// A login that is about to be created.
pub(super) struct NewLogin {
    pub(super) username: String,
    pub(super) password: Zeroizing<String>,
}

/// The database refused, or is not there. What it said may quote a statement, so only its code is kept.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failure(String);

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self, name: &str) -> Result<Arc<Connection>, Fault> {
        let missing = || {
            Fault::listed(500, &format!("failed to find entry for connection with name: {name:?}"))
        };
        self.state().connections.get(name).cloned().ok_or_else(missing)
    }

    /// The connection, if the role may use it.
    fn connection_for(&self, name: &str, role: &str) -> Result<Arc<Connection>, Fault> {
        let connection = self.connection(name)?;
        if !connection.allows(role) {
            return Err(Fault::listed(500, &format!("{role:?} is not an allowed role")));
        }
        Ok(connection)
    }
}

impl Engine for Databases {
    fn exists(&self, _core: &Core, path: &str) -> bool {
        let state = self.0.state();
        match path.split_once('/') {
            Some(("config", name)) => state.connections.contains_key(name),
            Some(("roles", name)) => state.roles.contains_key(name),
            Some(("static-roles", name)) => state.statics.contains_key(name),
            _ => true,
        }
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move { self.answer(&ask).await }.boxed()
    }

    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        expires: SystemTime,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let statements = statements(lease, "renew");
            let role = text(lease, "role");
            if !self.0.state().roles.contains_key(role) {
                // As the real server says it, with what its own code is made of.
                let why = format!("error during renew: could not find role with name {role:?}");
                return Err(format!("resp: (*logical.Response)(nil) err: {why}"));
            }
            let connection = self.0.connection(text(lease, "db")).map_err(|fault| told(&fault))?;
            let extended = connection.extend(text(lease, "username"), expires, &statements).await;
            extended.map_err(|failure| failure.to_string())
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let statements = statements(lease, "revocation");
            let connection = self.0.connection(text(lease, "db")).map_err(|fault| told(&fault))?;
            let dropped = connection.drop_login(text(lease, "username"), &statements).await;
            dropped.map_err(|failure| failure.to_string())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let mut state = self.0.state();
        state.statics.clear();
        let connections = std::mem::take(&mut state.connections);
        drop(state);
        async move {
            for connection in connections.into_values() {
                connection.close().await;
            }
        }
        .boxed()
    }
}

fn text<'a>(lease: &'a Lease, member: &str) -> &'a str {
    fields::text(&lease.data, member).unwrap_or_default()
}

fn statements(lease: &Lease, member: &str) -> Vec<String> {
    fields::strings(&lease.data, member).unwrap_or_default()
}

fn told(fault: &Fault) -> String {
    fault.errors.concat()
}

impl Databases {
    /// As a setup describes it, its statements run.
    pub(super) async fn connect(setup: Database) -> Result<Self, Error> {
        let (host, port) = (setup.host.clone(), setup.port);
        let failed = |why: Failure| Error::Database { host, port, why: why.0 };
        let own = Self::default();
        let connection = Connection::of_setup(&setup).await.map_err(failed)?;
        let mut state = own.0.state();
        state.connections.insert(OF_SETUP.to_owned(), Arc::new(connection));
        let roles = setup.roles.into_iter();
        state.roles = roles.map(|(name, role)| (name, Role::of_setup(OF_SETUP, role))).collect();
        drop(state);
        Ok(own)
    }

    async fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let path = ask.path.trim_end_matches('/');
        let Some((what, name)) = path.split_once('/') else { return self.list(ask, path) };
        // Nothing that means anything in SQL or in a URL.
        if !is_name(name) {
            return Err(Fault::unsupported_path());
        }
        match (what, ask.verb()) {
            ("config", _) => self.config(ask, name).await,
            ("creds", Verb::Read) => self.issue(ask, name).await,
            ("reset", Verb::Write) => {
                self.0.connection(name)?.reset().await.map_err(|failure| internal(&failure))?;
                Ok(Reply::Empty)
            }
            ("roles", _) => self.role(ask, name),
            ("rotate-role", Verb::Write) => self.rotate_role(ask, name).await,
            ("rotate-root", Verb::Write) => {
                let password = new_password();
                ask.witness("db-password", &password).await?;
                let rotated = self.0.connection(name)?.rotate_own(&password).await;
                rotated.map(|()| Reply::Empty).map_err(|failure| internal(&failure))
            }
            ("static-creds", Verb::Read) => self.static_login(ask, name).await,
            ("static-roles", _) => self.static_role(ask, name).await,
            ("creds" | "reset" | "rotate-role" | "rotate-root" | "static-creds", _) => {
                Err(Fault::unsupported())
            }
            _ => Err(Fault::unsupported_path()),
        }
    }

    fn list(&self, ask: &Ask<'_>, what: &str) -> Result<Reply, Fault> {
        let state = self.0.state();
        let names: Vec<String> = match what {
            "config" => state.connections.keys().cloned().collect(),
            "roles" => state.roles.keys().cloned().collect(),
            "static-roles" => state.statics.keys().cloned().collect(),
            _ => return Err(Fault::unsupported_path()),
        };
        if ask.verb() == Verb::List { Reply::keys(names) } else { Err(Fault::unsupported()) }
    }

    async fn config(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        match ask.verb() {
            Verb::Delete => {
                let old = self.0.state().connections.remove(name);
                if let Some(old) = old {
                    old.close().await;
                }
                Ok(Reply::Empty)
            }
            Verb::Read => {
                let connection = self.0.state().connections.get(name).cloned();
                connection.ok_or_else(Fault::no_value).map(|own| Reply::data(own.shown()))
            }
            Verb::Write => {
                let old = self.0.state().connections.get(name).cloned();
                let connection = Connection::read(ask, old.as_deref()).await?;
                self.0.state().connections.insert(name.to_owned(), Arc::new(connection));
                if let Some(old) = old {
                    old.close().await;
                }
                Ok(Reply::Empty)
            }
            _ => Err(Fault::unsupported()),
        }
    }

    fn role(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let mut state = self.0.state();
        match ask.verb() {
            Verb::Delete => {
                state.roles.remove(name);
                Ok(Reply::Empty)
            }
            Verb::Read => {
                let role = state.roles.get(name).ok_or_else(Fault::no_value)?;
                Ok(Reply::data(role.shown()))
            }
            Verb::Write => {
                let mut role = state.roles.get(name).cloned().unwrap_or_default();
                role.read(ask)?;
                state.roles.insert(name.to_owned(), role);
                Ok(Reply::Empty)
            }
            _ => Err(Fault::unsupported()),
        }
    }

    /// `creds/<role>`: a new login and the lease it lives by.
    async fn issue(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let role = self.0.state().roles.get(name).cloned();
        let role = role.ok_or_else(|| Fault::new(400, format!("unknown role: {name}")))?;
        let connection = self.0.connection_for(&role.db, name)?;
        let shown = &ask.caller()?.token.display_name;
        let username = connection.username(shown, name, clock::unix(ask.wall()));
        let login = NewLogin { username, password: new_password() };
        ask.witness("db-password", &login.password).await?;
        let terms = Terms { ttl: role.default_ttl, max_ttl: role.max_ttl, renewable: true };
        let data = [
            ("db", json!(role.db)),
            ("renew", json!(role.renew)),
            ("revocation", json!(role.revocation)),
            ("role", json!(name)),
            ("username", json!(login.username)),
        ];
        let data = data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let make = |expires| async move {
            let failed =
                |failure| Fault::listed(500, &format!("failed to create the role: {failure}"));
            connection.create(&login, expires, &role).await.map_err(failed)?;
            Ok::<Value, Fault>(json!({
                "username": login.username,
                "password": login.password.as_str(),
            }))
        };
        ask.lease(terms, data, make).await
    }
}

fn new_password() -> Zeroizing<String> {
    Zeroizing::new(random_text(PASSWORD_LETTERS))
}

fn internal(failure: &Failure) -> Fault {
    Fault::listed(500, &failure.0)
}

/// Letters, digits and `_`; within them also `-`, `.` and `@`.
fn is_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(is_word)
        && name.ends_with(is_word)
        && name.chars().all(|c| is_word(c) || ['-', '.', '@'].contains(&c))
}

/// How long a try to reach a database may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_meaning_in_sql_or_a_shell_is_no_name() {
        for good in ["app", "app-1", "a.b@c", "A_1", "x"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a'b", "a\"b", "a;b", "a b", "-a", "a-", "$(id)", "a/b", "ä", "a\0b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
