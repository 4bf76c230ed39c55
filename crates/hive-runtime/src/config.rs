//! Configuration: strings parsed once into domain types, every mistake reported at once.
//!
//! The source of the strings is a parameter, so that no test touches the process environment.

use std::fmt;

/// Where configuration strings come from.
pub trait Strings {
    /// The value of `name`, if there is one.
    fn string(&self, name: &str) -> Option<String>;
}

/// The environment of this process. A value that is not UTF-8 counts as a mistake of its reader:
/// it is handed over with replacement characters, which no parser of ours accepts.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Strings for ProcessEnvironment {
    fn string(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

impl Strings for &[(&str, &str)] {
    fn string(&self, name: &str) -> Option<String> {
        self.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }
}

impl Strings for std::collections::BTreeMap<String, String> {
    fn string(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

/// Reads a configuration, or says everything that is wrong with it.
pub fn read<T>(
    strings: &dyn Strings,
    parse: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    let mut reader = Reader { strings, mistakes: Vec::new() };
    match parse(&mut reader) {
        Some(config) if reader.mistakes.is_empty() => Ok(config),
        _ => Err(Mistakes(reader.mistakes)),
    }
}

/// Hands out parsed values and keeps the mistakes.
pub struct Reader<'a> {
    strings: &'a dyn Strings,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    /// A value that must be there. `None` means that a mistake was noted.
    pub fn required<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if self.strings.string(name).is_none() {
            self.note(name, "is required and not set");
        }
        self.optional(name, parse)
    }

    /// A value that may be absent. `None` means absent, or that a mistake was noted.
    pub fn optional<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.strings.string(name)?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.note(name, &format!("is {value:?}: {error}"));
                None
            }
        }
    }

    /// A value with a default.
    pub fn or<T, E: fmt::Display>(
        &mut self,
        name: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> T {
        self.optional(name, parse).unwrap_or(default)
    }

    /// Hands settings that belong together to a reader of their own, which is given a way to look values up by name
    /// and answers with what it read, or with the name and the fault of everything that is wrong.
    pub fn together<T, M: Into<(&'static str, String)>>(
        &mut self,
        read: impl FnOnce(&dyn Fn(&str) -> Option<String>) -> Result<T, Vec<M>>,
    ) -> Option<T> {
        match read(&|name| self.strings.string(name)) {
            Ok(value) => Some(value),
            Err(mistakes) => {
                for (name, message) in mistakes.into_iter().map(Into::into) {
                    self.note(name, &message);
                }
                None
            }
        }
    }

    /// Notes a mistake that a parser of one value cannot see, such as two values that disagree.
    pub fn note(&mut self, name: &str, message: &str) {
        self.mistakes.push(Mistake { name: name.to_owned(), message: message.to_owned() });
    }
}

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The setting's name.
    pub name: String,
    /// What is wrong, continuing a sentence that begins with the name.
    pub message: String,
}

/// Everything that is wrong with a configuration. Never empty when it is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One by one, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{} {}", mistake.name, mistake.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Parses a whole number of milliseconds above zero.
pub fn milliseconds(value: &str) -> Result<std::time::Duration, String> {
    match value.parse::<u64>() {
        Ok(ms) if ms > 0 => Ok(std::time::Duration::from_millis(ms)),
        _ => Err("expected a whole number of milliseconds above 0".to_owned()),
    }
}

/// Parses an absolute path.
pub fn absolute_path(value: &str) -> Result<std::path::PathBuf, String> {
    let path = std::path::PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
}

/// Accepts any text that is not empty.
pub fn text(value: &str) -> Result<String, String> {
    if value.is_empty() { Err("expected some text".to_owned()) } else { Ok(value.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(reader: &mut Reader<'_>) -> Option<(u16, std::path::PathBuf)> {
        let port = reader.required("PORT", str::parse);
        let home = reader.required("HOME", absolute_path);
        Some((port?, home?))
    }

    #[test]
    fn every_mistake_is_reported_with_its_name_and_value() {
        let mistakes = read(&[("PORT", "99999")].as_slice(), pair).expect_err("two mistakes");
        let text = mistakes.to_string();
        assert!(text.contains("PORT is \"99999\": number too large"), "{text}");
        assert!(text.contains("HOME is required and not set"), "{text}");
    }

    #[test]
    fn a_bad_value_never_falls_back_to_the_default() {
        let parse = |reader: &mut Reader<'_>| Some(reader.or("SLOTS", 2_u8, str::parse));
        assert_eq!(read(&[].as_slice(), parse), Ok(2));
        assert_eq!(read(&[("SLOTS", "-1")].as_slice(), parse).map_err(|m| m.len()), Err(1));
    }

    #[test]
    fn settings_that_belong_together_are_read_together_and_all_their_mistakes_reported() {
        let pair = |lookup: &dyn Fn(&str) -> Option<String>| match (lookup("A"), lookup("B")) {
            (Some(a), Some(b)) => Ok(a + &b),
            (a, b) => {
                let absent = [("A", a), ("B", b)].into_iter().filter(|(_, value)| value.is_none());
                Err(absent.map(|(name, _)| (name, "is not set".to_owned())).collect())
            }
        };
        let parse = |reader: &mut Reader<'_>| reader.together(pair);
        assert_eq!(read(&[("A", "1"), ("B", "2")].as_slice(), parse), Ok("12".to_owned()));
        let mistakes = read(&[].as_slice(), parse).expect_err("two mistakes");
        assert_eq!(mistakes.to_string(), "A is not set\nB is not set");
    }

    #[test]
    fn a_relative_path_is_a_mistake() {
        let mistakes = read(&[("PORT", "1"), ("HOME", "here")].as_slice(), pair);
        assert!(mistakes.is_err_and(|m| m.to_string().contains("absolute path")));
    }
}
