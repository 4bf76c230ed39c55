//! Tickets: their names, their kinds, and what came of them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hive_yaml::excerpt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest name of a ticket or a plan: that of a DNS label, so that a name can become one.
const NAME_MAX: usize = 63;

/// The longest ID of a plan.
const PLAN_ID_MAX: usize = 128;

/// What the ID of a ticket ends with when it undoes. No name may hold a `~`.
const UNDO_SUFFIX: &str = "~undo";

/// The ID of a plan that was submitted: lower-case letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanId(String);

impl PlanId {
    /// Reads an ID of at most 128 lower-case letters, digits and hyphens.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        check_name("plan ID", text, PLAN_ID_MAX)?;
        Ok(Self(text.to_owned()))
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a ticket, unique in its plan: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketName(String);

impl TicketName {
    /// Reads a name of at most 63 lower-case letters, digits and hyphens.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        check_name("name", text, NAME_MAX)?;
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TicketName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(&text)
            }
        }
    };
}

text_newtype!(PlanId);
text_newtype!(TicketName);

/// One direction of one ticket of one plan, written `<plan id>/<name>` or `<plan id>/<name>~undo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId {
    /// The plan that it belongs to.
    pub plan: PlanId,
    /// Its name there.
    pub ticket: TicketName,
    /// Whether it does the work or undoes it.
    pub direction: Direction,
}

impl TicketId {
    /// The ID of this direction of this ticket.
    pub fn new(plan: PlanId, ticket: TicketName, direction: Direction) -> Self {
        Self { plan, ticket, direction }
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let Some((plan, rest)) = text.split_once('/') else {
            return Err(InvalidName::new("ticket ID", text, "write <plan id>/<name>"));
        };
        let (ticket, direction) = match rest.strip_suffix(UNDO_SUFFIX) {
            Some(ticket) => (ticket, Direction::Undo),
            None => (rest, Direction::Forward),
        };
        Ok(Self::new(PlanId::parse(plan)?, TicketName::parse(ticket)?, direction))
    }

    /// The plan, the ticket and the direction.
    pub fn into_parts(self) -> (PlanId, TicketName, Direction) {
        (self.plan, self.ticket, self.direction)
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.direction == Direction::Undo { UNDO_SUFFIX } else { "" };
        write!(f, "{}/{}{suffix}", self.plan, self.ticket)
    }
}

impl FromStr for TicketId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}

/// Whether a ticket does its work or undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Does the work.
    Forward,
    /// Undoes work that was done.
    Undo,
}

/// What a ticket does, and so which executor can run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TicketKind {
    /// Makes an artifact from a source directory.
    Build,
    /// Undoes another ticket's work. The orchestrator makes these; a plan cannot ask for one.
    Compensate,
    /// Puts an artifact where it runs.
    Deploy,
    /// Runs a command.
    Execute,
    /// Asks a data store.
    Query,
    /// Runs a test suite.
    Test,
    /// Turns data into other data.
    Transform,
    /// Holds an artifact against a policy.
    Validate,
}

impl TicketKind {
    /// Every kind, in alphabetical order.
    pub const ALL: [Self; 8] = [
        Self::Build,
        Self::Compensate,
        Self::Deploy,
        Self::Execute,
        Self::Query,
        Self::Test,
        Self::Transform,
        Self::Validate,
    ];

    /// The kind as a plan file writes it, such as `BUILD`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Build => "BUILD",
            Self::Compensate => "COMPENSATE",
            Self::Deploy => "DEPLOY",
            Self::Execute => "EXECUTE",
            Self::Query => "QUERY",
            Self::Test => "TEST",
            Self::Transform => "TRANSFORM",
            Self::Validate => "VALIDATE",
        }
    }
}

impl fmt::Display for TicketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TicketKind {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| InvalidName::new("kind", text, "write one such as BUILD or DEPLOY"))
    }
}

/// A credential that a ticket wants to find under `$HIVE_CREDENTIALS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CredentialRequest {
    /// The name of its file.
    pub name: String,
    /// The path in the Vault API below `/v1/`, such as `secret/data/release`.
    pub path: String,
    /// Whether the ticket can do without, should nothing be mounted there.
    pub optional: bool,
}

/// One ticket as its plan describes it. Only a [`Plan`](crate::Plan) that was read makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TicketSpec {
    /// Its name, unique in the plan.
    pub name: TicketName,
    /// What it does.
    pub kind: TicketKind,
    /// The tickets that must be done before it is queued.
    pub needs: Vec<TicketName>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often it is tried before it has failed.
    pub attempts: u32,
    /// The pause after the first failed attempt; each further one is twice as long.
    pub backoff: Duration,
    /// The kind's parameters, references not yet resolved.
    pub parameters: Map<String, Value>,
    /// The credentials that its worker borrows for it.
    pub credentials: Vec<CredentialRequest>,
}

impl TicketSpec {
    /// Whether there is something to undo once this ticket is done.
    pub fn can_be_undone(&self) -> bool {
        match self.kind {
            TicketKind::Deploy => true,
            TicketKind::Execute => self.parameters.contains_key("undo"),
            _ => false,
        }
    }
}

/// What a worker says came of one claim.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Outcome {
    /// How it ended.
    pub status: OutcomeStatus,
    /// Small facts for the tickets that need this one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// One sentence: why it failed, or what was noticed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How one claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// The work is done.
    Done,
    /// It failed, and trying again cannot help.
    Failed,
    /// It failed, and trying again may help.
    FailedRetryable,
    /// It was stopped because it was withdrawn.
    Withdrawn,
}

/// A name, ID or kind that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {advice}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    advice: String,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, advice: impl Into<String>) -> Self {
        Self { what, text: excerpt(text), advice: advice.into() }
    }
}

fn check_name(what: &'static str, text: &str, max: usize) -> Result<(), InvalidName> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if text.is_empty() || text.starts_with('-') || !text.bytes().all(allowed) {
        let advice = "use lower-case letters, digits and hyphens, and start with a letter or digit";
        return Err(InvalidName::new(what, text, advice));
    }
    if text.len() > max {
        return Err(InvalidName::new(what, text, format!("use at most {max} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_ticket_reads_back_what_it_writes() {
        for (text, ticket, direction) in [
            ("release-1/build", "build", Direction::Forward),
            ("release-1/build~undo", "build", Direction::Undo),
        ] {
            let id = TicketId::parse(text).expect("a good ID");
            assert_eq!(id.to_string(), text);
            let (plan, name, parsed_direction) = id.into_parts();
            assert_eq!((plan.as_str(), name.as_str()), ("release-1", ticket));
            assert_eq!(parsed_direction, direction);
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in
            ["", "a", "a/", "/a", "a/b/c", "A/b", "a/b~", "a/b~undo~undo", "a/~undo", "a/b "]
        {
            assert!(TicketId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "a-b", "a-", &longest] {
            assert!(TicketName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "ä", "a.b", &format!("{longest}a")] {
            assert!(TicketName::parse(bad).is_err(), "{bad}");
        }
        let error = TicketName::parse("\u{1b}[2J").expect_err("an escape").to_string();
        assert!(error.starts_with("`\\u{1b}[2J` is not a name: "), "{error}");
    }

    #[test]
    fn a_name_from_json_is_checked_too() {
        assert!(serde_json::from_str::<TicketName>("\"a\"").is_ok());
        assert!(serde_json::from_str::<TicketName>("\"A\"").is_err());
    }

    #[test]
    fn kinds_read_back_what_they_write() {
        for kind in TicketKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.to_string());
        }
        assert!("build".parse::<TicketKind>().is_err());
    }
}
