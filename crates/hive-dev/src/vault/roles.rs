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

    pub(super) fn list(&self) -> Result<Reply, Fault> {
        Reply::keys(self.0.keys().cloned())
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
