//! When to renew, how long to trust a promise, and when to give up.

use std::time::Duration;

use crate::backoff::{CEILING, FLOOR};

/// The bounds of a renewal point: late enough to be cheap, early enough to survive an outage.
const FRACTION: std::ops::RangeInclusive<f64> = 0.50..=0.65;

/// Of a promise of a few seconds, the margin of trust is a large part; it is renewed before.
const LATEST: f64 = 0.90;
/// The bounds of the point at which renewals have failed for so long that a replacement begins beside them.
const UNRENEWED: std::ops::RangeInclusive<f64> = 0.70..=0.80;
/// Logging in, issuing and probing, when all is well.
const CHANGE: Duration = Duration::from_secs(10);
/// What a change should survive.
const OUTAGE: Duration = Duration::from_secs(60);
/// A shorter promise is replaced, never renewed, in a rotation.
const BRIEF: Duration = Duration::from_secs(30);
const PER_WANT: Duration = Duration::from_millis(100);

/// The phase of one lease: where within the bounds it is renewed, by a random number in `[0, 1)`.
pub(crate) fn fraction_at(roll: f64) -> f64 {
    FRACTION.start() + (FRACTION.end() - FRACTION.start()) * roll
}

/// Numbers that one epoch is run by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Where in its life a promise is renewed. Chosen once per process, so that a fleet started together spreads.
    renew_fraction: f64,
    /// How often a revocation is tried.
    revoke_attempts: u32,
    /// How long a failed epoch may take to give back what it holds, if nobody says otherwise.
    close_within: Duration,
    /// How long an old epoch is kept for those who still use it.
    overlap: Duration,
    /// How many old epochs may be kept beside the one in use.
    overlaps_max: usize,
    /// How long a later epoch of a rotation may take to open.
    open_within: Duration,
    /// How many calls may be under way.
    calls_max: usize,
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
    /// No call could ever be made.
    #[error("at least one call has to be allowed at a time")]
    NoCalls,
    /// Make before break, which needs two epochs for a moment.
    #[error("at least one epoch has to be allowed beside the one in use, or none can be replaced")]
    NoOverlap,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            renew_fraction: 0.575,
            revoke_attempts: 4,
            close_within: Duration::from_secs(10),
            overlap: Duration::from_secs(30),
            overlaps_max: 1,
            open_within: Duration::from_secs(60),
            calls_max: 16,
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

    /// Leaves those who use a replaced epoch this long to move to the next one; what still uses it then is cut off.
    #[must_use]
    pub fn overlap(mut self, limit: Duration) -> Self {
        self.overlap = limit;
        self
    }

    /// Keeps at most this many replaced epochs that are still used. While there are as many, no other is opened.
    pub fn overlaps_max(mut self, epochs: usize) -> Result<Self, PolicyMistake> {
        if epochs == 0 {
            return Err(PolicyMistake::NoOverlap);
        }
        self.overlaps_max = epochs;
        Ok(self)
    }

    /// Gives each epoch of a rotation but the first this long to log in and have everything issued. A tenth of a second
    /// is added for every credential, because some issuers take as long as that for one.
    #[must_use]
    pub fn open_within(mut self, limit: Duration) -> Self {
        self.open_within = limit;
        self
    }

    /// Makes at most this many calls at a time.
    pub fn calls_max(mut self, calls: usize) -> Result<Self, PolicyMistake> {
        if calls == 0 {
            return Err(PolicyMistake::NoCalls);
        }
        self.calls_max = calls;
        Ok(self)
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.revoke_attempts
    }

    pub(crate) fn closing_limit(&self) -> Duration {
        self.close_within
    }

    pub(crate) fn calls_at_once(&self) -> usize {
        self.calls_max
    }

    pub(crate) fn overlap_limit(&self) -> Duration {
        self.overlap
    }

    pub(crate) fn overlaps_limit(&self) -> usize {
        self.overlaps_max
    }

    pub(crate) fn opening_limit(&self, wants: usize) -> Duration {
        let each = u32::try_from(wants).unwrap_or(u32::MAX);
        self.open_within.saturating_add(PER_WANT.saturating_mul(each))
    }

    pub(crate) fn fraction(&self) -> f64 {
        self.renew_fraction
    }

    /// How long a promise is relied on: two clocks and a journey lie between us and its issuer.
    pub(crate) fn usable(&self, ttl: Duration) -> Duration {
        ttl.saturating_sub(self.margin(ttl))
    }

    /// By how much two clocks may disagree in this time.
    pub(crate) fn margin(&self, ttl: Duration) -> Duration {
        Duration::from_secs(2).max(ttl / 100)
    }

    /// When to renew, counted from the request. A promise of a few seconds is renewed while it is still relied on.
    pub(crate) fn renew_after(&self, ttl: Duration, fraction: f64) -> Duration {
        let latest = self.usable(ttl).mul_f64(LATEST);
        ttl.mul_f64(fraction).min(latest)
    }

    /// When to replace what cannot be renewed: where it would have been renewed, or earlier, so that whoever uses it has
    /// the whole overlap to leave it. Counted from the request.
    pub(crate) fn replace_after(&self, ttl: Duration, fraction: f64) -> Duration {
        let in_time = self.usable(ttl).saturating_sub(self.overlap + CHANGE);
        self.renew_after(ttl, fraction).min(in_time).max(ttl / 4)
    }

    /// When to replace what could be renewed but was not: renewals have failed for a while then, and there is time left
    /// for a change and for an outage of a minute.
    pub(crate) fn replace_unrenewed_after(&self, ttl: Duration) -> Duration {
        let in_time = self.usable(ttl).saturating_sub(self.overlap + CHANGE + OUTAGE);
        let latest = ttl.mul_f64(*UNRENEWED.end()).min(in_time);
        latest.max(ttl.mul_f64(*UNRENEWED.start()))
    }

    /// Whether a promise lasts so briefly that renewing it would only use up the time to replace it.
    pub(crate) fn is_brief(&self, ttl: Duration) -> bool {
        ttl < BRIEF
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
                assert!(
                    policy.renew_after(ttl, fraction) < policy.usable(ttl),
                    "ttl {ttl_s} at {fraction}"
                );
            }
            let day = Duration::from_secs(86_400);
            assert!(
                (0.49..=0.65).contains(
                    &(policy.renew_after(day, fraction).as_secs_f64() / day.as_secs_f64())
                )
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
