//! Redis connections of redis-rs.
//!
//! The connections stay; they authenticate again, between two commands, whenever there is a new login. That goes for a
//! `MultiplexedConnection`, a `ConnectionManager` and the connections of a cluster alike: each is made with
//! [`RedisHolder::provider`].
//!
//! ```no_run
//! # async fn example(credential: hive_security::credentials::Credential) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::redis::RedisHolder;
//! use redis::aio::{ConnectionManager, ConnectionManagerConfig};
//! use redis::{AsyncCommands, Client};
//!
//! let holder = RedisHolder::new(["redis://cache.shop:6379"])?;
//! let settings = ConnectionManagerConfig::new().set_credentials_provider(holder.provider());
//! # use hive_security::credentials::Holder;
//! # holder.adopt(&credential).await?;
//! // Hand `holder` to whoever rotates the credential; from the first generation on:
//! let client = Client::open("redis://cache.shop:6379")?;
//! let manager = ConnectionManager::new_with_config(client, settings).await?;
//! let mut cache = holder.guard(manager); // fails at once while no login is valid
//! let seen: u64 = cache.incr("seen", 1).await?;
//! # let _ = seen;
//! # Ok(())
//! # }
//! ```
//!
//! # What to know of redis-rs 1.8
//!
//! - A connection that once fails to authenticate again never tries again, and only logs that. Its stream of logins is
//!   gone then, which is how it is noticed here: the drain asks the servers with `CLIENT LIST` whether anybody still uses
//!   an old login, and [`cut`](Holder::cut) ends those connections with `CLIENT KILL`. A `ConnectionManager` comes back
//!   by itself; a `MultiplexedConnection` has to be made again. The login needs the rights for both commands; without
//!   them such a connection counts until the overlap is over.
//! - A login that is deleted takes its connections with it at once.
//! - Subscriptions: a connection of RESP3 authenticates again and keeps them. A `PubSub` of RESP2 cannot, and has no
//!   provider either: make it with [`RedisHolder::with_login`], and make a new one after each rotation, before the overlap
//!   is over. Until then the drain waits for the old one, if it may ask the servers.
//! - Blocking commands, such as `BLPOP`, delay the authentication of their connection until they end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use self::followers::Followers;
pub use self::guard::Guarded;
pub use self::provider::Provider;
use super::login::{Barred, Login};
use crate::credentials::{Credential, Holder, HolderError};

mod followers;
mod guard;
mod provider;

const HOLDER: &str = "the Redis client";
const SERVER: &str = "Redis";
/// While the overlap lasts we look this often; often at first, and then less.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// One connection of our own.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// Moves the connections of redis-rs from one login to the next. Clones move the same connections.
#[derive(Clone)]
pub struct RedisHolder {
    nodes: Arc<[ConnectionInfo]>,
    followers: Arc<Followers>,
}

impl RedisHolder {
    /// For connections to these nodes, whose user names and passwords are ignored: each is asked whether it takes a new
    /// login before anyone uses it. Of a cluster, name every node that you know: each has users of its own.
    pub fn new(nodes: impl IntoIterator<Item = impl IntoConnectionInfo>) -> RedisResult<Self> {
        let nodes: Result<_, _> =
            nodes.into_iter().map(IntoConnectionInfo::into_connection_info).collect();
        Ok(Self { nodes: nodes?, followers: Arc::default() })
    }

    /// What connections are made with, by the `set_credentials_provider` of their settings. Until a first credential is
    /// adopted, and while it is withdrawn, they cannot be made.
    pub fn provider(&self) -> Provider {
        Provider::new(&self.followers)
    }

    /// A connection that refuses each command at once while no login is valid. Without it, a connection that exists
    /// works on until the server ends it.
    pub fn guard<C>(&self, connection: C) -> Guarded<C> {
        Guarded::new(connection, &self.followers)
    }

    /// How to connect with the login of now, once; for what takes no provider.
    pub fn with_login(&self, node: ConnectionInfo) -> Result<ConnectionInfo, Barred> {
        let current = self.followers.current().ok_or(Barred { server: SERVER })?;
        Ok(with_login(node, &current.login))
    }

    async fn probe_with(&self, fresh: &Credential) -> Result<(), HolderError> {
        let login = Login::of(fresh, HOLDER)?;
        for node in self.nodes.iter() {
            // A connection is one that the server has authenticated.
            if let Err(error) = connect(node, &login).await {
                return Err(refused_or_unreachable(fresh, error));
            }
        }
        Ok(())
    }

    async fn await_drained(&self, generation: u64) {
        let (mut pause, mut changed) = (LOOKS.0, self.followers.changes());
        loop {
            if !self.followers.has_below(generation) && self.nobody_else_below(generation).await {
                self.followers.forget_logins_below(generation);
                return;
            }
            if timeout(pause, changed.changed()).await.is_err() {
                pause = (2 * pause).min(LOOKS.1);
            }
        }
    }

