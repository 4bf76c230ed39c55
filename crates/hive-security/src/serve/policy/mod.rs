//! Who may call which method: denied unless allowed.
//!
//! A policy comes from a file ([`MethodPolicy::parse`]) or is built by a program ([`MethodPolicy::allow`]);
//! both are the same rules, and are evaluated by the same few lines.

mod file;
mod handle;
mod methods;
#[cfg(test)]
mod tests;
mod who;

use std::fmt;
use std::num::NonZeroUsize;

use self::methods::Methods;
use crate::SpiffeId;

pub use handle::PolicyHandle;
pub use hive_yaml::{Mistake, Mistakes};
pub use who::Who;

/// Which callers may use which methods. What no rule allows is denied.
///
/// As a file, it is a list of rules; each names methods, and who may use them:
///
/// ```
/// use hive_security::SpiffeId;
/// use hive_security::serve::MethodPolicy;
///
/// let policy = MethodPolicy::parse(
///     "
/// allow:
///   - methods: [/shop.v1.Orders/Place, /shop.v1.Stock/*]
///     who: spiffe://example.org/ns/*/sa/web
///   - methods: /shop.v1.Orders/*
///     who:
///       all:
///         - spiffe://example.org/ns/shop/**
///         - not: { any: [spiffe://example.org/ns/shop/sa/guest, spiffe://example.org/ns/shop/sa/test] }
/// ",
/// )?;
/// let web = SpiffeId::parse("spiffe://example.org/ns/a/sa/web")?;
/// assert!(policy.evaluate("/shop.v1.Orders/Place", &web).allowed);
/// let denied = policy.evaluate("/shop.v1.Orders/Cancel", &web);
/// assert_eq!(denied.to_string(), "denied: no rule allows it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A method is a path, matched segment by segment: exact ones, `*` for any one, `**` (last only) for zero or
/// more. For plain HTTP it may begin with a verb: `GET /orders/*`. A segment that is empty, or that some
/// servers would take for another path (`..`, an encoded slash), is never matched by `*` or `**`.
///
/// `who` is a pattern ([`IdPattern`](crate::IdPattern)), or a map with one of `all`, `any` (lists) and `not`.
/// A `not` that does not stand in an `all` beside a pattern lets in everyone else who can be authenticated,
/// from every trust domain whose bundle is known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodPolicy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    methods: Vec<Methods>,
    who: Who,
    /// Where it stands, if it comes from a file.
    line: Option<NonZeroUsize>,
}

/// What a policy says about one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Whether the caller may go on.
    pub allowed: bool,
    /// The first rule that allows it.
    pub rule: Option<RuleId>,
}

/// Which rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleId {
    /// Its place among the rules, from 1.
    pub number: usize,
    /// Its line, if it comes from a file.
    pub line: Option<NonZeroUsize>,
}

impl MethodPolicy {
    /// A policy that allows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a policy file. Every mistake is reported, each with its line and column.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        file::read(text)
    }

    /// Also lets `callers` use `method`: `/pkg.Service/Method`, or `/pkg.Service/*` for all of a service.
    ///
    /// # Panics
    ///
    /// If `method` is not a path, for such a rule would silently allow nothing.
    #[must_use]
    pub fn allow(mut self, method: &str, callers: impl Into<Who>) -> Self {
        let methods = Methods::parse(method)
            .unwrap_or_else(|reason| panic!("method {method:?} in a policy: {reason}"));
        self.rules.push(Rule { methods: vec![methods], who: callers.into(), line: None });
        self
    }

    /// Whether `caller` may use `method`, and by which rule.
    ///
    /// `method` is `/pkg.Service/Method`; for plain HTTP it is verb and path, `GET /orders/1`.
    pub fn evaluate(&self, method: &str, caller: &SpiffeId) -> Decision {
        match method.split_once(' ') {
            Some((verb, path)) => self.decide(Some(verb), path, caller),
            None => self.decide(None, method, caller),
        }
    }

    pub(super) fn decide(&self, verb: Option<&str>, path: &str, caller: &SpiffeId) -> Decision {
        let allows = |rule: &Rule| {
            rule.methods.iter().any(|methods| methods.cover(verb, path)) && rule.who.matches(caller)
        };
        let rule = self.rules.iter().position(allows);
        let rule = rule.map(|at| RuleId { number: at + 1, line: self.rules[at].line });
        Decision { allowed: rule.is_some(), rule }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "allowed by {rule}"),
            None => f.write_str("denied: no rule allows it"),
        }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.number)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}
