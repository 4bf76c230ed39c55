//! What rotation costs, and what it breaks: real servers, 64 operations at a time, a new login every second.
//!
//! `cargo bench -p hive-security --bench rotation -- [--seconds 60] [--calm-seconds 60] [--share 0.5] [--restarts]
//! [--rival-seconds 20]`
//!
//! OpenBao issues logins of PostgreSQL and Redis; `Credentials` keeps them, and moves a pool of sqlx and a connection
//! manager of redis-rs. Kafka 4 and a gRPC service are shown this workload's own documents: a token that lives for
//! twenty seconds, an X.509-SVID, and new keys of the trust domain every two seconds; sessions end after two seconds, and one.
//! 64 operations are in flight, 16 of each kind; two of those of PostgreSQL are transactions that outlast two rotations.
//!
//! Runs of calm and of rotation take turns, so that what else the machine does falls on both. Each kind does as much as it
//! can, so all processors are busy and what a rotation costs is missing elsewhere; with `--share` it is offered that share
//! of what it could do while warming up, as a service with something in reserve is. With `--restarts`
//! OpenBao is killed and started again every 20 s, and one answer of a hundred is lost.
//!
//! The rivals follow, on the same PostgreSQL and with the same work, each with a new login every second as well: one that
//! revokes before it moves, one that swaps pools, and one that reads the file of `bao agent`.
#![allow(missing_docs, reason = "a bench is no interface")]

#[path = "../layered/echo.rs"]
mod echo;
#[path = "../../tests/rotation/grpc.rs"]
mod grpc;
#[path = "../../tests/rotation/identity.rs"]
mod identity;
#[path = "../../tests/rotation/load.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod load;
#[path = "../../tests/rotation/postgres.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod postgres;
#[path = "../../tests/rotation/redis_server.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod redis_server;
mod rivals;
#[path = "../../tests/rotation/rotation.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod rotation;
mod run;
mod totals;
#[path = "../../tests/rotation/work.rs"]
mod work;
#[path = "../../tests/rotation/world.rs"]
mod world;

use std::time::Duration;

use load::Outcome;
use tracing_subscriber::filter::LevelFilter;

/// How long, and how hard.
#[derive(Clone, Copy, Debug)]
struct Settings {
    lasts: Duration,
    calm_lasts: Duration,
    share: Option<f64>,
    rivals_last: Duration,
    restarts: bool,
}

fn main() {
    let settings = Settings::parse(std::env::args().skip(1));
    // What goes wrong with Vault is no failure of an operation, and still worth knowing.
    let warnings = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN);
    warnings.with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        println!("{settings:?}");
        run::ours(settings).await;
        if !settings.rivals_last.is_zero() {
            rivals::all(settings.rivals_last).await;
        }
    });
}

impl Settings {
    fn parse(words: impl Iterator<Item = String>) -> Self {
        let (minute, twenty) = (Duration::from_secs(60), Duration::from_secs(20));
        let mut settings = Self {
            lasts: minute,
            calm_lasts: minute,
            share: None,
            rivals_last: twenty,
            restarts: false,
        };
        let mut words = words.filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let mut number = || {
                let number = words.next().and_then(|number| number.parse().ok());
                number.expect("a number")
            };
            match word.as_str() {
                "--seconds" => settings.lasts = Duration::from_secs_f64(number()),
                "--calm-seconds" => settings.calm_lasts = Duration::from_secs_f64(number()),
                "--rival-seconds" => settings.rivals_last = Duration::from_secs_f64(number()),
                "--share" => settings.share = Some(number()),
                "--restarts" => settings.restarts = true,
                _ => panic!("{word:?} is none of those that the head of this file names"),
            }
        }
        settings
    }
}

/// One line of the table.
pub(crate) fn report(what: &str, outcome: &Outcome, lasted: Duration) {
    let rate = outcome.done as f64 / lasted.as_secs_f64();
    let (p50, p99) = (outcome.percentile(0.5), outcome.percentile(0.99));
    let failed = outcome.failed.values().sum::<u64>();
    println!(
        "{what:<28} {:>9} done {rate:>8.0}/s  p50 {p50:>7.1} ms  p99 {p99:>7.1} ms  {failed:>7} failed",
        outcome.done
    );
    for (why, times) in outcome.failed.iter().take(4) {
        println!("{:<28} {times:>9} × {}", "", why.chars().take(90).collect::<String>());
    }
}
