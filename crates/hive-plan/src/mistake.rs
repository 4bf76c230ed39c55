//! What is wrong with a plan file, and where.

use std::fmt;

/// One thing that is wrong with a plan file.
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

/// Everything that is wrong with a plan file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Sorts them, and says at the end how many more there were; `None` if there are none.
    pub(crate) fn collect(mut mistakes: Vec<Mistake>, left_out: usize) -> Option<Self> {
        mistakes.sort();
        mistakes.dedup();
        let last = mistakes.last()?.clone();
        if left_out > 0 {
            let message = format!("{left_out} more mistakes are not listed");
            mistakes.push(Mistake { message, ..last });
        }
        Some(Self(mistakes))
    }

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
