//! What is known of one database, and how it is reached.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::postgres::Postgres;
use super::redis::Redis;
use super::roles::Role;
use super::{Ask, Failure, Fault, NewLogin};
use crate::vault::fields;
use crate::vault::jwt_claims::glob;
use crate::vault::setup::Database;

const POSTGRES: &str = "postgresql-database-plugin";
const REDIS: [&str; 2] = ["redis-database-plugin", "valkey-database-plugin"];
/// Shown beside the details, or never.
const NO_DETAILS: [&str; 7] = [
    "allowed_roles",
    "password",
    "password_policy",
    "plugin_name",
    "plugin_version",
    "root_rotation_statements",
    "verify_connection",
];
/// Whoever sets one of these counts on it.
const NOT_SERVED: [&str; 5] =
    ["password_policy", "private_key", "tls_ca", "tls_certificate", "username_template"];

/// One configured database.
pub(super) struct Connection {
    plugin: String,
    allowed: Vec<String>,
    details: Map<String, Value>,
    root_rotation: Vec<String>,
    /// Of the login that makes the others.
    password: Mutex<Zeroizing<String>>,
    server: Server,
}

enum Server {
    Postgres(Box<Postgres>),
    Redis(Redis),
}

impl Connection {
    pub(super) async fn of_setup(setup: &Database) -> Result<Self, Failure> {
        let server = Postgres::of_setup(setup);
        for statement in &setup.setup_statements {
            server.run(std::slice::from_ref(statement), &|text| text.to_owned()).await?;
        }
        server.check().await?;
        Ok(Self {
            plugin: POSTGRES.to_owned(),
            allowed: vec!["*".to_owned()],
            details: [("username".to_owned(), json!(setup.username))].into_iter().collect(),
            root_rotation: Vec::new(),
            password: Mutex::new(Zeroizing::new(setup.password.expose().clone())),
            server: Server::Postgres(Box::new(server)),
        })
    }

    /// As the body says, and where it says nothing, as before.
    pub(super) async fn read(ask: &Ask<'_>, old: Option<&Self>) -> Result<Self, Fault> {
        let refused = |text: String| Fault::new(400, text);
        let is_set = |name: &&&str| ask.text(name).is_some_and(|text| !text.is_empty());
        if let Some(name) = NOT_SERVED.iter().find(is_set) {
            return Err(refused(format!("'{name}' is not served by the development vault")));
        }
        let plugin = ask.text("plugin_name").or_else(|| old.map(|old| old.plugin.as_str()));
        let plugin = plugin.filter(|name| !name.is_empty());
        let plugin = plugin.ok_or_else(|| refused("empty plugin name".into()))?.to_owned();
        let mut details = old.map(|old| old.details.clone()).unwrap_or_default();
        let given = ask
            .call
            .body
            .iter()
            .filter(|(name, value)| !NO_DETAILS.contains(&name.as_str()) && !value.is_null());
        details.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        let password = match (ask.text("password"), old) {
            (Some(password), _) => Zeroizing::new(password.to_owned()),
            (None, Some(old)) => old.password().clone(),
            (None, None) => Zeroizing::default(),
        };
        let unusable = |why: &str| refused(format!("error creating database object: {why}"));
        let server = if plugin == POSTGRES {
            Postgres::of(&details, &password).map(|own| Server::Postgres(Box::new(own)))
        } else if REDIS.contains(&plugin.as_str()) {
            Redis::of(&details, &password).map(Server::Redis)
        } else {
            let missing = format!("plugin not found in the catalog: {plugin}");
            return Err(unusable(&format!(
                "invalid database version: 2 errors occurred:\n\t* {missing}\n\t* {missing}\n\n"
            )));
        };
        let server = server.map_err(|failure| unusable(&failure.0))?;
        let keep = |member: &str, old: Option<&Vec<String>>| {
            ask.strings(member).or_else(|| old.cloned()).unwrap_or_default()
        };
        let connection = Self {
            plugin,
            allowed: keep("allowed_roles", old.map(|old| &old.allowed)),
            details,
            root_rotation: keep("root_rotation_statements", old.map(|old| &old.root_rotation)),
            password: Mutex::new(password),
            server,
        };
        if ask.flag("verify_connection") != Some(false) {
            let checked = connection.reset().await;
            checked.map_err(|failure| unusable(&failure.0))?;
        }
        Ok(connection)
    }

