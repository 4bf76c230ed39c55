//! What a token may do where: exact paths, prefixes `*`, segments `+`; the most specific pattern decides, `deny` wins.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::policy_limits::Limits;
use super::policy_text;
use super::setup::{Capability, PathRule};

/// The policy that every token carries: a token may look after itself, but not revoke leases.
const DEFAULT: &str = include_str!("default_policy.hcl");
/// All that a wrapping token may do: give back, once, what it wraps.
const WRAPPING: [(&str, Capability); 2] =
    [("cubbyhole/response", Capability::Read), ("sys/wrapping/unwrap", Capability::Update)];
pub(super) const RESPONSE_WRAPPING: &str = "response-wrapping";

/// A policy, as it was written and as it is used.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) text: String,
    pub(super) modified: SystemTime,
    pub(super) version: u64,
    rules: Vec<Rule>,
}

/// What a policy says of one path.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) path: String,
    pub(super) capabilities: Vec<Capability>,
    pub(super) limits: Limits,
}

impl From<PathRule> for Rule {
    fn from(rule: PathRule) -> Self {
        Self { path: rule.path, capabilities: rule.capabilities, limits: Limits::default() }
    }
}

/// All policies, by namespace and name.
#[derive(Default)]
pub(super) struct Policies(BTreeMap<(String, String), Policy>);

impl Policies {
    /// Gives a namespace the policy `default`.
    pub(super) fn open(&mut self, namespace: &str, now: SystemTime) {
        let rules = policy_text::parse(DEFAULT).unwrap_or_default();
        self.set(namespace, "default", DEFAULT.to_owned(), rules, now);
    }

    pub(super) fn close(&mut self, namespace: &str) {
        self.0.retain(|(own, _), _| own != namespace);
    }

    pub(super) fn set(
        &mut self,
        namespace: &str,
        name: &str,
        text: String,
        rules: Vec<Rule>,
        modified: SystemTime,
    ) {
        let version = self.get(namespace, name).map_or(0, |policy| policy.version) + 1;
        let policy = Policy { text, modified, version, rules };
        self.0.insert((namespace.to_owned(), name.to_owned()), policy);
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Policy> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        self.0.remove(&(namespace.to_owned(), name.to_owned()));
    }

    pub(super) fn names(&self, namespace: &str) -> Vec<String> {
        let own = self.0.keys().filter(|(own, _)| own == namespace);
        own.map(|(_, name)| name.clone()).collect()
    }

    /// What these policies of a namespace together grant on a path, which is that of the whole vault; nothing if none
    /// of them names it or one denies it.
    pub(super) fn capabilities(
        &self,
        namespace: &str,
        policies: &[String],
        path: &str,
    ) -> Vec<Capability> {
        let deciding = self.deciding(namespace, policies, path);
        let mut granted: Vec<_> =
            deciding.iter().flat_map(|rule| rule.capabilities.iter().copied()).collect();
        granted.sort_unstable();
        granted.dedup();
        if granted.contains(&Capability::Deny) { Vec::new() } else { granted }
    }

    /// What they ask of a call there, besides that.
    pub(super) fn limits(&self, namespace: &str, policies: &[String], path: &str) -> Limits {
        let deciding = self.deciding(namespace, policies, path);
        deciding.iter().fold(Limits::default(), |limits, rule| limits.and(&rule.limits))
    }

    /// The rules for the most specific pattern that the path matches.
    fn deciding(&self, namespace: &str, policies: &[String], path: &str) -> Vec<Rule> {
        let Some(path) = path.strip_prefix(namespace) else { return Vec::new() };
        let mut rules = self.rules(namespace, policies);
        rules.retain(|rule| matches(&rule.path, path));
        let best = rules.iter().map(|rule| specificity(&rule.path)).max();
        let Some(best) = best.map(|(_, _, _, _, pattern)| pattern.to_owned()) else { return rules };
        rules.retain(|rule| rule.path == best);
        rules
    }

    /// Whether anything below a mount is granted: `bao kv` may then ask what kind of mount it is.
    pub(super) fn touch_mount(&self, namespace: &str, policies: &[String], mount: &str) -> bool {
        let Some(mount) = mount.strip_prefix(namespace) else { return false };
        self.rules(namespace, policies).iter().any(|rule| {
            let fixed = rule.path.split(['*', '+']).next().unwrap_or_default();
            (fixed.starts_with(mount) || mount.starts_with(fixed))
                && !rule.capabilities.contains(&Capability::Deny)
        })
    }

    fn rules(&self, namespace: &str, policies: &[String]) -> Vec<Rule> {
        let known = policies.iter().filter_map(|name| self.get(namespace, name));
        let mut rules: Vec<_> = known.flat_map(|policy| policy.rules.clone()).collect();
        if policies.iter().any(|name| name == RESPONSE_WRAPPING) {
            rules.extend(WRAPPING.map(|(path, capability)| Rule {
                path: path.to_owned(),
                capabilities: vec![capability],
                limits: Limits::default(),
            }));
        }
        rules
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
        let mut policies = Policies::default();
        policies.open("", SystemTime::UNIX_EPOCH);
        let rules = rules.iter().map(|(path, capabilities)| Rule {
            path: (*path).to_owned(),
            capabilities: capabilities.to_vec(),
            limits: Limits::default(),
        });
        policies.set("", "p", String::new(), rules.collect(), SystemTime::UNIX_EPOCH);
        policies
    }

    fn granted(rules: &[(&str, &[Capability])], path: &str) -> Vec<Capability> {
        policies(rules).capabilities("", &["p".to_owned()], path)
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
        assert_eq!(all.capabilities("", &default, "auth/token/lookup-self"), [Read]);
        assert_eq!(all.capabilities("", &default, "sys/leases/renew"), [Update]);
        assert_eq!(all.capabilities("", &default, "sys/leases/revoke"), []);
    }

    #[test]
    fn a_policy_of_a_namespace_grants_nothing_outside_of_it() {
        let mut all = policies(&[]);
        let rule = PathRule { path: "kv/*".to_owned(), capabilities: vec![Read] }.into();
        all.set("ns1/", "p", String::new(), vec![rule], SystemTime::UNIX_EPOCH);
        let granted = |path| all.capabilities("ns1/", &["p".to_owned()], path);
        assert_eq!((granted("ns1/kv/a"), granted("kv/a")), (vec![Read], vec![]));
        assert_eq!(all.capabilities("", &["p".to_owned()], "ns1/kv/a"), []);
    }
}
