//! Which sessions are open, and which login each of them belongs to.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use tokio::sync::watch;

use super::mark::Mark;

/// What the hooks of the pool and the holder know together.
pub(super) struct Sessions {
    book: Mutex<Book>,
    /// Wakes whoever waits for old sessions.
    gone: watch::Sender<()>,
    /// A session that was opened to take the place of an older one.
    spare: Mutex<Option<Spare>>,
    /// How many are at work to replace old sessions.
    movers: AtomicUsize,
    barred: watch::Sender<bool>,
}

#[derive(Default)]
struct Book {
    /// The generation that new connections use; 0 before the first.
    current: u64,
    /// Sessions of generations below this one are refused: somebody was told that there are none.
    refused_below: u64,
    logins: BTreeMap<u64, Known>,
    /// By the number of the process that serves it.
    open: HashMap<i32, Session>,
    opened_total: u64,
    /// When this many are noted, the server is asked which of them are left.
    prune_at: usize,
}

/// A login that still has sessions, or may get some.
struct Known {
    username: SecretString,
    options: PgConnectOptions,
    /// What the pool was given. It holds it as long as it may begin to connect with it, and whoever connects holds it
    /// until that has ended: only then is nobody on the way with this login.
    given: Vec<Weak<PgConnectOptions>>,
}

struct Spare {
    pid: i32,
    generation: u64,
    connection: PgConnection,
}

#[derive(Clone, Copy, PartialEq)]
struct Session {
    generation: u64,
    /// Tells sessions apart whose process got the same number.
    serial: u64,
}

/// Ended sessions of a generation are noted until somebody looks; more than this many, and we look ourselves.
const PRUNE_AT_LEAST: usize = 256;

impl Default for Sessions {
    fn default() -> Self {
        Self {
            book: Mutex::default(),
            gone: watch::Sender::new(()),
            spare: Mutex::default(),
            movers: AtomicUsize::new(0),
            barred: watch::Sender::new(true),
        }
    }
}

impl Sessions {
    pub(super) fn adopt(
        &self,
        pool: &PgPool,
        generation: u64,
        username: &SecretString,
        options: PgConnectOptions,
    ) {
        // It is held throughout, so that a session is known by the time it can be opened.
        let mut book = self.book();
        pool.set_connect_options(options.clone());
        let given = Arc::downgrade(&pool.connect_options());
        book.current = generation;
        let known = || Known { username: username.clone(), options, given: Vec::new() };
        let known = book.logins.entry(generation).or_insert_with(known);
        known.given.retain(|given| given.strong_count() > 0);
        known.given.push(given);
        self.barred.send_replace(false);
    }

    pub(super) fn bar(&self, pool: &PgPool, barred: PgConnectOptions) {
        let _book = self.book();
        self.barred.send_replace(true);
        pool.set_connect_options(barred);
    }

    pub(super) fn is_barred(&self) -> bool {
        *self.barred.borrow()
    }

    /// Waits until no credential is valid. Cancel-safe.
    pub(super) async fn barred(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.barred.subscribe().wait_for(|barred| *barred).await;
    }

