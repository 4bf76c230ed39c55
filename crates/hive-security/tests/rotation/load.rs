//! Work without pause, whose failures are counted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

/// Workers that repeat an operation until they are stopped.
pub(crate) struct Load {
    book: Arc<Book>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Book {
    stop: AtomicBool,
    done: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    /// How long those that succeeded took, in microseconds.
    took: Mutex<Vec<u32>>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) done: u64,
    /// How often which failure was seen.
    pub(crate) failed: BTreeMap<String, u64>,
    /// How long those that succeeded took, in microseconds, in order.
    took: Vec<u32>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let p99 = self.percentile(0.99);
        write!(f, "{} done, p99 {p99:.1} ms, failed: {:?}", self.done, self.failed)
    }
}

impl Outcome {
    /// So long this share of those that succeeded took at most, in milliseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let place = (self.took.len() as f64 * share) as usize;
        self.took.get(place).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }
}

impl Load {
    /// `work` is called with the number of the worker and of its turn, again as soon as it is done.
    pub(crate) fn start<F, E>(
        workers: u64,
        work: impl Fn(u64, u64) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Display,
    {
        Self::paced(workers, None, work)
    }

    /// So many operations a second fall due, together, whatever the last ones took; each is timed from when it fell due,
    /// so that one that had to wait for its turn counts as slow.
    pub(crate) fn paced<F, E>(
        workers: u64,
        per_second: Option<f64>,
        work: impl Fn(u64, u64) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Display,
    {
        let between = per_second.map(|rate| Duration::from_secs_f64(workers as f64 / rate));
        let book = Arc::new(Book::default());
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let (book, work) = (Arc::clone(&book), work.clone());
            let mut due = Due::first(between, worker as f64 / workers as f64);
            tasks.spawn(async move {
                for turn in 0.. {
                    let began = due.next().await;
                    if book.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let result = work(worker, turn).await;
                    book.note(result, began.elapsed());
                    // Work that fails at once would starve the others.
                    tokio::task::yield_now().await;
                }
            });
        }
        Self { book, workers: tasks }
    }

    /// Waits until this many more operations are done.
    pub(crate) async fn progress(&self, operations: u64) {
        let goal = self.done() + operations;
        let reached = async {
            while self.done() < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), reached).await.expect("work goes on");
    }

    /// Lets every worker finish what it is at.
    pub(crate) async fn stop(mut self) -> Outcome {
        self.book.stop.store(true, Ordering::Relaxed);
        let over = async { while self.workers.join_next().await.is_some() {} };
        timeout(Duration::from_secs(60), over).await.expect("each operation ends");
        let failed = self.book.failed.lock().expect("nobody panicked").clone();
        let mut took = std::mem::take(&mut *self.book.took.lock().expect("nobody panicked"));
        took.sort_unstable();
        Outcome { done: self.done(), failed, took }
    }

    fn done(&self) -> u64 {
        self.book.done.load(Ordering::Relaxed)
    }
}

/// When one worker's operations fall due.
struct Due(Option<(Instant, Duration)>);

impl Due {
    /// Workers begin one after the other: this one after such a share of the time between two of its operations.
    fn first(between: Option<Duration>, share: f64) -> Self {
        Self(between.map(|between| (Instant::now() + between.mul_f64(share), between)))
    }

    async fn next(&mut self) -> Instant {
        let Some((due, between)) = &mut self.0 else { return Instant::now() };
        let this = *due;
        *due += *between;
        tokio::time::sleep_until(this.into()).await;
        this
    }
}

impl Book {
    fn note<E: Display>(&self, result: Result<(), E>, took: Duration) {
        match result {
            Ok(()) => {
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                self.took.lock().expect("nobody panicked").push(micros);
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let mut failed = self.failed.lock().expect("nobody panicked");
                *failed.entry(error.to_string()).or_default() += 1;
            }
        }
    }
}
