//! What goes wrong, and how often.

use super::dice::Dice;
use super::server::Micros;

pub(crate) const SECOND: Micros = 1_000_000;

/// What becomes of one call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It is carried out, but the answer does not arrive.
    AnswerLost,
    /// Whoever made it gave up; it is carried out later all the same.
    Cancelled,
    Fine,
    /// It does not arrive, and nobody knows.
    Lost,
    Missing,
    Refused,
    /// It is carried out, and nobody ever says a word about it.
    Silent,
    /// An error that changes nothing.
    Stalled,
}

/// Chances are per mille.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) stalls: u64,
    pub(crate) loses: u64,
    pub(crate) cancels: u64,
    pub(crate) silent: u64,
    pub(crate) refuses: u64,
    pub(crate) misses: u64,
    pub(crate) probe_fails: u64,
    pub(crate) probe_refused: u64,
    pub(crate) latency: Micros,
    /// How long the driver may oversleep.
    pub(crate) late: Micros,
}

impl Weather {
    pub(crate) fn fair() -> Self {
        Self {
            stalls: 0,
            loses: 0,
            cancels: 0,
            silent: 0,
            refuses: 0,
            misses: 0,
            probe_fails: 0,
            probe_refused: 0,
            latency: SECOND / 50,
            late: 3000,
        }
    }

    pub(crate) fn storm(dice: &mut Dice) -> Self {
        // One in five is an outage: next to nothing works.
        let stalls = if dice.per_mille(200) { 1000 } else { dice.below(500) };
        Self {
            stalls,
            loses: dice.below(80),
            cancels: dice.below(40),
            silent: dice.below(20),
            refuses: dice.below(30),
            misses: dice.below(10),
            probe_fails: dice.below(400),
            probe_refused: dice.below(60),
            latency: dice.between(SECOND / 1000, 4 * SECOND),
            late: dice.below(SECOND / 2),
        }
    }

    pub(crate) fn fate(&self, dice: &mut Dice) -> Fate {
        let table = [
            (self.stalls, Fate::Stalled),
            (self.loses, Fate::AnswerLost),
            (self.loses / 2, Fate::Lost),
            (self.cancels, Fate::Cancelled),
            (self.silent, Fate::Silent),
            (self.refuses, Fate::Refused),
            (self.misses, Fate::Missing),
        ];
        let mut roll = dice.below(1000);
        for (chance, fate) in table {
            if roll < chance {
                return fate;
            }
            roll -= chance;
        }
        Fate::Fine
    }
}