    /// Whether the servers know nobody who uses an older login. Who may not ask relies on what was seen from here.
    async fn nobody_else_below(&self, generation: u64) -> bool {
        let users = self.followers.usernames_below(generation);
        for node in self.nodes.iter() {
            match self.ask(node, &users).await {
                Some(0) => {}
                Some(left) => {
                    tracing::debug!(left, "connections to Redis still use an old login");
                    return false;
                }
                None if self.followers.lost_below(generation) => return false,
                None => {}
            }
        }
        true
    }

    /// How many connections a node has of these users; None if it does not say.
    async fn ask(&self, node: &ConnectionInfo, users: &[String]) -> Option<usize> {
        let current = self.followers.current().filter(|current| current.may_list())?;
        let mut connection = connect(node, &current.login).await.ok()?;
        let listed: RedisResult<String> =
            redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await;
        match listed {
            Ok(clients) => Some(clients.lines().filter(|line| is_one_of(line, users)).count()),
            Err(error) => {
                if error.code() == Some("NOPERM") {
                    current.may_not_list();
                }
                None
            }
        }
    }

    async fn cut_below(&self, generation: u64) {
        let users = self.followers.usernames_below(generation);
        if let Some(current) = self.followers.current() {
            for node in self.nodes.iter() {
                if let Err(error) = kill(node, &current.login, &users).await {
                    tracing::warn!(%error, "connections with an old login could not be ended");
                }
            }
        }
        self.followers.give_up_below(generation);
    }
}

impl Holder for RedisHolder {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.probe_with(fresh).boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async {
            self.followers.adopt(fresh.generation(), Login::of(fresh, HOLDER)?);
            Ok(())
        }
        .boxed()
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.await_drained(generation).boxed()
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.cut_below(generation).boxed()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        async { self.followers.bar() }.boxed()
    }
}

impl fmt::Debug for RedisHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHolder")
            .field("nodes", &self.nodes.len())
            .field("barred", &self.followers.current().is_none())
            .finish_non_exhaustive()
    }
}

const BARRED: &str = "no login for Redis is valid";

/// Whether the cause of an error is that no credential is valid, so that nothing was even tried.
pub fn is_barred_error(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed && error.to_string().starts_with(BARRED)
}

fn barred() -> RedisError {
    let barred = Barred { server: SERVER };
    RedisError::from((ErrorKind::AuthenticationFailed, BARRED, barred.to_string()))
}

fn with_login(node: ConnectionInfo, login: &Login) -> ConnectionInfo {
    let settings = node.redis_settings().clone();
    let settings = settings
        .set_username(login.username.expose_secret())
        .set_password(login.password.expose_secret());
    node.set_redis_settings(settings)
}

async fn connect(node: &ConnectionInfo, login: &Login) -> RedisResult<MultiplexedConnection> {
    let client = Client::open(with_login(node.clone(), login))?;
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(COMMAND_DEADLINE));
    client.get_multiplexed_async_connection_with_config(&settings).await
}

fn refused_or_unreachable(credential: &Credential, error: RedisError) -> HolderError {
    let refused = matches!(error.kind(), ErrorKind::AuthenticationFailed)
        || matches!(error.code(), Some("NOPERM" | "WRONGPASS" | "NOAUTH"));
    let (credential, cause) = (credential.name().to_owned(), Some(Arc::new(error) as crate::Cause));
    if refused {
        HolderError::Refused { server: SERVER, credential, cause }
    } else {
        HolderError::Unreachable { server: SERVER, credential, cause }
    }
}

/// A line of `CLIENT LIST` has fields such as `user=name`, and a name has no blanks.
fn is_one_of(line: &str, users: &[String]) -> bool {
    let user = line.split(' ').find_map(|field| field.strip_prefix("user="));
    user.is_some_and(|user| users.iter().any(|old| old == user))
}

async fn kill(node: &ConnectionInfo, login: &Login, users: &[String]) -> RedisResult<()> {
    let mut connection = connect(node, login).await?;
    for user in users {
        let mut command = redis::cmd("CLIENT");
        command.arg("KILL").arg("USER").arg(user);
        match command.query_async::<i64>(&mut connection).await {
            Ok(_) => {}
            // Without the user there are no connections of it.
            Err(error) if error.to_string().contains("No such user") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_of_clients_belongs_to_the_user_whom_it_names() {
        let line = "id=3 addr=127.0.0.1:5 name= db=0 argv-mem=0 user=v-app-1 redir=-1 resp=2";
        let of = |user: &str| is_one_of(line, &[user.to_owned()]);
        assert!(of("v-app-1"));
        assert!(!of("v-app") && !of("v-app-11") && !is_one_of("", &["x".to_owned()]));
    }

    #[test]
    fn an_error_that_says_that_nothing_is_valid_is_known_again() {
        assert!(is_barred_error(&barred()));
        let other =
            RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed"));
        assert!(!is_barred_error(&other));
    }
}
