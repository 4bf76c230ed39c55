//! The authority's clock: the system's, off by as much as a test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// How far the authority's clock is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockShift {
    /// It is ahead of the system's.
    Ahead(Duration),
    /// It is behind the system's.
    Behind(Duration),
    /// It is right.
    Right,
}

/// Cheap to share; all clones are off together.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    pub(super) fn now(&self) -> SystemTime {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        let (now, by) = (SystemTime::now(), Duration::from_millis(ahead.unsigned_abs()));
        let shifted = if ahead < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        shifted.unwrap_or(now)
    }

    pub(super) fn shift(&self, shift: ClockShift) {
        let ms = |by: Duration| i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let ahead = match shift {
            ClockShift::Ahead(by) => ms(by),
            ClockShift::Behind(by) => -ms(by),
            ClockShift::Right => 0,
        };
        self.ahead_ms.store(ahead, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_is_off_by_the_same() {
        let (clock, hour) = (Clock::default(), Duration::from_secs(3_600));
        let other = clock.clone();
        clock.shift(ClockShift::Ahead(hour));
        assert!(other.now() > SystemTime::now() + hour / 2);
        clock.shift(ClockShift::Behind(hour));
        assert!(other.now() < SystemTime::now() - hour / 2);
        clock.shift(ClockShift::Right);
        assert!(other.now() <= SystemTime::now());
    }
}
