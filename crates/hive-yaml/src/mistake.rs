//! What is wrong with a file, and where.

use std::fmt;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Everything that is wrong with a file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(Vec<Mistake>);

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column in characters.
    pub column: usize,
}

/// Collects mistakes, so that reading goes on after each.
#[derive(Debug)]
pub struct Notes {
    mistakes: Vec<Mistake>,
    max: usize,
    left_out: usize,
}

impl Notes {
    /// None yet, and at most `max`: nobody reads more, and each may be as long as its line. The others are counted.
    pub fn new(max: usize) -> Self {
        Self { mistakes: Vec::new(), max, left_out: 0 }
    }

    /// Adds a mistake.
    pub fn add(&mut self, at: Position, message: impl Into<String>) {
        if self.mistakes.len() < self.max {
            let Position { line, column } = at;
            self.mistakes.push(Mistake { line, column, message: message.into() });
        } else {
            self.left_out += 1;
        }
    }

    /// Whether nothing is wrong yet.
    pub fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Moves what stands behind `end`, where a file ends, to there: what is missing is noted on the line after.
    pub fn keep_before(&mut self, end: Position) {
        for mistake in &mut self.mistakes {
            if (mistake.line, mistake.column) > (end.line, end.column) {
                (mistake.line, mistake.column) = (end.line, end.column);
            }
        }
    }

    /// Everything that is wrong, sorted, and at the end how much more there was; `None` if nothing is.
    pub fn finish(self) -> Option<Mistakes> {
        let Self { mut mistakes, left_out, .. } = self;
        mistakes.sort();
        mistakes.dedup();
        let last = mistakes.last()?.clone();
        if left_out > 0 {
            let message = format!("{left_out} more mistakes are not listed");
            mistakes.push(Mistake { message, ..last });
        }
        Some(Mistakes(mistakes))
    }
}

impl Mistakes {
    /// The mistakes, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// How many there are: at least one.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes each as `file:line:column: message`, as compilers do and editors understand.
    pub fn with_file<'a>(&'a self, file: &'a str) -> MistakesInFile<'a> {
        MistakesInFile { mistakes: self, file }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, &self.0, "")
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Mistakes {
    type Item = Mistake;
    type IntoIter = std::vec::IntoIter<Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// [`Mistakes`] together with the name of their file: see [`Mistakes::with_file`].
#[derive(Clone, Copy, Debug)]
pub struct MistakesInFile<'a> {
    mistakes: &'a Mistakes,
    file: &'a str,
}

impl fmt::Display for MistakesInFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, &self.mistakes.0, &format!("{}:", self.file))
    }
}

/// One line each, without a newline after the last.
fn write_lines(f: &mut fmt::Formatter<'_>, mistakes: &[Mistake], prefix: &str) -> fmt::Result {
    for (index, mistake) in mistakes.iter().enumerate() {
        let newline = if index == 0 { "" } else { "\n" };
        write!(f, "{newline}{prefix}{mistake}")?;
    }
    Ok(())
}
