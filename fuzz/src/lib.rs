//! What the fuzz targets share: documents that were issued once, and ways to spoil them.
//!
//! The documents in `fixtures/` are public: nobody has the keys that made them any more (`src/bin/fixtures.rs`).
//! What a target must sign itself, it signs with a key that it makes when it starts.

pub mod certificates;
pub mod json;
pub mod policy;
pub mod rng;
pub mod tokens;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The trust domain of the issued documents.
pub const TRUST_DOMAIN: &str = "td";

/// Another one, with keys of its own and the same `kid`s.
pub const OTHER: &str = "other";

/// 2033-05-18, when the issued documents are good.
pub const NOW: u64 = 2_000_000_000;

/// The moments at which a document is judged, in seconds since the epoch; [`NOW`] is the most frequent.
pub const TIMES: [u64; 8] = [NOW, NOW, NOW, NOW, 0, NOW - 1_000, NOW + 1_000, 7_258_118_400];

/// The time of the clock after so many seconds since the epoch.
pub fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The next byte of an input; 0 behind its end.
pub fn take(input: &mut &[u8]) -> usize {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    usize::from(*first)
}
