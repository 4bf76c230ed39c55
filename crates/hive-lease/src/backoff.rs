//! Decorrelated jitter: each delay is drawn between the floor and three times the one before.

use std::time::Duration;

use crate::policy::Policy;

/// No two attempts at the same thing are closer than this, whatever happened.
pub(crate) const FLOOR: Duration = Duration::from_millis(250);
pub(crate) const CEILING: Duration = Duration::from_secs(30);
/// A server may ask us to wait, but not for ever.
const SERVER_WISH_MAX: Duration = Duration::from_secs(300);

/// A random number in `[0, 1)`, drawn by the driver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roll(f64);

impl Roll {
    /// Takes a number; one out of range counts as the nearest within.
    pub fn new(number: f64) -> Self {
        Self(if number.is_nan() { 0.5 } else { number.clamp(0.0, 1.0) })
    }
}

/// How long the last delay was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The next delay, at least as long as the server wished.
    pub(crate) fn next(&mut self, policy: &Policy, roll: Roll, wish: Option<Duration>) -> Duration {
        self.next_within(policy.backoff_floor, policy.backoff_ceiling, roll, wish)
    }

    pub(crate) fn next_within(
        &mut self,
        floor: Duration,
        ceiling: Duration,
        roll: Roll,
        wish: Option<Duration>,
    ) -> Duration {
        let top = self.last.unwrap_or(floor).saturating_mul(3).min(ceiling);
        let delay = floor + top.saturating_sub(floor).mul_f64(roll.0);
        self.last = Some(delay);
        delay.max(wish.unwrap_or_default().min(SERVER_WISH_MAX))
    }

    /// Whether the last attempt failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.last.is_some()
    }

    pub(crate) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_between_floor_and_ceiling() {
        for number in [-1.0, 0.0, 0.3, 0.999, 1.0, 7.0, f64::NAN] {
            let mut backoff = Backoff::default();
            for _ in 0..100 {
                let delay = backoff.next(&Policy::default(), Roll::new(number), None);
                assert!((FLOOR..=CEILING).contains(&delay), "{delay:?} for {number}");
            }
        }
    }

    #[test]
    fn delays_grow_and_start_again_after_a_success() {
        let (policy, high) = (Policy::default(), Roll::new(0.999));
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(&policy, high, None)).collect();
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]), "{delays:?}");
        backoff.reset();
        assert_eq!(backoff.next(&policy, high, None), delays[0]);
    }

    #[test]
    fn a_server_may_ask_for_more_time_but_not_for_ever() {
        let mut backoff = Backoff::default();
        let mut with = |wish_s| {
            backoff.next(&Policy::default(), Roll::new(0.0), Some(Duration::from_secs(wish_s)))
        };
        assert_eq!(with(7), Duration::from_secs(7));
        assert_eq!(with(u64::MAX), SERVER_WISH_MAX);
    }
}
