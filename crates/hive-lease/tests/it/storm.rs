//! Ten thousand rotations in any weather. `cargo run --release -p hive-lease --example storm` runs a million.

use hive_lease::RotationState;

use crate::world::{Seen, World};

const SEEDS: std::ops::Range<u64> = 0..10_000;
/// Put the seed of a failure here to see it alone.
const REPLAY: Option<u64> = None;

#[test]
fn in_any_weather_rotation_keeps_its_promises() {
    if let Some(seed) = REPLAY {
        let mut world = World::new(seed);
        world.is_traced = true;
        panic!("a replay is not a test: {:#?}", world.run());
    }
    let mut seen = Seen::default();
    for seed in SEEDS {
        seen.add(World::new(seed).run());
    }
    let states = [
        RotationState::Active,
        RotationState::Closing,
        RotationState::Degraded,
        RotationState::Done,
        RotationState::Opening,
        RotationState::Overlap,
        RotationState::Rotating,
        RotationState::Withdrawn,
    ];
    assert!(states.iter().all(|state| seen.states.contains(state)), "{:?}", seen.states);
    let reasons = [
        "denied",
        "expired",
        "gone",
        "max ttl",
        "missing",
        "refused",
        "too late",
        "uncertain",
        "unusable",
    ];
    assert!(reasons.iter().all(|reason| seen.reasons.contains(reason)), "{:?}", seen.reasons);
    let counts = [seen.cuts, seen.kills, seen.lost, seen.orphans, seen.refreshes, seen.withdrawals];
    assert!(counts.iter().all(|count| *count > 100), "{seen:#?}");
}
