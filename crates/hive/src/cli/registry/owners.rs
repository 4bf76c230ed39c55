//! Who owns the agents that are imported: the operator says so, by a rule; nothing is guessed.

use super::record::{agent_type, type_name};
use hive_api::registry::{AgentInfo, AgentType};
use hive_security::SpiffeId;
use std::str::FromStr;

/// What a rule may name, in braces.
const PLACEHOLDERS: [&str; 4] = ["{agent_id}", "{cluster}", "{namespace}", "{type}"];

/// A SPIFFE ID, or a rule that makes one for each agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule(String);

/// The rule for agents of one type, `scout=spiffe://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TypeRule {
    agent_type: AgentType,
    rule: Rule,
}

/// The rules of one import.
#[derive(Debug)]
pub(super) struct Owners {
    pub(super) of_types: Vec<TypeRule>,
    pub(super) of_others: Option<Rule>,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = PLACEHOLDERS.iter().fold(text.to_owned(), |text, name| text.replace(name, "x"));
        if plain.contains(['{', '}']) {
            return Err(format!("in braces, it may name {}", PLACEHOLDERS.join(", ")));
        }
        SpiffeId::parse(&plain).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for TypeRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rule) = text.split_once('=').ok_or("it must have the form TYPE=SPIFFE_ID")?;
        let agent_type =
            agent_type(name).ok_or("the type must be worker, scout, guard or analyst")?;
        Ok(Self { agent_type, rule: rule.parse()? })
    }
}

impl Owners {
    /// The owner of this agent, or why there is none.
    pub(super) fn of(&self, agent: &AgentInfo) -> Result<String, String> {
        let by_type = self.of_types.iter().find(|rule| rule.agent_type == agent.agent_type());
        let rule = by_type.map(|rule| &rule.rule).or(self.of_others.as_ref());
        let type_name = type_name(agent.agent_type());
        let Some(Rule(rule)) = rule else {
            return Err(format!(
                "nobody is named to own it: say --owner, or --owner-of {type_name}=…"
            ));
        };
        let values = [&agent.agent_id, &agent.cluster, &agent.namespace, &type_name];
        let mut owner = rule.clone();
        for (name, value) in PLACEHOLDERS.into_iter().zip(values) {
            if owner.contains(name) {
                is_segment(value).map_err(|wrong| format!("its {name} {wrong}"))?;
                owner = owner.replace(name, value);
            }
        }
        Ok(owner)
    }
}

/// What an agent says of itself must not lead to another's place in the tree of names.
fn is_segment(value: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match value {
        "" => Err("is empty, so its owner has no name"),
        "." | ".." => Err("cannot be a part of a SPIFFE ID"),
        _ if value.chars().all(allowed) => Ok(()),
        _ => Err("cannot be a part of a SPIFFE ID: it must be letters, digits and any of -._"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(namespace: &str) -> AgentInfo {
        AgentInfo {
            agent_id: "a1".to_owned(),
            agent_type: AgentType::Scout.into(),
            namespace: namespace.to_owned(),
            ..AgentInfo::default()
        }
    }

    fn owners(rule: &str) -> Owners {
        Owners { of_types: Vec::new(), of_others: Some(rule.parse().expect("a rule")) }
    }

    #[test]
    fn a_rule_names_the_owner_and_what_is_said_of_a_type_goes_first() {
        let rule = "spiffe://example.org/ns/{namespace}/sa/{type}/{agent_id}";
        let mut owners = owners(rule);
        let owner = owners.of(&agent("north"));
        assert_eq!(owner.as_deref(), Ok("spiffe://example.org/ns/north/sa/scout/a1"));
        owners.of_types.push("scout=spiffe://example.org/scouts".parse().expect("a rule"));
        assert_eq!(owners.of(&agent("north")).as_deref(), Ok("spiffe://example.org/scouts"));
        let guard = AgentInfo { agent_type: AgentType::Guard.into(), ..agent("north") };
        assert_eq!(owners.of(&guard).as_deref(), Ok("spiffe://example.org/ns/north/sa/guard/a1"));
        owners.of_others = None;
        assert!(owners.of(&guard).expect_err("nobody").contains("--owner-of guard="));
    }

    #[test]
    fn what_an_agent_says_of_itself_stays_one_part_of_the_name() {
        let owners = owners("spiffe://example.org/ns/{namespace}/sa/w");
        for namespace in ["", ".", "..", "a/b", "a%2fb", "{type}", "a b", "é"] {
            assert!(owners.of(&agent(namespace)).is_err(), "{namespace:?}");
        }
    }

    #[test]
    fn a_rule_that_makes_no_spiffe_id_is_refused_at_once() {
        for rule in
            ["", "worker", "spiffe://example.org/{name}", "spiffe://example.org/{type", "{type}"]
        {
            assert!(rule.parse::<Rule>().is_err(), "{rule:?}");
        }
        for rule in ["scout", "drone=spiffe://example.org/x", "=spiffe://example.org/x", "scout="] {
            assert!(rule.parse::<TypeRule>().is_err(), "{rule:?}");
        }
    }
}
