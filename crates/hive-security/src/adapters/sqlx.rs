//! PostgreSQL connections in a pool of sqlx.
//!
//! The pool stays the same object for ever; its connections move over. A session belongs to the login that opened it,
//! so it is marked with the generation of that login. After [`adopt`](Holder::adopt) new connections use the new login.
//! While somebody awaits [`drained`](Holder::drained), sessions are opened beforehand, one at a time, and take the place of
//! older ones that come back or are idle: no user of the pool waits for one, and if the server gives none, the old ones
//! go on. A transaction that runs is left alone until [`cut`](Holder::cut).
//!
//! ```no_run
//! # async fn example(credential: hive_security::credentials::Credential) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::sqlx::PgPoolHolder;
//! use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
//!
//! let server = PgConnectOptions::new_without_pgpass().host("db.shop").database("orders");
//! let holder = PgPoolHolder::new(PgPoolOptions::new().max_connections(10), server);
//! let pool = holder.pool().clone(); // for everyone who needs connections, now and after each rotation
//! # use hive_security::credentials::Holder;
//! # holder.adopt(&credential).await?;
//! // Hand `holder` to whoever rotates the credential; from the first generation on:
//! let row = sqlx::query("SELECT count(*) FROM orders").fetch_one(&pool).await?;
//! # let _ = row;
//! # Ok(())
//! # }
//! ```
//!
//! Between the server and the pool there must be no pooler of sessions such as PgBouncer: it would keep sessions of the
//! old login after the pool has given them up. A rotation needs a connection or two beyond those of the pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use tokio::time::{Instant, sleep, timeout};

use self::sessions::Sessions;
use super::login::{Barred, Login};
use super::postgres::{Doubt, SERVER, refused_or_unreachable};
use crate::credentials::{Credential, Holder, HolderError};

mod mark;
mod sessions;

const HOLDER: &str = "the PostgreSQL pool";
/// While the overlap lasts the server is asked this often which of our sessions are left; often at first, and then less.
const ASKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Opening a connection of our own and asking one question.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// A session that was told to end is gone within moments, unless its process is stuck.
const CUT_DEADLINE: Duration = Duration::from_secs(2);

/// Moves a [`PgPool`] from one login to the next. Clones share the pool.
#[derive(Clone)]
pub struct PgPoolHolder {
    pool: PgPool,
    server: Arc<PgConnectOptions>,
    sessions: Arc<Sessions>,
}

impl PgPoolHolder {
    /// A pool of connections to `server`, whose user name and password are ignored. Must be called within a tokio runtime.
    ///
    /// Until a first credential is adopted, nothing can be acquired. The hooks `after_connect`, `before_acquire` and
    /// `after_release` of `pool` are replaced; settings of a session are better given in
    /// [`PgConnectOptions::options`], which also survive a reset.
    pub fn new(pool: PgPoolOptions, server: PgConnectOptions) -> Self {
        let server = Arc::new(server.username("").password(""));
        let sessions = Arc::new(Sessions::default());
        let pool = with_hooks(pool, &sessions).connect_lazy_with(barred(&server));
        Self { pool, server, sessions }
    }

