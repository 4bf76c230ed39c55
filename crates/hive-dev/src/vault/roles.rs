//! The roles of an auth method, by name: what makes, shows, lists and deletes them is the same for each.

use std::collections::BTreeMap;

use super::engine::Ask;
use super::reply::{Fault, Reply};
use super::routes::Verb;

/// What a method keeps of one role.
pub(super) trait Role: Clone + Default {
    /// Takes over what the body says, and leaves the rest as it is. The answer is the one to the call.
    fn write(&mut self, ask: &Ask<'_>) -> Result<Reply, Fault>;

    /// What a read shows.
    fn read(&self, name: &str) -> Reply;
}

pub(super) struct Roles<R>(BTreeMap<String, R>);

impl<R> Default for Roles<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R> FromIterator<(String, R)> for Roles<R> {
    fn from_iter<I: IntoIterator<Item = (String, R)>>(roles: I) -> Self {
        Self(roles.into_iter().collect())
    }
}

impl<R: Role> Roles<R> {
    pub(super) fn find(&self, name: &str) -> Option<R> {
        self.0.get(name).cloned()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &R)> {
        self.0.iter()
    }

    pub(super) fn list(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        page(ask, self.0.keys())
    }

    /// Answers a call that is about one role. What is refused changes nothing.
    pub(super) fn answer(&mut self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        match ask.verb() {
            Verb::Delete => {
                self.0.remove(name);
                Ok(Reply::Empty)
            }
            Verb::Read => self.0.get(name).map(|role| role.read(name)).ok_or_else(Fault::no_value),
            Verb::Write => {
                let mut role = self.find(name).unwrap_or_default();
                let reply = role.write(ask)?;
                self.0.insert(name.to_owned(), role);
                Ok(reply)
            }
            _ => Err(Fault::unsupported()),
        }
    }
}

/// Names in their order: those that come after one, and no more than are asked for.
pub(super) fn page<'a>(
    ask: &Ask<'_>,
    names: impl Iterator<Item = &'a String>,
) -> Result<Reply, Fault> {
    let after = ask.text("after").unwrap_or_default();
    let limit = ask.number("limit").map_err(Fault::of_field)?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let names = names.filter(|name| name.as_str() > after);
    Reply::keys(names.take(limit.unwrap_or(usize::MAX)).cloned())
}

/// Whether something may be called so: letters, digits and `_`, and between them `-` and `.` as well.
pub(super) fn is_name(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(is_word)
        && text.ends_with(is_word)
        && text.chars().all(|c| is_word(c) || c == '-' || c == '.')
}
