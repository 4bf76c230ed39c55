//! PostgreSQL connections in a deadpool.
//!
//! Every session carries the login that opened it. After [`adopt`](Holder::adopt) new sessions use the new login. While
//! somebody awaits [`drained`](Holder::drained), sessions are opened beforehand, one at a time, and take the place of older
//! ones that are asked for or idle: no user of the pool waits for one, and if the server gives none, the old ones go on.
//! One that is in use is left alone until it comes back, or until [`cut`](Holder::cut).
//!
//! ```no_run
//! # async fn example(credential: hive_security::credentials::Credential) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::deadpool_postgres::PgPoolHolder;
//! use tokio_postgres::{Config, NoTls};
//!
//! let mut server = Config::new();
//! server.host("db.shop").dbname("orders");
//! let holder = PgPoolHolder::new(server, NoTls, |pool| pool.max_size(10))?;
//! let pool = holder.pool().clone(); // for everyone who needs sessions, now and after each rotation
//! # use hive_security::credentials::Holder;
//! # holder.adopt(&credential).await?;
//! // Hand `holder` to whoever rotates the credential; from the first generation on:
//! let row = pool.get().await?.query_one("SELECT count(*) FROM orders", &[]).await?;
//! # let _ = row;
//! # Ok(())
//! # }
//! ```
//!
//! As with the pool of sqlx, there must be no pooler of sessions between it and the server, and a rotation needs a
//! connection or two beyond those of the pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, BuildError, Metrics, RecycleError, RecycleResult, Timeouts};
use deadpool_postgres::ClientWrapper;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use secrecy::ExposeSecret;
use tokio::time::{sleep, timeout};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use self::door::{Door, WithTls};
use self::logins::{Logins, OneLogin};
use self::spare::Spare;
use super::login::{Barred, Login};
use super::postgres::{Doubt, SERVER, refused_or_unreachable};
use crate::credentials::{Credential, Holder, HolderError};

mod door;
mod logins;
mod spare;

const HOLDER: &str = "the PostgreSQL pool";
/// How often we look for sessions that came back; looking costs a lock and no question to anybody.
const LOOK: Duration = Duration::from_millis(10);
/// The pause after the server gave no session; it may be full.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Asking the server to give up a statement. If it takes longer, the connection is closed all the same.
const CANCEL_DEADLINE: Duration = Duration::from_secs(1);

/// A pool whose sessions know their login.
pub type Pool = managed::Pool<Manager>;

/// Moves a pool from one login to the next. Clones share the pool.
#[derive(Clone)]
pub struct PgPoolHolder {
    pool: Pool,
    door: Arc<dyn Door>,
    server: Arc<Config>,
    logins: Arc<Logins>,
}

/// Opens the sessions of a [`Pool`], with the login of now.
pub struct Manager {
    door: Arc<dyn Door>,
    logins: Arc<Logins>,
    spare: Spare,
}

/// A session, and the login that it belongs to. Everything else is [`ClientWrapper`].
pub struct Session {
    client: ClientWrapper,
    login: Arc<OneLogin>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No credential is valid, so nothing was even tried.
    #[error(transparent)]
    Barred(Barred),
    /// PostgreSQL refused, or could not be reached.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

impl PgPoolHolder {
    /// A pool of sessions with `server`, whose user name and password are ignored. Until a first credential is adopted,
    /// nothing can be had from it. `settings` may change whatever a builder of a pool can change.
    pub fn new<T>(
        server: Config,
        tls: T,
        settings: impl FnOnce(managed::PoolBuilder<Manager>) -> managed::PoolBuilder<Manager>,
    ) -> Result<Self, BuildError>
    where
        T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
        T::Stream: Sync + Send,
        T::TlsConnect: Sync + Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (door, logins) = (Arc::new(WithTls(tls)), Arc::new(Logins::default()));
        let manager = Manager {
            door: Arc::clone(&door) as Arc<dyn Door>,
            logins: Arc::clone(&logins),
            spare: Spare::default(),
        };
        let pool = settings(Pool::builder(manager)).build()?;
        Ok(Self { pool, door, server: Arc::new(server), logins })
    }

    /// The pool, for all who use sessions. While no credential is valid, what it answers is [`Error::Barred`].
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A session of the pool. Fails at once while no credential is valid, even if all sessions are in use. Otherwise it
    /// waits as long as the settings of the pool say. Cancel-safe.
    pub async fn get(&self) -> Result<managed::Object<Manager>, managed::PoolError<Error>> {
        tokio::select! {
            biased;
            () = self.logins.barred() => Err(Error::Barred(Barred { server: SERVER }).into()),
            session = self.pool.get() => session,
        }
    }

    fn config(&self, login: &Login) -> Config {
        let mut config = Config::clone(&self.server);
        config.user(login.username.expose_secret()).password(login.password.expose_secret());
        config
    }