    fn password(&self) -> MutexGuard<'_, Zeroizing<String>> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "allowed_roles": self.allowed,
            "connection_details": self.details,
            "password_policy": "",
            "plugin_name": self.plugin,
            "plugin_version": "",
            "root_credentials_rotate_statements": self.root_rotation,
        })
    }

    pub(super) fn allows(&self, role: &str) -> bool {
        self.allowed.iter().any(|pattern| glob(pattern, role))
    }

    /// A fresh name, by the plugin's pattern. Nothing of the token's name that means anything gets into it.
    pub(super) fn username(&self, shown: &str, role: &str, unix: u64) -> String {
        let plain = |text: &str, length: usize| -> String {
            let is_plain = |c: &char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(c);
            text.chars().filter(is_plain).take(length).collect()
        };
        let random = crate::vault::random_text(20);
        match &self.server {
            Server::Postgres(_) => {
                let name = format!("v-{}-{}-{random}-{unix}", plain(shown, 8), plain(role, 8));
                name.chars().take(63).collect()
            }
            Server::Redis(_) => {
                let name = format!("v_{}_{}_{random}_{unix}", plain(shown, 64), plain(role, 64));
                name.to_uppercase()
            }
        }
    }

    pub(super) async fn create(
        &self,
        login: &NewLogin,
        expires: SystemTime,
        role: &Role,
    ) -> Result<(), Failure> {
        match &self.server {
            Server::Postgres(server) => server.create(login, expires, &role.creation).await,
            Server::Redis(server) => server.create(login, &role.creation).await,
        }
    }

    /// Redis knows no end of a login, so there is nothing to move.
    pub(super) async fn extend(
        &self,
        username: &str,
        expires: SystemTime,
        statements: &[String],
    ) -> Result<(), Failure> {
        match &self.server {
            Server::Postgres(server) => server.extend(username, expires, statements).await,
            Server::Redis(_) => Ok(()),
        }
    }

    /// One that is gone already is no error.
    pub(super) async fn drop_login(
        &self,
        username: &str,
        statements: &[String],
    ) -> Result<(), Failure> {
        match &self.server {
            Server::Postgres(server) => server.drop_role(username, statements).await,
            Server::Redis(server) => server.drop_user(username).await,
        }
    }

    pub(super) async fn set_password(
        &self,
        username: &str,
        password: &str,
        statements: &[String],
    ) -> Result<(), Failure> {
        match &self.server {
            Server::Postgres(server) => server.set_password(username, password, statements).await,
            Server::Redis(server) => server.set_password(username, password).await,
        }
    }

    /// Changes the password of the login that makes the others; nobody is told the new one.
    pub(super) async fn rotate_own(&self, password: &str) -> Result<(), Failure> {
        let username = fields::text(&self.details, "username").unwrap_or_default();
        self.set_password(username, password, &self.root_rotation).await?;
        *self.password() = Zeroizing::new(password.to_owned());
        match &self.server {
            Server::Postgres(server) => server.use_password(password),
            Server::Redis(server) => server.use_password(password),
        }
        Ok(())
    }

    /// Lets go of every connection, and makes sure that a new one can be made.
    pub(super) async fn reset(&self) -> Result<(), Failure> {
        self.close().await;
        let checked = match &self.server {
            Server::Postgres(server) => server.check().await,
            Server::Redis(server) => server.check().await,
        };
        checked.map_err(|failure| Failure(format!("error verifying connection: {failure}")))
    }

    pub(super) async fn close(&self) {
        match &self.server {
            Server::Postgres(server) => server.close().await,
            Server::Redis(_) => {}
        }
    }
}