    /// The generation that new connections use; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        self.book().current
    }

    /// The options of the generation that new connections use.
    pub(super) fn current(&self) -> Option<PgConnectOptions> {
        let book = self.book();
        book.logins.get(&book.current).map(|known| known.options.clone())
    }

    /// A new connection is noted, or refused if it began with a login that is over.
    pub(super) async fn admit(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(i32, u64), sqlx::Error> {
        let asked = sqlx::raw_sql("SELECT pg_backend_pid(), session_user::text");
        let row = connection.fetch_one(asked).await?;
        let (pid, username): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
        let noted = if self.is_barred() { None } else { self.book().note(pid, &username) };
        let Some(generation) = noted else {
            // The pool tries again, with the login of now.
            let why = "it was opened with a login that is not used any more";
            return Err(sqlx::Error::Protocol(why.to_owned()));
        };
        if let Err(error) = Mark::of(generation).put(connection).await {
            self.forget(pid);
            return Err(error);
        }
        if self.book().is_full() {
            self.prune(connection).await?;
        }
        Ok((pid, generation))
    }

    /// Whether a connection may be used (again). One of an older login is replaced, or refused if nobody opens others.
    pub(super) async fn may_stay(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        if self.is_barred() {
            return Ok(false);
        }
        let current = self.generation();
        if !self.has_below(current) {
            return Ok(true);
        }
        let Some(pid) = self.old(connection, current).await? else { return Ok(true) };
        if self.replace(connection, pid, current).await {
            return Ok(true);
        }
        if self.movers.load(Ordering::Relaxed) > 0 {
            // Until the next is opened, its users need not wait for one.
            return Ok(true);
        }
        self.forget(pid);
        Ok(false)
    }

    /// The number of a session that is of an older login. The server is asked only about one that does not carry the
    /// mark of the current login.
    pub(super) async fn old(
        &self,
        connection: &mut PgConnection,
        current: u64,
    ) -> Result<Option<i32>, sqlx::Error> {
        if Mark::read(connection).await? == Some(Mark::of(current)) {
            return Ok(None);
        }
        let pid = super::backend(connection).await?;
        Ok(self.is_below(pid, current).then_some(pid))
    }

    /// Puts the spare in the place of an old session, which it ends.
    pub(super) async fn replace(&self, old: &mut PgConnection, pid: i32, current: u64) -> bool {
        let Some(spare) = self.take_spare(current) else { return false };
        let old = std::mem::replace(old, spare);
        // The server finds out by itself if it is not told.
        let _ = old.close().await;
        self.forget(pid);
        true
    }

    fn take_spare(&self, current: u64) -> Option<PgConnection> {
        let spare = self.spare().take()?;
        if spare.generation == current {
            return Some(spare.connection);
        }
        self.forget(spare.pid);
        None
    }

    /// Whether another spare is wanted. One of an older login is let go.
    pub(super) fn wants_spare(&self) -> bool {
        let is_old = |spare: &mut Spare| spare.generation != self.generation();
        let old = self.spare().take_if(is_old);
        if let Some(old) = old {
            self.forget(old.pid);
        }
        self.spare().is_none()
    }

    /// Opens a session for whoever gives up an old one.
    pub(super) async fn open_spare(&self) -> Result<(), sqlx::Error> {
        let Some(options) = self.current() else { return Ok(()) };
        let mut connection = options.connect().await?;
        let (pid, generation) = self.admit(&mut connection).await?;
        let former = self.spare().replace(Spare { pid, generation, connection });
        if let Some(former) = former {
            self.forget(former.pid);
        }
        Ok(())
    }

    /// Says that old sessions are being replaced, as long as what it returns is kept.
    pub(super) fn moving(&self) -> Moving<'_> {
        self.movers.fetch_add(1, Ordering::Relaxed);
        Moving(self)
    }

    pub(super) fn has_below(&self, generation: u64) -> bool {
        self.book().open.values().any(|session| session.generation < generation)
    }

    pub(super) fn is_below(&self, pid: i32, generation: u64) -> bool {
        self.book().open.get(&pid).is_some_and(|session| session.generation < generation)
    }

    pub(super) fn forget(&self, pid: i32) {
        self.book().open.remove(&pid);
        self.gone.send_replace(());
    }

    /// Changes whenever sessions were forgotten.
    pub(super) fn gone(&self) -> watch::Receiver<()> {
        self.gone.subscribe()
    }

    /// If no session of a generation below this one is left or on its way, none will ever be: true. Otherwise nothing
    /// changes.
    pub(super) fn close_below(&self, generation: u64) -> bool {
        let mut book = self.book();
        let mut older = book.logins.range(..generation);
        let on_its_way = |known: &Known| known.given.iter().any(|given| given.strong_count() > 0);
        if older.any(|(_, known)| on_its_way(known))
            || book.open.values().any(|session| session.generation < generation)
        {
            return false;
        }
        book.refused_below = book.refused_below.max(generation);
        book.logins = book.logins.split_off(&generation);
        true
    }

    /// From now on no session of a generation below this one is admitted.
    pub(super) fn refuse_below(&self, generation: u64) {
        let mut book = self.book();
        book.refused_below = book.refused_below.max(generation);
    }

    /// The sessions below this generation, by login.
    pub(super) fn below(&self, generation: u64) -> Vec<(PgConnectOptions, Vec<i32>)> {
        let book = self.book();
        let logins = book.logins.range(..generation);
        let mut found: Vec<_> = logins
            .map(|(of, known)| {
                let of_login = book.open.iter().filter(|(_, session)| session.generation == *of);
                (known.options.clone(), of_login.map(|(pid, _)| *pid).collect::<Vec<_>>())
            })
            .collect();
        found.retain(|(_, pids)| !pids.is_empty());
        found
    }

    /// Forgets the sessions that the server does not know any more.
    pub(super) async fn prune(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let noted = self.book().open.clone();
        let pids: Vec<_> = noted.keys().map(i32::to_string).collect();
        let asked =
            format!("SELECT pid FROM pg_stat_activity WHERE pid = ANY('{{{}}}')", pids.join(","));
        let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(asked))).await?;
        let left: Vec<i32> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let mut book = self.book();
        book.open.retain(|pid, session| left.contains(pid) || noted.get(pid) != Some(session));
        book.prune_at = PRUNE_AT_LEAST.max(2 * book.open.len());
        drop(book);
        self.gone.send_replace(());
        Ok(())
    }

    fn spare(&self) -> MutexGuard<'_, Option<Spare>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing panics while it is held, and every change leaves it whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody replaces old sessions.
