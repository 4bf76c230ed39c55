//! What a token may do where: exact paths, prefixes `*`, segments `+`; the most specific pattern decides, `deny` wins.

use std::collections::BTreeMap;

use super::setup::{Capability, PathRule};

/// The policy that every token carries, as in Vault: a token may look after itself, but not revoke leases.
const DEFAULT: [(&str, Capability); 6] = [
    ("auth/token/lookup-self", Capability::Read),
    ("auth/token/renew-self", Capability::Update),
    ("auth/token/revoke-self", Capability::Update),
    ("sys/capabilities-self", Capability::Update),
    ("sys/leases/lookup", Capability::Update),
    ("sys/leases/renew", Capability::Update),
];

/// All policies by name.
pub(super) struct Policies(BTreeMap<String, Vec<PathRule>>);

impl Policies {
    pub(super) fn new(mut named: BTreeMap<String, Vec<PathRule>>) -> Self {
        named.entry("default".to_owned()).or_insert_with(|| {
            let rule = |(path, capability): &(&str, _)| PathRule {
                path: (*path).to_owned(),
                capabilities: vec![*capability],
            };
            DEFAULT.iter().map(rule).collect()
        });
        Self(named)
    }

    /// What these policies together grant on a path; nothing if none of them names it or one denies it.
    pub(super) fn capabilities(&self, policies: &[String], path: &str) -> Vec<Capability> {
        let matching = || self.rules(policies).filter(|rule| matches(&rule.path, path));
        let Some(best) = matching().map(|rule| specificity(&rule.path)).max() else {
            return Vec::new();
        };
        let deciding = matching().filter(|rule| specificity(&rule.path) == best);
        let mut granted: Vec<_> =
            deciding.flat_map(|rule| rule.capabilities.iter().copied()).collect();
        granted.sort_unstable();
        granted.dedup();
        if granted.contains(&Capability::Deny) { Vec::new() } else { granted }
    }

    /// Whether anything below a mount is granted: `bao kv` may then ask what kind of mount it is.
    pub(super) fn touch_mount(&self, policies: &[String], mount: &str) -> bool {
        self.rules(policies).any(|rule| {
            let fixed = rule.path.split(['*', '+']).next().unwrap_or_default();
            (fixed.starts_with(mount) || mount.starts_with(fixed))
                && !rule.capabilities.contains(&Capability::Deny)
        })
    }

    fn rules<'a>(&'a self, policies: &'a [String]) -> impl Iterator<Item = &'a PathRule> {
        policies.iter().filter_map(|name| self.0.get(name)).flatten()
    }
}

/// Vault's order: a wildcard that comes later is more specific, then no `*` at the end, then fewer `+`, then length.
fn specificity(pattern: &str) -> (usize, bool, std::cmp::Reverse<usize>, usize, &str) {
    let wildcard = pattern.find(['*', '+']).unwrap_or(usize::MAX);
    let plus = pattern.split('/').filter(|segment| *segment == "+").count();
    (wildcard, !pattern.ends_with('*'), std::cmp::Reverse(plus), pattern.len(), pattern)
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, prefix) =
        pattern.strip_suffix('*').map_or((pattern, false), |pattern| (pattern, true));
    let (wanted, given): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), path.split('/').collect());
    if wanted.len() > given.len() || (!prefix && wanted.len() != given.len()) {
        return false;
    }
    let last = wanted.len() - 1;
    wanted.iter().zip(&given).enumerate().all(|(place, (wanted, given))| {
        *wanted == "+" || wanted == given || (prefix && place == last && given.starts_with(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(rules: &[(&str, &[Capability])]) -> Policies {
        let rules = rules.iter().map(|(path, capabilities)| PathRule {
            path: (*path).to_owned(),
            capabilities: capabilities.to_vec(),
        });
        Policies::new(BTreeMap::from([("p".to_owned(), rules.collect())]))
    }

    fn granted(rules: &[(&str, &[Capability])], path: &str) -> Vec<Capability> {
        policies(rules).capabilities(&["p".to_owned()], path)
    }

    use Capability::{Deny, List, Read, Update};

    #[test]
    fn patterns_match_as_in_vault() {
        let table = [
            ("secret/data/a", "secret/data/a", true),
            ("secret/data/a", "secret/data/a/b", false),
            ("secret/data/a", "secret/data/ab", false),
            ("secret/data/*", "secret/data/a/b", true),
            ("secret/data/a*", "secret/data/ab/c", true),
            ("secret/data/*", "secret/data", false),
            ("secret/+/a", "secret/data/a", true),
            ("secret/+/a", "secret/x/y/a", false),
            ("secret/+/a*", "secret/data/ab/c", true),
            ("*", "anything/at/all", true),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_most_specific_pattern_decides() {
        let rules: &[(&str, &[Capability])] = &[
            ("secret/*", &[Read, List]),
            ("secret/data/private/*", &[Deny]),
            ("secret/data/private/mine", &[Update]),
        ];
        assert_eq!(granted(rules, "secret/data/a"), [List, Read]);
        assert_eq!(granted(rules, "secret/data/private/theirs"), []);
        assert_eq!(granted(rules, "secret/data/private/mine"), [Update]);
        assert_eq!(granted(rules, "database/creds/app"), []);
    }

    #[test]
    fn deny_wins_over_a_grant_on_the_same_pattern() {
        assert_eq!(granted(&[("a/*", &[Read]), ("a/*", &[Deny])], "a/b"), []);
    }

    #[test]
    fn everyone_may_look_after_a_token_of_their_own_but_not_revoke_leases() {
        let all = policies(&[]);
        let default = ["default".to_owned()];
        assert_eq!(all.capabilities(&default, "auth/token/lookup-self"), [Read]);
        assert_eq!(all.capabilities(&default, "sys/leases/renew"), [Update]);
        assert_eq!(all.capabilities(&default, "sys/leases/revoke"), []);
    }
}
