//! Who a rule is about.

use crate::{IdPattern, SpiffeId};

/// Which callers are meant: a pattern, or a combination of several.
///
/// Patterns convert into it, so most rules are given an [`IdPattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Who {
    /// Those whom each of them means. Of none: nobody, for nothing was said.
    All(Vec<Self>),
    /// Those whom at least one of them means.
    Any(Vec<Self>),
    /// Everyone else.
    Not(Box<Self>),
    /// Those whose SPIFFE ID matches.
    One(IdPattern),
}

impl Who {
    /// Whether `id` is one of those meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::All(several) => !several.is_empty() && several.iter().all(|who| who.matches(id)),
            Self::Any(several) => several.iter().any(|who| who.matches(id)),
            Self::Not(who) => !who.matches(id),
            Self::One(pattern) => pattern.matches(id),
        }
    }
}

impl From<IdPattern> for Who {
    fn from(pattern: IdPattern) -> Self {
        Self::One(pattern)
    }
}
