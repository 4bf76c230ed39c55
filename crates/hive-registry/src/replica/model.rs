//! Random lives of a whole registry, held against a simple reference.
//!
//! Replicas restart, are cut from their store, stall and have their clocks set; writes are late, lost, or made without
//! being confirmed; agents come, go and move. Then the weather turns fair, and everything must be as the reference says:
//! each replica has what the store has, each watcher has seen it, the living are offered and the dead are forgotten.
//!
//! A failing run prints its seed; `HIVE_MODEL_SEED=… cargo test -p hive-registry one_seed -- --ignored` repeats it.

mod ledger;
mod reference;
mod watcher;
mod world;

use world::World;

/// Runs of the usual test: enough to meet each kind of trouble many times, in seconds.
const RUNS: u64 = 200;
const LONG_RUNS: u64 = 100_000;

fn run(seed: u64) {
    let result = std::panic::catch_unwind(|| World::new(seed, false).live());
    if result.is_err() {
        tell(seed);
    }
}

/// Lives through it again, and tells what happens.
fn tell(seed: u64) {
    eprintln!("seed {seed}:");
    World::new(seed, true).live();
    panic!("seed {seed} failed, and then it did not");
}

#[test]
fn after_any_weather_every_replica_and_every_watcher_has_what_the_store_has() {
    (0..RUNS).for_each(run);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_seeds() {
    (0..LONG_RUNS).for_each(run);
}

#[test]
#[ignore = "repeats the seed in HIVE_MODEL_SEED"]
fn one_seed() {
    let seed = std::env::var("HIVE_MODEL_SEED").expect("HIVE_MODEL_SEED is set");
    run(seed.parse().expect("it is a number"));
}
