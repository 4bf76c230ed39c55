//! What is wrong with a policy file, and where.

use std::fmt;

/// The most mistakes that are listed; nobody reads more.
const MISTAKES_MAX: usize = 100;

/// One thing that is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// Everything that is wrong with a policy file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(Vec<Mistake>);

/// A place in a policy file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Collects mistakes, so that reading goes on after each.
#[derive(Debug, Default)]
pub(super) struct Notes {
    mistakes: Vec<Mistake>,
    left_out: usize,
}

impl Mistakes {
    /// The mistakes, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{mistake}")?;
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Notes {
    pub(super) fn add(&mut self, at: Position, message: impl Into<String>) {
        if self.mistakes.len() < MISTAKES_MAX {
            let Position { line, column } = at;
            self.mistakes.push(Mistake { line, column, message: message.into() });
        } else {
            self.left_out += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Moves what stands behind `end`, where a file ends, to there: what is missing is noted on the line after.
    pub(super) fn keep_before(&mut self, end: Position) {
        for mistake in &mut self.mistakes {
            if (mistake.line, mistake.column) > (end.line, end.column) {
                (mistake.line, mistake.column) = (end.line, end.column);
            }
        }
    }

    /// Everything that is wrong, or nothing.
    pub(super) fn finish(mut self) -> Option<Mistakes> {
        self.mistakes.sort();
        let last = self.mistakes.last()?.clone();
        if self.left_out > 0 {
            let message = format!("{} more mistakes are not listed", self.left_out);
            self.mistakes.push(Mistake { message, ..last });
        }
        Some(Mistakes(self.mistakes))
    }
}

/// The beginning of what a file says, fit for a sentence.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