    /// The pool, for all who use connections. While no credential is valid its errors are `sqlx::Error::Io` of the kind
    /// `InvalidInput`; [`acquire`](Self::acquire) and [`begin`](Self::begin) say more.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection of the pool; fails at once, with [`Barred`] in `sqlx::Error::Configuration`, while no credential
    /// is valid, even if all connections are in use. Waits as long as `acquire_timeout` says. Cancel-safe.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let connection = tokio::select! {
            biased;
            () = self.sessions.barred() => return Err(is_barred()),
            connection = self.pool.acquire() => connection,
        };
        connection.map_err(|error| if self.sessions.is_barred() { is_barred() } else { error })
    }

    /// A transaction on a connection of the pool. Otherwise like [`acquire`](Self::acquire).
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        Transaction::begin(self.acquire().await?, None).await
    }

    fn options(&self, login: &Login) -> PgConnectOptions {
        let options = PgConnectOptions::clone(&self.server);
        options.username(login.username.expose_secret()).password(login.password.expose_secret())
    }

    async fn probe_with(&self, fresh: &Credential) -> Result<(), HolderError> {
        let login = Login::of(fresh, HOLDER)?;
        let proven: Result<(), sqlx::Error> = async {
            let mut connection = self.options(&login).connect().await?;
            sqlx::raw_sql("SELECT 1").execute(&mut connection).await?;
            connection.close().await
        }
        .await;
        proven.map_err(|error| {
            let code = state_of(&error);
            refused_or_unreachable(fresh, code.as_deref(), error)
        })
    }

    fn adopt_now(&self, fresh: &Credential) -> Result<(), HolderError> {
        let login = Login::of(fresh, HOLDER)?;
        let options = self.options(&login);
        self.sessions.adopt(&self.pool, fresh.generation(), &login.username, options);
        Ok(())
    }

    /// Replaces sessions one after the other, so that no user of the pool waits until one is opened.
    async fn await_drained(&self, generation: u64) {
        let (mut pause, mut gone) = (ASKS.0, self.sessions.gone());
        let _moving = self.sessions.moving();
        while !self.sessions.close_below(generation) {
            let stocked = self.stock(generation).await;
            if self.sweep().await && stocked {
                continue;
            }
            // Most come back to us; of those that were detached, or broke, only the server knows.
            if timeout(pause, gone.changed()).await.is_err() && self.sessions.has_below(generation)
            {
                pause = (2 * pause).min(ASKS.1);
                self.ask().await;
            }
        }
    }

    /// Opens a session that can take the place of an old one, unless there is one. False if the server gives us none.
    async fn stock(&self, generation: u64) -> bool {
        if !self.sessions.has_below(generation) || !self.sessions.wants_spare() {
            return true;
        }
        match timeout(QUESTION_DEADLINE, self.sessions.open_spare()).await {
            Ok(Ok(())) => true,
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

    /// Looks at idle connections until one is of an older login, and replaces that one.
    async fn sweep(&self) -> bool {
        let current = self.sessions.generation();
        for _ in 0..self.pool.num_idle() {
            let Some(mut connection) = self.pool.try_acquire() else { return false };
            match self.sessions.old(&mut connection, current).await {
                Ok(None) => {}
                Ok(Some(pid)) => return self.sessions.replace(&mut connection, pid, current).await,
                Err(_) => connection.close_on_drop(),
            }
        }
        false
    }

    /// Forgets the sessions that the server does not know any more. Who has no answer asks again later.
    async fn ask(&self) {
        let Some(options) = self.sessions.current() else { return };
        let asked = async {
            let mut connection = options.connect().await?;
            self.sessions.prune(&mut connection).await?;
            connection.close().await
        };
        match timeout(QUESTION_DEADLINE, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "PostgreSQL does not say which sessions are left");
            }
            Err(_) => tracing::debug!("PostgreSQL does not say in time which sessions are left"),
        }
    }

    async fn cut_below(&self, generation: u64) {
        self.sessions.refuse_below(generation);
        for (options, pids) in self.sessions.below(generation) {
            // A login may always end its own sessions, and as long as it is not revoked it can be used for that.
            let ended = timeout(QUESTION_DEADLINE, terminate(&options, &pids)).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::warn!(
                    sessions = pids.len(),
                    "sessions of an old login could not be ended"
                );
            }
        }
        let deadline = Instant::now() + CUT_DEADLINE;
        while self.sessions.has_below(generation) && Instant::now() < deadline {
            self.ask().await;
            sleep(ASKS.0).await;
        }
    }

    async fn withdraw_now(&self) {
        self.sessions.bar(&self.pool, barred(&self.server));
    }
}

impl Holder for PgPoolHolder {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.probe_with(fresh).boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async { self.adopt_now(fresh) }.boxed()
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.await_drained(generation).boxed()
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.cut_below(generation).boxed()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        self.withdraw_now().boxed()
    }
}

// The options of the pool hold a password, and sqlx would show it.
impl fmt::Debug for PgPoolHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgPoolHolder")
            .field("connections", &self.pool.size())
            .field("barred", &self.sessions.is_barred())
            .finish_non_exhaustive()
    }
}

/// What an error says about the credential of the session, if anything.
pub fn doubt(error: &sqlx::Error) -> Option<Doubt> {
    Doubt::of_state(&state_of(error)?)
}

/// Whether the cause of an error is that no credential is valid, so that nothing was even tried.
pub fn is_barred_error(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Configuration(cause) if cause.is::<Barred>())
}

fn is_barred() -> sqlx::Error {
    sqlx::Error::Configuration(Box::new(Barred { server: SERVER }))
}

fn state_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

fn with_hooks(pool: PgPoolOptions, sessions: &Arc<Sessions>) -> PgPoolOptions {
    let [opened, taken, returned] = [(); 3].map(|()| Arc::clone(sessions));
    pool.after_connect(move |connection, _| {
        let sessions = Arc::clone(&opened);
        async move { sessions.admit(connection).await.map(drop) }.boxed()
    })
    .before_acquire(move |connection, _| {
        let sessions = Arc::clone(&taken);
        async move { sessions.may_stay(connection).await }.boxed()
    })
    .after_release(move |connection, _| {
        let sessions = Arc::clone(&returned);
        async move { sessions.may_stay(connection).await }.boxed()
    })
}

/// Options with which no attempt to connect gets as far as the network: no socket can have a path of this length. The
/// pool has no hook that could refuse before it connects, and hands this error on at once.
fn barred(server: &PgConnectOptions) -> PgConnectOptions {
    const LONGER_THAN_ANY_SOCKET: usize = 200;
    server.clone().socket("-".repeat(LONGER_THAN_ANY_SOCKET))
}

/// Which process of the server this session is.
async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    use sqlx::{Executor, Row};
    connection.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()")).await?.try_get(0)
}

async fn terminate(options: &PgConnectOptions, pids: &[i32]) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    // Never a session of somebody else who has been given the number in the meantime.
    let ended = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY($1) AND usename = session_user",
    );
    ended.bind(pids).execute(&mut connection).await?;
    connection.close().await
}
