//! Redis and Valkey: users of their access control lists.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use serde_json::{Map, Value};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{CONNECT_DEADLINE, Failure, NewLogin};
use crate::vault::fields;

/// What a user may do whose role says nothing.
const USUAL_RULES: [&str; 2] = ["~*", "+@read"];

/// A server. A connection is made for each change: there are few, and none is left behind.
pub(super) struct Redis {
    host: String,
    port: u16,
    username: String,
    password: Mutex<Zeroizing<String>>,
}

impl Redis {
    pub(super) fn of(details: &Map<String, Value>, password: &str) -> Result<Self, Failure> {
        let failed = |text: &str| Failure(text.to_owned());
        let required = |member: &str| {
            let text = fields::text(details, member).filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or_else(|| failed(&format!("{member} cannot be empty")))
        };
        let port = fields::number(details, "port").map_err(|_| failed("port cannot be parsed"))?;
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        if fields::flag(details, "tls") == Some(true) {
            return Err(failed("this development vault reaches Redis without TLS alone"));
        }
        Ok(Self {
            host: required("host")?,
            port: port.ok_or_else(|| failed("port cannot be empty"))?,
            username: required("username")?,
            password: Mutex::new(Zeroizing::new(password.to_owned())),
        })
    }

    fn password(&self) -> MutexGuard<'_, Zeroizing<String>> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn use_password(&self, password: &str) {
        *self.password() = Zeroizing::new(password.to_owned());
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let login = RedisConnectionInfo::default()
            .set_username(&self.username)
            .set_password(self.password().as_str());
        let address = ConnectionAddr::Tcp(self.host.clone(), self.port);
        let client = Client::open(address.into_connection_info()?.set_redis_settings(login))?;
        let connected = timeout(CONNECT_DEADLINE, client.get_multiplexed_async_connection()).await;
        Ok(connected.map_err(|_| late())??)
    }

    /// One command, on a connection of its own.
    async fn run(&self, command: &Cmd) -> Result<(), Failure> {
        let mut connection = self.connection().await?;
        let done = timeout(CONNECT_DEADLINE, command.query_async::<redis::Value>(&mut connection));
        done.await.map_err(|_| late())??;
        Ok(())
    }

    pub(super) async fn check(&self) -> Result<(), Failure> {
        self.run(&redis::cmd("PING")).await
    }

    pub(super) async fn create(
        &self,
        login: &NewLogin,
        statements: &[String],
    ) -> Result<(), Failure> {
        let mut command = redis::cmd("ACL");
        let password = Zeroizing::new(format!(">{}", login.password.as_str()));
        command.arg("SETUSER").arg(&login.username).arg("ON").arg(password.as_str());
        for rule in rules(statements) {
            command.arg(rule);
        }
        self.run(&command).await
    }

    /// Redis closes the user's connections by itself.
    pub(super) async fn drop_user(&self, username: &str) -> Result<(), Failure> {
        self.run(redis::cmd("ACL").arg("DELUSER").arg(username)).await
    }

    pub(super) async fn set_password(&self, username: &str, password: &str) -> Result<(), Failure> {
        let mut connection = self.connection().await?;
        let mut command = redis::cmd("ACL");
        let known =
            command.arg("GETUSER").arg(username).query_async::<redis::Value>(&mut connection);
        let known = timeout(CONNECT_DEADLINE, known).await.map_err(|_| late())??;
        // Else it would be made.
        if known == redis::Value::Nil {
            return Err(Failure(format!("user {username} not found")));
        }
        let password = Zeroizing::new(format!(">{password}"));
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(username).arg("RESETPASS").arg(password.as_str());
        self.run(&command).await
    }
}

/// The first statement is a JSON array of rules; if it is not, every statement is a rule.
fn rules(statements: &[String]) -> Vec<String> {
    let own: Vec<_> =
        statements.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    let Some(first) = own.first() else {
        return USUAL_RULES.map(str::to_owned).to_vec();
    };
    serde_json::from_str(first)
        .unwrap_or_else(|_| own.iter().map(|text| (*text).to_owned()).collect())
}

fn late() -> Failure {
    Failure("Redis did not answer in time".to_owned())
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self(match error.code() {
            Some(code) => format!("Redis answered with error {code}"),
            None if error.is_io_error() => "Redis cannot be reached".to_owned(),
            None => format!("the connection to Redis failed: {}", error.category()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_a_json_array_or_plain_or_the_usual_ones() {
        let of = |statements: &[&str]| {
            rules(&statements.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["[\"~app:*\", \"+get\"]"]), ["~app:*", "+get"]);
        assert_eq!(of(&["~app:*", " +get "]), ["~app:*", "+get"]);
        assert_eq!(of(&[]), USUAL_RULES);
    }
}
