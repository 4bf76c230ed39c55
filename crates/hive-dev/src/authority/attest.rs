//! Which identities a process has: the rules, as one pure function over facts and entries.
//!
//! 1. An entry with a process is exclusive: its process has the identities of such entries and no others.
//! 2. Other entries match by user, group and executable.
//! 3. Among those, the operator's entries are for people. They are refused to a registered service's descendants, and
//!    to everything that hangs from the supervisor without being registered; the latter are also where a service ends
//!    up that left its parent, if the supervisor is the reaper of its descendants. Allowed are what does not
//!    descend from the supervisor, and the subtrees of the commands that it runs for the operator.
//! 4. A process below the supervisor that is not registered may be about to be: it is worth a short wait.

use std::path::{Path, PathBuf};

use hive_security::SpiffeId;

use super::entries::Terms;

/// A process and no other: numbers are used again, start times within a number are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProcessKey {
    pub(super) pid: u32,
    /// In clock ticks since boot.
    pub(super) start_time: u64,
}

/// What is known of a calling process.
#[derive(Clone, Debug)]
pub(super) struct ProcessFacts {
    pub(super) key: ProcessKey,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// None if it may not be read.
    pub(super) executable: Option<PathBuf>,
    /// Of the executable. None if it may not be read, or if no entry asks for it.
    pub(super) sha256: Option<Sha256>,
    /// The parent first. None if they kept changing.
    pub(super) ancestors: Option<Vec<ProcessKey>>,
}

/// The SHA-256 of a file.
pub(super) type Sha256 = [u8; 32];

/// Who a process is, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) spiffe_id: SpiffeId,
    pub(super) terms: Terms,
}

/// An entry whose process, if it has one, still runs.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) identity: Identity,
    pub(super) process: Option<ProcessKey>,
    pub(super) demands: Demands,
    pub(super) for_operator: bool,
}

/// What must hold besides being the process, if any is named. All of it must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Demands {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) path: Option<PathBuf>,
    pub(super) sha256: Option<Sha256>,
}

/// Everything that a decision rests on, besides the facts.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    /// The commands that the supervisor runs for the operator.
    pub(super) operator_roots: Vec<ProcessKey>,
    pub(super) supervisor: Option<ProcessKey>,
}

/// Who the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// These; possibly none.
    Identities(Vec<Identity>),
    /// It may be about to be registered. If it is not, these.
    Wait(Vec<Identity>),
}

/// Where a process stands in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A person's: outside the supervisor's tree, or below a command that it runs for the operator.
    Free,
    /// Below a registered service, or nobody can tell.
    Service,
    /// Below the supervisor, and below nothing that is registered.
    Unregistered,
}

pub(super) fn decide(facts: &ProcessFacts, rules: &Rules) -> Decision {
    let mut own = rules.rules.iter().filter(|rule| rule.process == Some(facts.key)).peekable();
    if own.peek().is_some() {
        return Decision::Identities(identities(own.filter(|rule| rule.fits(facts))));
    }
    let standing = standing(facts, rules);
    let shared = rules.rules.iter().filter(|rule| rule.process.is_none() && rule.fits(facts));
    let allowed = shared.filter(|rule| !rule.for_operator || standing == Standing::Free);
    let identities = identities(allowed);
    if standing == Standing::Unregistered {
        Decision::Wait(identities)
    } else {
        Decision::Identities(identities)
    }
}

impl Rules {
    /// Whether anyone asks for the hash of an executable: it is not free.
    pub(super) fn ask_for_sha256(&self) -> bool {
        self.rules.iter().any(|rule| rule.demands.sha256.is_some())
    }
}

impl Rule {
    /// Whether user, group and executable are as demanded.
    fn fits(&self, facts: &ProcessFacts) -> bool {
        let Demands { uid, gid, path, sha256 } = &self.demands;
        let path_fits = |path: &PathBuf| facts.executable.as_deref() == Some(Path::new(path));
        uid.is_none_or(|uid| uid == facts.uid)
            && gid.is_none_or(|gid| gid == facts.gid)
            && path.as_ref().is_none_or(path_fits)
            && sha256.is_none_or(|sha256| facts.sha256 == Some(sha256))
    }
}

