//! A million rotations in any weather, or as many as the first argument says, from the seed that the second one says.
//! A single one prints every step.
//!
//! `cargo run --release -p hive-lease --example storm -- 1000000 0`

#[path = "../tests/it/world/mod.rs"]
mod world;

use std::time::Instant;

use world::{Seen, World};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let (count, first) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(0));
    let begun = Instant::now();
    let mut seen = Seen::default();
    for seed in first..first + count {
        let mut world = World::new(seed);
        world.is_traced = count == 1;
        seen.add(world.run());
        let done = seed - first + 1;
        if done % 50_000 == 0 {
            println!("{done} seeds in {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{seen:#?}");
    println!("{count} seeds in {took:.1} s: {:.0} a second", count as f64 / took);
}
