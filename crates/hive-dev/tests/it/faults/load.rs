//! What users do all the time: they write to the ledger. Whatever fails is counted, by what it says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hive_security::adapters::sqlx::{PgPoolHolder, doubt, is_barred_error};
use hive_security::credentials::Credentials;
use tokio::task::JoinSet;

/// Between two operations of one worker: the machine has other things to do.
const PAUSE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Load {
    book: Arc<Book>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Book {
    stop: AtomicBool,
    done: AtomicU64,
    barred: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    #[allow(dead_code, reason = "shown where a test fails")]
    pub(crate) done: u64,
    /// Refused at once, with the typed error, because no credential was valid.
    pub(crate) barred: u64,
    /// Everything else, which nobody should ever see.
    pub(crate) failed: BTreeMap<String, u64>,
}

impl Load {
    pub(crate) fn start(workers: u64, pool: PgPoolHolder) -> Self {
        let work = move |turn| {
            let pool = pool.clone();
            async move { operation(&pool, turn).await }
        };
        Self::work(workers, work)
    }

    /// Users who do as the adapter says when a credential is in doubt.
    pub(crate) fn start_careful(
        workers: u64,
        pool: PgPoolHolder,
        credentials: Credentials,
    ) -> Self {
        let work = move |_| {
            let (pool, credentials) = (pool.clone(), credentials.clone());
            async move { careful(&pool, &credentials).await }
        };
        Self::work(workers, work)
    }

    fn work<F>(workers: u64, work: impl Fn(u64) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), sqlx::Error>> + Send,
    {
        let book = Arc::new(Book::default());
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let (book, work) = (Arc::clone(&book), work.clone());
            tasks.spawn(async move {
                let mut turn = worker;
                while !book.stop.load(Ordering::Relaxed) {
                    book.note(work(turn).await);
                    turn += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { book, workers: tasks }
    }

    /// Waits until so many more operations have succeeded.
    pub(crate) async fn progress(&self, operations: u64) {
        let (goal, give_up) = (self.done() + operations, Instant::now() + PATIENCE);
        while self.done() < goal {
            assert!(Instant::now() < give_up, "work does not go on: {:?}", self.so_far());
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(crate) fn done(&self) -> u64 {
        self.book.done.load(Ordering::Relaxed)
    }

    pub(crate) fn so_far(&self) -> Outcome {
        let failed = self.book.failed.lock().expect("nobody panicked").clone();
        Outcome { done: self.done(), barred: self.book.barred.load(Ordering::Relaxed), failed }
    }

    /// Lets every worker finish what it is at.
    pub(crate) async fn stop(mut self) -> Outcome {
        self.book.stop.store(true, Ordering::Relaxed);
        let over = async { while self.workers.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, over).await.expect("each operation ends");
        self.so_far()
    }
}

impl Outcome {
    /// Nobody noticed anything.
    pub(crate) fn is_flawless(&self) -> bool {
        self.failed.is_empty() && self.barred == 0
    }
}

impl Book {
    fn note(&self, result: Result<(), sqlx::Error>) {
        match result {
            Ok(()) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
            Err(error) if is_barred_error(&error) => {
                self.barred.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let mut failed = self.failed.lock().expect("nobody panicked");
                *failed.entry(error.to_string()).or_default() += 1;
            }
        }
    }
}

const INSERT: &str = "INSERT INTO ledger VALUES ('an entry')";

/// One statement, which has not run if the login is in doubt, and is then repeated on another connection.
async fn careful(pool: &PgPoolHolder, credentials: &Credentials) -> Result<(), sqlx::Error> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let mut connection = match pool.acquire().await {
            Err(error) if doubt(&error).is_some() && Instant::now() < give_up => {
                credentials.rotate().await;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            other => other?,
        };
        match sqlx::query(INSERT).execute(&mut *connection).await {
            Err(error) if doubt(&error).is_some() && Instant::now() < give_up => {
                let _ = connection.close().await;
                credentials.rotate().await;
                tokio::time::sleep(PAUSE).await;
            }
            other => return other.map(drop),
        }
    }
}

/// One statement, or a transaction of several; nothing is repeated.
async fn operation(pool: &PgPoolHolder, turn: u64) -> Result<(), sqlx::Error> {
    if turn.is_multiple_of(2) {
        let mut connection = pool.acquire().await?;
        sqlx::query(INSERT).execute(&mut *connection).await?;
        return Ok(());
    }
    let mut transaction = pool.begin().await?;
    sqlx::query(INSERT).execute(&mut *transaction).await?;
    tokio::time::sleep(PAUSE).await;
    sqlx::query("SELECT count(*) FROM ledger WHERE false").execute(&mut *transaction).await?;
    transaction.commit().await
}
