//! Time as it is handed in.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on a monotonic clock, counted from an origin that the driver chose.
///
/// It is ours rather than `std::time::Instant`, for that one can only be made by reading a clock.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after the origin.
    pub const fn after(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// How long after the origin it is.
    pub const fn since_origin(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// A promise may be as long as a server likes; it does not overflow.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}
