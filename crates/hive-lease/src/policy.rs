//! When to renew, how long to trust a promise, and when to give up.

use std::time::Duration;

use crate::backoff::{CEILING, FLOOR};

/// The bounds of a renewal point: late enough to be cheap, early enough to survive an outage.
const FRACTION: std::ops::RangeInclusive<f64> = 0.50..=0.65;

/// Numbers that one epoch is run by.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Where in its life a promise is renewed. Chosen once per process, so that a fleet started together spreads.
    renew_fraction: f64,
    /// How often a revocation is tried.
    revoke_attempts: u32,
    /// How long a failed epoch may take to give back what it holds, if nobody says otherwise.
    close_within: Duration,
    pub(crate) backoff_floor: Duration,
    pub(crate) backoff_ceiling: Duration,
}

/// A number that no epoch can be run by.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyMistake {
    /// Renewal outside of the bounds.
    #[error(
        "a renewal at {0} of the life of a lease is too early or too late: choose 0.50 to 0.65"
    )]
    Fraction(f64),
    /// A revocation that is never tried.
    #[error("a revocation needs at least one attempt")]
    NoAttempts,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            renew_fraction: 0.575,
            revoke_attempts: 4,
            close_within: Duration::from_secs(10),
            backoff_floor: FLOOR,
            backoff_ceiling: CEILING,
        }
    }
}

impl Policy {
    /// Renews at this fraction, 0.50 to 0.65, of the life of a promise.
    pub fn renew_at(mut self, fraction: f64) -> Result<Self, PolicyMistake> {
        if !FRACTION.contains(&fraction) {
            return Err(PolicyMistake::Fraction(fraction));
        }
        self.renew_fraction = fraction;
        Ok(self)
    }

    /// Tries each revocation this often.
    pub fn revoke_attempts(mut self, attempts: u32) -> Result<Self, PolicyMistake> {
        if attempts == 0 {
            return Err(PolicyMistake::NoAttempts);
        }
        self.revoke_attempts = attempts;
        Ok(self)
    }

    /// Gives a failed epoch this long to give back what it holds.
    #[must_use]
    pub fn close_within(mut self, limit: Duration) -> Self {
        self.close_within = limit;
        self
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.revoke_attempts
    }

    pub(crate) fn closing_limit(&self) -> Duration {
        self.close_within
    }

    /// How long a promise is relied on: two clocks and a journey lie between us and its issuer.
    pub(crate) fn usable(&self, ttl: Duration) -> Duration {
        ttl.saturating_sub(Duration::from_secs(2).max(ttl / 100))
    }

    /// When to renew, counted from the request. A promise of a few seconds is renewed while it is still relied on.
    pub(crate) fn renew_after(&self, ttl: Duration) -> Duration {
        let latest = self.usable(ttl).mul_f64(*FRACTION.end());
        ttl.mul_f64(self.renew_fraction).min(latest)
    }

    /// Whether the issuer gave so much less than was asked that it will not give more.
    pub(crate) fn is_capped(&self, granted: Duration, asked: Duration) -> bool {
        granted.as_secs_f64() < 0.9 * asked.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_relied_on_for_less_than_it_lasts() {
        let table = [(0, 0), (1, 0), (2, 0), (3, 1), (60, 58), (200, 198), (3600, 3564)];
        for (ttl, usable) in table {
            assert_eq!(
                Policy::default().usable(Duration::from_secs(ttl)),
                Duration::from_secs(usable),
                "ttl {ttl}"
            );
        }
    }

    #[test]
    fn renewal_comes_before_the_hard_expiry_however_short_the_promise() {
        for fraction in [0.50, 0.575, 0.65] {
            let policy = Policy::default().renew_at(fraction).expect("within the bounds");
            for ttl_s in 3..5000 {
                let ttl = Duration::from_secs(ttl_s);
                assert!(policy.renew_after(ttl) < policy.usable(ttl), "ttl {ttl_s} at {fraction}");
            }
            let day = Duration::from_secs(86_400);
            assert!(
                (0.49..=0.65)
                    .contains(&(policy.renew_after(day).as_secs_f64() / day.as_secs_f64()))
            );
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for fraction in [0.0, 0.49, 0.66, 1.0, f64::NAN, f64::INFINITY] {
            assert!(Policy::default().renew_at(fraction).is_err(), "{fraction}");
        }
        assert_eq!(Policy::default().revoke_attempts(0), Err(PolicyMistake::NoAttempts));
    }
}
