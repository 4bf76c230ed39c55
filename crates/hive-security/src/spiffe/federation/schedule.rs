//! When to ask again (SPIFFE_Federation.md §4.1 and §6.2): a decision, without a clock and without a socket.

use std::time::Duration;

/// §4.1 recommends five minutes where the bundle says nothing.
const WITHOUT_HINT: Duration = Duration::from_secs(5 * 60);

/// How much earlier than the hint a poll may be, so that those who began together do not come together. Never
/// later: who publishes a key ahead of its use counts in hints.
const JITTER: f64 = 0.1;

/// The bounds of the pause between two polls, whatever a bundle asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    at_least: Duration,
    at_most: Duration,
}

/// What came of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nothing that could be used.
    Failed,
    /// A bundle, which says how often it wants to be asked for.
    Fetched {
        /// Its `spiffe_refresh_hint`.
        refresh_hint: Option<Duration>,
    },
}

/// Decides when the next poll is.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    polling: Polling,
    interval: Duration,
}

impl Polling {
    /// Between these; the second counts for nothing where it is smaller than the first, and both are at least one
    /// millisecond.
    pub fn between(at_least: Duration, at_most: Duration) -> Self {
        let at_least = at_least.max(Duration::from_millis(1));
        Self { at_least, at_most: at_most.max(at_least) }
    }

    fn interval(self, hint: Option<Duration>) -> Duration {
        hint.unwrap_or(WITHOUT_HINT).clamp(self.at_least, self.at_most)
    }
}

impl Default for Polling {
    /// Between ten seconds and one hour: nobody's hint makes us a burden to others, and a key that was withdrawn is
    /// not trusted for days because of one large number.
    fn default() -> Self {
        Self::between(Duration::from_secs(10), Duration::from_secs(60 * 60))
    }
}

impl Schedule {
    /// For a bundle of which this much is known: the hint of the document at hand, if there is one.
    pub fn new(polling: Polling, refresh_hint: Option<Duration>) -> Self {
        Self { polling, interval: polling.interval(refresh_hint) }
    }

    /// Takes note of a poll. A failure changes nothing: the next poll is the next regular one, neither sooner nor
    /// later (§6.2).
    pub fn note(&mut self, poll: Poll) {
        match poll {
            Poll::Failed => {}
            Poll::Fetched { refresh_hint } => self.interval = self.polling.interval(refresh_hint),
        }
    }

    /// How long to wait from the end of the last poll. `chance` is a number from 0 to 1, and moves the poll by up to
    /// a tenth towards now.
    pub fn pause(&self, chance: f64) -> Duration {
        let chance = if chance.is_nan() { 0.0 } else { chance.clamp(0.0, 1.0) };
        self.interval
            .mul_f64(1.0 - JITTER * chance)
            .clamp(self.polling.at_least, self.polling.at_most)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fetched(seconds: Option<u64>) -> Poll {
        Poll::Fetched { refresh_hint: seconds.map(Duration::from_secs) }
    }

    fn polls() -> impl Strategy<Value = Vec<Poll>> {
        let hint =
            prop_oneof![Just(None), any::<u64>().prop_map(Some), (0..100_000_u64).prop_map(Some),];
        let poll = prop_oneof![Just(Poll::Failed), hint.prop_map(fetched)];
        proptest::collection::vec(poll, 0..20)
    }

    #[test]
    fn a_hint_is_followed_between_the_bounds_and_five_minutes_hold_without_one() {
        for (hint, pause) in [
            (None, seconds(300)),
            (Some(0), seconds(10)),
            (Some(9), seconds(10)),
            (Some(60), seconds(60)),
            (Some(3_600), seconds(3_600)),
            (Some(1 << 63), seconds(3_600)),
            (Some(u64::MAX), seconds(3_600)),
        ] {
            let mut schedule = Schedule::new(Polling::default(), Some(seconds(77)));
            schedule.note(fetched(hint));
            assert_eq!(schedule.pause(0.0), pause, "{hint:?}");
        }
    }

    proptest! {
        #[test]
        fn no_pause_is_outside_the_bounds(
            polls in polls(),
            low in 0_u64..10_000_000,
            high in 0_u64..10_000_000,
            chance in any::<f64>(),
        ) {
            let polling = Polling::between(Duration::from_millis(low), Duration::from_millis(high));
            let mut schedule = Schedule::new(polling, None);
            for poll in polls {
                schedule.note(poll);
                let pause = schedule.pause(chance);
                prop_assert!(pause >= Duration::from_millis(low.max(1)));
                prop_assert!(pause <= Duration::from_millis(high.max(low).max(1)));
            }
        }

        #[test]
        fn a_poll_is_never_later_than_the_hint_and_at_most_a_tenth_sooner(
            hint in 12_u64..3_600,
            chance in 0.0..=1.0_f64,
        ) {
            let mut schedule = Schedule::new(Polling::default(), None);
            schedule.note(fetched(Some(hint)));
            let pause = schedule.pause(chance);
            prop_assert!(pause <= seconds(hint) && pause >= seconds(hint).mul_f64(0.9));
        }

        #[test]
        fn a_failure_moves_no_poll(polls in polls(), failures in 1_usize..50) {
            let mut schedule = Schedule::new(Polling::default(), None);
            polls.into_iter().for_each(|poll| schedule.note(poll));
            let before = schedule.pause(0.5);
            (0..failures).for_each(|_| schedule.note(Poll::Failed));
            prop_assert_eq!(schedule.pause(0.5), before);
        }

        #[test]
        fn only_the_last_hint_counts(polls in polls(), hint in any::<Option<u64>>()) {
            let mut schedule = Schedule::new(Polling::default(), None);
            polls.into_iter().for_each(|poll| schedule.note(poll));
            schedule.note(fetched(hint));
            let fresh = Schedule::new(Polling::default(), hint.map(Duration::from_secs));
            prop_assert_eq!(schedule.pause(0.3), fresh.pause(0.3));
        }
    }
}
