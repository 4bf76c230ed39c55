//! Who may call which method: denied unless allowed.

use crate::{IdPattern, SpiffeId};

/// Which callers may use which methods. What no rule allows is denied.
#[derive(Clone, Debug, Default)]
pub struct MethodPolicy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    method: Methods,
    callers: IdPattern,
}

#[derive(Clone, Debug)]
enum Methods {
    /// `/pkg.Service/`: with the slash, so that `/pkg.Service2/` is another one.
    OfService(String),
    One(String),
}

impl MethodPolicy {
    /// A policy that allows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also lets `callers` use `method`: `/pkg.Service/Method`, or `/pkg.Service/*` for all of a service.
    ///
    /// # Panics
    ///
    /// If `method` has another form, for such a rule would silently allow nothing.
    #[must_use]
    pub fn allow(mut self, method: &str, callers: IdPattern) -> Self {
        let method = Methods::parse(method);
        self.rules.push(Rule { method, callers });
        self
    }

    pub(crate) fn allows(&self, path: &str, caller: &SpiffeId) -> bool {
        self.rules.iter().any(|rule| rule.method.covers(path) && rule.callers.matches(caller))
    }
}

impl Methods {
    fn parse(method: &str) -> Self {
        let parts: Vec<&str> = method.split('/').collect();
        match parts.as_slice() {
            ["", service, "*"] if !service.is_empty() => Self::OfService(format!("/{service}/")),
            ["", service, name]
                if !service.is_empty() && !name.is_empty() && !name.contains('*') =>
            {
                Self::One(method.to_owned())
            }
            _ => panic!(
                "a method policy needs /pkg.Service/Method or /pkg.Service/*, not {method:?}"
            ),
        }
    }

    fn covers(&self, path: &str) -> bool {
        match self {
            Self::One(method) => path == method,
            Self::OfService(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|name| !name.contains('/'))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_no_rule_allows_is_denied() {
        let policy = MethodPolicy::new()
            .allow("/a.B/C", IdPattern::parse("spiffe://td/one").unwrap())
            .allow("/a.D/*", IdPattern::parse("spiffe://td/two/**").unwrap())
            .allow("/a.D/E", IdPattern::parse("spiffe://td/one").unwrap());
        let table = [
            ("/a.B/C", "one", true),
            ("/a.B/C", "two", false),
            ("/a.B/c", "one", false),
            ("/a.B/CC", "one", false),
            ("/a.D/X", "two/x", true),
            ("/a.D/X", "one", false),
            ("/a.D/E", "one", true),
            ("/a.D/E", "two", true),
            ("/a.DD/E", "two", false),
            ("/a.D/E/F", "two", false),
            ("/a.D", "two", false),
            ("", "one", false),
        ];
        for (method, caller, expected) in table {
            let caller = SpiffeId::parse(&format!("spiffe://td/{caller}")).unwrap();
            assert_eq!(policy.allows(method, &caller), expected, "{method} by {caller}");
        }
    }

    #[test]
    #[should_panic(expected = "needs /pkg.Service/Method")]
    fn a_rule_that_could_never_match_is_a_mistake_of_the_programmer() {
        let _ = MethodPolicy::new().allow("a.B/C", IdPattern::parse("spiffe://td/one").unwrap());
    }
}