pub(super) struct Moving<'a>(&'a Sessions);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        if self.0.movers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let left = self.0.spare().take();
        if let Some(spare) = left {
            self.0.forget(spare.pid);
        }
    }
}

impl Book {
    /// The generation of a new session, if it belongs to one that may still be used.
    fn note(&mut self, pid: i32, username: &str) -> Option<u64> {
        // A static role keeps its name; then its newest password is what counts.
        let mut known = self.logins.range(self.refused_below..).rev();
        let (generation, _) =
            known.find(|(_, known)| known.username.expose_secret() == username)?;
        self.opened_total += 1;
        self.open.insert(pid, Session { generation: *generation, serial: self.opened_total });
        Some(*generation)
    }

    fn is_full(&self) -> bool {
        self.open.len() > self.prune_at.max(PRUNE_AT_LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(generations: &[(u64, &str)]) -> Sessions {
        let sessions = Sessions::default();
        let pool = PgPool::connect_lazy_with(PgConnectOptions::new_without_pgpass());
        for (generation, username) in generations {
            let options = PgConnectOptions::new_without_pgpass();
            sessions.adopt(&pool, *generation, &SecretString::from(*username), options);
        }
        sessions
    }

    #[tokio::test]
    async fn a_session_belongs_to_the_login_that_opened_it() {
        let sessions = sessions(&[(1, "a"), (2, "b")]);
        assert!(sessions.book().note(10, "a").is_some() && sessions.book().note(11, "b").is_some());
        assert!(sessions.is_below(10, 2) && !sessions.is_below(11, 2));
        assert!(sessions.book().note(12, "stranger").is_none());
    }

    #[tokio::test]
    async fn a_session_of_a_static_role_belongs_to_its_newest_password() {
        let sessions = sessions(&[(1, "a"), (2, "a")]);
        assert_eq!(sessions.book().note(10, "a"), Some(2));
        assert!(!sessions.is_below(10, 2));
    }

    #[tokio::test]
    async fn nobody_gets_in_with_an_old_login_once_it_was_said_to_be_unused() {
        let sessions = sessions(&[(1, "a"), (2, "b")]);
        assert!(sessions.book().note(10, "a").is_some());
        assert!(!sessions.close_below(2), "one is open");
        assert!(sessions.book().note(11, "a").is_some(), "and it is still let in");
        sessions.forget(10);
        sessions.forget(11);
        assert!(sessions.close_below(2));
        assert!(sessions.book().note(12, "a").is_none());
        assert!(sessions.book().note(13, "b").is_some());
    }

    #[tokio::test]
    async fn a_login_is_in_use_while_somebody_connects_with_it() {
        let sessions = Sessions::default();
        let options = PgConnectOptions::new_without_pgpass();
        let pool = PgPool::connect_lazy_with(options.clone());
        sessions.adopt(&pool, 1, &SecretString::from("a"), options.clone());
        let connecting = pool.connect_options();
        sessions.adopt(&pool, 2, &SecretString::from("b"), options);
        assert!(!sessions.close_below(2));
        drop(connecting);
        assert!(sessions.close_below(2));
    }

    #[tokio::test]
    async fn after_a_cut_no_old_login_gets_in_while_its_sessions_are_still_known() {
        let sessions = sessions(&[(1, "a"), (2, "b")]);
        assert!(sessions.book().note(10, "a").is_some());
        sessions.refuse_below(2);
        assert!(sessions.book().note(11, "a").is_none());
        let below = sessions.below(2);
        assert_eq!(below.into_iter().map(|(_, pids)| pids).collect::<Vec<_>>(), [[10]]);
    }
}
