//! How many calls may be under way, and how many repetitions begin in a second.

use std::time::Duration;

use crate::moment::Moment;
use crate::policy::Policy;

/// Repetitions may begin this far apart for ever, and this many at once after a rest.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_BURST: u32 = 10;

/// One for all epochs of a machine: a server that is ill is not asked more often because we hold more of it.
///
/// The bucket is kept as the moment at which it is full again, so that no rounding can make a waiter wake too early.
#[derive(Debug)]
pub(crate) struct Gate {
    free: usize,
    full_at: Moment,
}

impl Gate {
    pub(crate) fn new(policy: &Policy) -> Self {
        Self { free: policy.calls_at_once(), full_at: Moment::after(Duration::ZERO) }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.free > 0
    }

    /// From when on a repetition may begin.
    pub(crate) fn retry_at(&self) -> Moment {
        self.full_at - RETRY_INTERVAL * (RETRY_BURST - 1)
    }

    /// Whether a call may begin now. The first attempt at something is bounded by the room alone.
    pub(crate) fn admits(&self, now: Moment, is_retry: bool) -> bool {
        self.has_room() && (!is_retry || self.retry_at() <= now)
    }

    pub(crate) fn enter(&mut self, now: Moment, is_retry: bool) {
        self.free = self.free.saturating_sub(1);
        if is_retry {
            self.full_at = self.full_at.max(now) + RETRY_INTERVAL;
        }
    }

    pub(crate) fn leave(&mut self, calls: usize) {
        self.free += calls;
    }

    /// A server that answers well is not ill: what waits for it need not queue any longer.
    pub(crate) fn succeeded(&mut self) {
        self.full_at = self.full_at - 2 * RETRY_INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment::after(Duration::from_millis(milliseconds))
    }

    #[test]
    fn repetitions_come_in_a_burst_and_then_five_a_second() {
        let mut gate = Gate::new(&Policy::default());
        let mut begun = 0;
        for tick in 0..10_000 {
            if gate.admits(at(tick), true) {
                gate.enter(at(tick), true);
                gate.leave(1);
                begun += 1;
            }
        }
        assert_eq!(begun, 9 + 50);
    }

    #[test]
    fn a_repetition_may_begin_exactly_when_it_was_announced() {
        let mut gate = Gate::new(&Policy::default());
        for _ in 0..1000 {
            let then = gate.retry_at();
            assert!(gate.admits(then, true), "{then:?}");
            gate.enter(then, true);
            gate.leave(1);
        }
    }

    #[test]
    fn no_more_calls_are_under_way_than_there_is_room_for() {
        let mut gate = Gate::new(&Policy::default());
        let begun = (0..100).take_while(|_| {
            let admitted = gate.admits(at(0), false);
            gate.enter(at(0), false);
            admitted
        });
        assert_eq!(begun.count(), 16);
        gate.leave(1);
        assert!(gate.admits(at(0), false));
    }
}