/// Each identity once, in the order of the entries; the first one is the default. A hint belongs to the first that has
/// it, because it is unique within an answer (Workload API standard, section 5.2.1); the later one goes without.
fn identities<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<Identity> {
    let mut found: Vec<Identity> = Vec::new();
    for rule in rules {
        if found.iter().any(|known| known.spiffe_id == rule.identity.spiffe_id) {
            continue;
        }
        let mut identity = rule.identity.clone();
        if found.iter().any(|known| known.terms.hint == identity.terms.hint) {
            identity.terms.hint.clear();
        }
        found.push(identity);
    }
    found
}

/// Walks up from the process; what is met first decides.
fn standing(facts: &ProcessFacts, rules: &Rules) -> Standing {
    let Some(ancestors) = &facts.ancestors else { return Standing::Service };
    for key in std::iter::once(&facts.key).chain(ancestors) {
        if rules.operator_roots.contains(key) {
            return Standing::Free;
        }
        if rules.rules.iter().any(|rule| rule.process == Some(*key)) {
            return Standing::Service;
        }
        if rules.supervisor == Some(*key) {
            return if *key == facts.key { Standing::Free } else { Standing::Unregistered };
        }
    }
    Standing::Free
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIVE: &str = "/opt/hive";
    const SUPERVISOR: ProcessKey = key(10);
    const SERVICE: ProcessKey = key(20);
    const ROOT: ProcessKey = key(30);
    const SHELL: ProcessKey = key(2);
    const INIT: ProcessKey = key(1);

    const fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, start_time: 100 }
    }

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://dev.hive.internal/{name}")).expect("a good ID")
    }

    fn identity(name: &str) -> Identity {
        Identity { spiffe_id: id(name), terms: Terms::default() }
    }

    fn rule(name: &str) -> Rule {
        let demands = Demands::default();
        Rule { identity: identity(name), process: None, demands, for_operator: false }
    }

    /// A service, an operator's root, the operator's entry, below a supervisor that a shell started.
    fn rules() -> Rules {
        let service = Rule { process: Some(SERVICE), ..rule("service") };
        let demands = Demands { uid: Some(0), path: Some(HIVE.into()), ..Demands::default() };
        let operator = Rule { demands, for_operator: true, ..rule("operator") };
        Rules {
            rules: vec![service, operator],
            operator_roots: vec![ROOT],
            supervisor: Some(SUPERVISOR),
        }
    }

    fn facts(process: ProcessKey, ancestors: &[ProcessKey]) -> ProcessFacts {
        ProcessFacts {
            key: process,
            uid: 0,
            gid: 0,
            executable: Some(HIVE.into()),
            sha256: None,
            ancestors: Some(ancestors.to_vec()),
        }
    }

    fn is(names: &[&str]) -> Decision {
        Decision::Identities(names.iter().map(|name| identity(name)).collect())
    }

    #[test]
    fn where_a_process_stands_decides_who_it_is() {
        let below = [SUPERVISOR, SHELL, INIT];
        let wait = Decision::Wait(Vec::new());
        let table: &[(&str, ProcessKey, Vec<ProcessKey>, Decision)] = &[
            ("a service is itself and nobody else", SERVICE, below.to_vec(), is(&["service"])),
            ("a service's child is nobody", key(50), [&[SERVICE], &below[..]].concat(), is(&[])),
            ("nor its grandchild", key(50), [&[key(51), SERVICE], &below[..]].concat(), is(&[])),
            ("an orphan is not the operator", key(50), below.to_vec(), wait.clone()),
            ("nor its child", key(50), [&[key(51)], &below[..]].concat(), wait),
            ("the operator's command is", ROOT, below.to_vec(), is(&["operator"])),
            (
                "and its children",
                key(50),
                [&[key(51), ROOT], &below[..]].concat(),
                is(&["operator"]),
            ),
            ("a person's shell is", key(50), vec![SHELL, INIT], is(&["operator"])),
            ("the supervisor is", SUPERVISOR, vec![SHELL, INIT], is(&["operator"])),
            (
                "a service below the operator's command is not",
                key(50),
                [&[SERVICE, ROOT], &below[..]].concat(),
                is(&[]),
            ),
        ];
        for (what, process, ancestors, expected) in table {
            assert_eq!(decide(&facts(*process, ancestors), &rules()), *expected, "{what}");
        }
    }

    #[test]
    fn a_number_used_again_is_another_process() {
        let again = ProcessKey { start_time: 101, ..SERVICE };
        assert_eq!(decide(&facts(again, &[SUPERVISOR]), &rules()), Decision::Wait(Vec::new()));
        let not_the_supervisor = ProcessKey { start_time: 101, ..SUPERVISOR };
        assert_eq!(decide(&facts(key(50), &[not_the_supervisor]), &rules()), is(&["operator"]));
    }

    #[test]
    fn every_selector_of_an_entry_must_hold() {
        let person = facts(key(50), &[SHELL]);
        assert_eq!(decide(&person, &rules()), is(&["operator"]));
        assert_eq!(decide(&ProcessFacts { uid: 1000, ..person.clone() }, &rules()), is(&[]));
        assert_eq!(decide(&ProcessFacts { executable: None, ..person.clone() }, &rules()), is(&[]));
        let deleted = Some("/opt/hive (deleted)".into());
        assert_eq!(decide(&ProcessFacts { executable: deleted, ..person }, &rules()), is(&[]));
    }

    #[test]
    fn each_kind_of_selector_holds_only_for_its_own_fact() {
        let facts = ProcessFacts { uid: 7, gid: 8, sha256: Some([9; 32]), ..facts(key(50), &[]) };
        let all =
            Demands { uid: Some(7), gid: Some(8), path: Some(HIVE.into()), sha256: Some([9; 32]) };
        let table = [
            ("all", all.clone(), true),
            ("another user", Demands { uid: Some(8), ..all.clone() }, false),
            ("another group", Demands { gid: Some(7), ..all.clone() }, false),
            ("another path", Demands { path: Some("/opt/hiv".into()), ..all.clone() }, false),
            ("another binary", Demands { sha256: Some([8; 32]), ..all.clone() }, false),
            ("only the group", Demands { gid: Some(8), ..Demands::default() }, true),
            ("only the binary", Demands { sha256: Some([9; 32]), ..Demands::default() }, true),
        ];
        for (what, demands, fits) in table {
            assert_eq!(Rule { demands, ..rule("a") }.fits(&facts), fits, "{what}");
        }
        let unread = ProcessFacts { sha256: None, ..facts };
        assert!(!Rule { demands: all, ..rule("a") }.fits(&unread), "a binary nobody could read");
    }

    #[test]
    fn a_hint_is_given_once_in_an_answer() {
        let hinted = |name: &str, hint: &str| {
            let mut rule = Rule { process: Some(SERVICE), ..rule(name) };
            rule.identity.terms.hint = hint.to_owned();
            rule
        };
        let rules = [hinted("a", "in"), hinted("b", "in"), hinted("c", "out"), hinted("d", "")];
        let found = identities(rules.iter());
        let hints: Vec<&str> = found.iter().map(|one| one.terms.hint.as_str()).collect();
        assert_eq!(hints, ["in", "", "out", ""]);
    }

    #[test]
    fn the_entry_of_a_process_is_exclusive_even_where_it_does_not_fit() {
        let mut rules = rules();
        rules.rules[0].demands.uid = Some(1000);
        rules.rules.push(rule("anyone"));
        assert_eq!(decide(&facts(SERVICE, &[SUPERVISOR]), &rules), is(&[]));
        assert_eq!(decide(&facts(key(50), &[SHELL]), &rules), is(&["operator", "anyone"]));
    }

    #[test]
    fn a_process_may_have_several_identities_each_once_and_in_order() {
        let mut rules = rules();
        for name in ["second", "service"] {
            rules.rules.push(Rule { process: Some(SERVICE), ..rule(name) });
        }
        assert_eq!(decide(&facts(SERVICE, &[SUPERVISOR]), &rules), is(&["service", "second"]));
    }

    #[test]
    fn who_cannot_be_placed_is_not_the_operator() {
        let unknown = ProcessFacts { ancestors: None, ..facts(key(50), &[]) };
        assert_eq!(decide(&unknown, &rules()), is(&[]));
    }

    #[test]
    fn an_unregistered_child_waits_with_what_it_would_get_otherwise() {
        let mut rules = rules();
        rules.rules.push(rule("anyone"));
        let child = facts(key(50), &[SUPERVISOR]);
        assert_eq!(decide(&child, &rules), Decision::Wait(vec![identity("anyone")]));
    }
}
