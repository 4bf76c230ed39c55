//! The mistakes found so far.

use hive_yaml::{Node, Position, excerpt};

use super::DIALECT;
use super::nearest::nearest;
use crate::Mistakes;

/// The most mistakes that are listed. Nobody reads more, and each may be as long as its line.
const MISTAKES_MAX: usize = 1_000;

/// The most guesses at what was meant. Each costs a comparison with every name of the plan.
const GUESSES_MAX: usize = 100;

/// Collects mistakes, so that reading goes on after each.
#[derive(Debug)]
pub(super) struct Notes {
    all: hive_yaml::Notes,
    guesses: usize,
}

impl Notes {
    pub(super) fn new() -> Self {
        Self { all: hive_yaml::Notes::new(MISTAKES_MAX), guesses: 0 }
    }

    /// Reads the file to a tree, if it can be read so far.
    pub(super) fn open<'s>(&mut self, source: &'s str) -> Option<Node<'s>> {
        hive_yaml::open(source, &DIALECT, &mut self.all)
    }

    /// Adds a mistake.
    pub(super) fn add(&mut self, at: Position, message: impl Into<String>) {
        self.all.add(at, message);
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

    /// Everything that is wrong, or nothing.
    pub(super) fn finish(self) -> Option<Mistakes> {
        self.all.finish()
    }

    fn guess<'c>(&mut self, word: &str, known: &[&'c str]) -> Option<&'c str> {
        self.guesses += 1;
        (self.guesses <= GUESSES_MAX).then(|| nearest(word, known.iter().copied())).flatten()
    }
}
