//! Delays between tries: doubling to a cap, jittered so that workers that lost the same server do not return as one.

use rand::Rng;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const CAP: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure: between half of the delay and all of it.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Whether this failure is the first of a row: worth a warning, the others are not.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_fresh() && backoff.next_delay() <= FIRST);
        let last = (0..40).map(|_| backoff.next_delay()).last().expect("there are 40");
        assert!(last >= CAP / 2 && last <= CAP);
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