    async fn probe_with(&self, fresh: &Credential) -> Result<(), HolderError> {
        let config = self.config(&Login::of(fresh, HOLDER)?);
        let proven: Result<(), tokio_postgres::Error> = async {
            let (client, connection) = self.door.open(&config).await?;
            // If this is given up, so is the connection.
            let connection = AbortOnDrop(connection);
            client.simple_query("SELECT 1").await?;
            drop(client);
            // It says goodbye and ends.
            connection.ended().await;
            Ok(())
        }
        .await;
        proven.map_err(|error| {
            let code = error.code().map(|code| code.code().to_owned());
            refused_or_unreachable(fresh, code.as_deref(), error)
        })
    }

    /// Replaces sessions one after the other, so that no user of the pool waits until one is opened.
    async fn await_drained(&self, generation: u64) {
        let manager = self.pool.manager();
        let _moving = manager.spare.moving();
        while self.logins.used_below(generation) {
            let is_stocked = manager.stock().await;
            if is_stocked {
                self.sweep().await;
            }
            sleep(if is_stocked { LOOK } else { ASK_AGAIN }).await;
        }
    }

    /// Asks for the idle sessions, of which the first of an older login is replaced. Nobody waits for a session meanwhile:
    /// they come back at once.
    async fn sweep(&self) {
        let (manager, mut asked_for) = (self.pool.manager(), Vec::new());
        let at_once =
            Timeouts { wait: Some(Duration::ZERO), create: Some(Duration::ZERO), recycle: None };
        while manager.spare.is_there(&self.logins) && self.pool.status().available > 0 {
            let Ok(session) = self.pool.timeout_get(&at_once).await else { return };
            asked_for.push(session);
        }
    }

    async fn cut_below(&self, generation: u64) {
        self.pool.retain(|session, _| session.login.generation >= generation);
        let open = self.logins.open_below(generation);
        // PostgreSQL notices a closed connection only when it reads or writes, so its statement is cancelled first.
        let cancelled = open.iter().map(|open| self.door.cancel(open.cancel.clone()));
        let _ = timeout(CANCEL_DEADLINE, join_all(cancelled)).await;
        for open in open {
            open.connection.abort();
        }
    }
}

impl Holder for PgPoolHolder {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.probe_with(fresh).boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async {
            let config = self.config(&Login::of(fresh, HOLDER)?);
            self.logins.adopt(OneLogin::new(fresh.generation(), config));
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
        async {
            self.logins.bar();
            drop(self.pool.manager().spare.take(&self.logins));
        }
        .boxed()
    }
}

impl Manager {
    /// Opens a session that can take the place of an old one, unless there is one. False if the server gives us none.
    async fn stock(&self) -> bool {
        if self.spare.is_there(&self.logins) {
            return true;
        }
        match timeout(OPEN_DEADLINE, self.open()).await {
            Ok(Ok(session)) => {
                self.spare.put(session);
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "PostgreSQL gives no session in the place of an old one");
                false
            }
            Err(_) => {
                tracing::debug!("PostgreSQL gives no session in the place of an old one in time");
                false
            }
        }
    }

    /// A session with the login of now.
    async fn open(&self) -> Result<Session, Error> {
        let barred = Error::Barred(Barred { server: SERVER });
        let Some(login) = self.logins.current() else { return Err(barred) };
        // As long as it is held, the login is in use: also while the server is still asked whether it is good.
        let (client, connection) = self.door.open(&login.config).await?;
        login.note(client.cancel_token(), connection.abort_handle());
        let session = Session { client: ClientWrapper::new(client, connection), login };
        if self.logins.current().is_none() {
            return Err(barred);
        }
        Ok(session)
    }
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = Error;

    async fn create(&self) -> Result<Session, Error> {
        self.open().await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Error> {
        if !self.logins.is_current(&session.login) {
            if let Some(spare) = self.spare.take(&self.logins) {
                *session = spare;
                return Ok(());
            }
            // Until the next is opened, its users need not wait for one.
            if self.logins.current().is_none() || !self.spare.is_moving() {
                return Err(RecycleError::message("its login is not used any more"));
            }
        }
        if session.client.is_closed() {
            return Err(RecycleError::message("its connection is closed"));
        }
        Ok(())
    }
}

impl Session {
    /// The generation of the credential that it was opened with.
    pub fn generation(&self) -> u64 {
        self.login.generation
    }

    fn is_usable(&self, logins: &Logins) -> bool {
        logins.is_current(&self.login) && !self.client.is_closed()
    }
}

impl std::ops::Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl fmt::Debug for PgPoolHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgPoolHolder")
            .field("connections", &self.pool.status().size)
            .field("barred", &self.logins.current().is_none())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("generation", &self.login.generation)
            .finish_non_exhaustive()
    }
}

/// What an error says about the credential of the session, if anything.
pub fn doubt(error: &tokio_postgres::Error) -> Option<Doubt> {
    Doubt::of_state(error.code()?.code())
}

/// A connection's task that ends when nobody waits for it any more.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
