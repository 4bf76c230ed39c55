//! The mistakes found so far.

use super::nearest::nearest;
use crate::ticket::excerpt;
use crate::{Mistake, Mistakes};

/// The most mistakes that are listed. Nobody reads more, and each may be as long as its line.
const MISTAKES_MAX: usize = 1_000;

/// The most guesses at what was meant. Each costs a comparison with every name of the plan.
const GUESSES_MAX: usize = 100;

/// A place in a plan file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Collects mistakes, so that reading goes on after each.
#[derive(Debug, Default)]
pub(super) struct Notes {
    mistakes: Vec<Mistake>,
    guesses: usize,
    left_out: usize,
}

impl Notes {
    /// Adds a mistake.
    pub(super) fn add(&mut self, at: Position, message: impl Into<String>) {
        if self.mistakes.len() < MISTAKES_MAX {
            let Position { line, column } = at;
            self.mistakes.push(Mistake { line, column, message: message.into() });
        } else {
            self.left_out += 1;
        }
    }

    /// Adds that `word` is not one of those known: its nearest relative, or else all of them if
    /// they are few.
    pub(super) fn add_unknown<'c>(
        &mut self,
        at: Position,
        what: &str,
        word: &str,
        known: impl IntoIterator<Item = &'c str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let advice = match self.guess(word, &known) {
            Some(near) => format!("; did you mean `{near}`?"),
            None if known.len() <= 10 => format!("; known: {}", known.join(", ")),
            None => String::new(),
        };
        self.add(at, format!("unknown {what} `{}`{advice}", excerpt(word)));
    }

    /// Whether nothing is wrong yet.
    pub(super) fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Everything that is wrong, or nothing.
    pub(super) fn finish(self) -> Option<Mistakes> {
        Mistakes::collect(self.mistakes, self.left_out)
    }

    fn guess<'c>(&mut self, word: &str, known: &[&'c str]) -> Option<&'c str> {
        self.guesses += 1;
        (self.guesses <= GUESSES_MAX).then(|| nearest(word, known.iter().copied())).flatten()
    }
}
