//! VALIDATE: a Rego policy, evaluated here. `data.hive.deny` is a set of messages, and must be empty.

use super::{Done, Executor, Failure, Pending, Tools, Verdict, Work, blocking, parameters};
use crate::artifacts::Digest;
use hive_plan::TicketKind;
use regorus::Value;
use regorus::utils::limits::ExecutionTimerConfig;
use serde::Deserialize;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The largest policy file.
const MAX_POLICY_BYTES: u64 = 1 << 20;
/// How many steps of an evaluation lie between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::new(256).expect("256 is not 0");
/// The rule that decides.
const DENY: &str = "data.hive.deny";

/// Evaluates policies.
pub(super) struct Validate(pub(super) Tools);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// The policy file.
    policy: String,
    /// The artifact that is judged, if one is.
    artifact: Option<String>,
    /// Whatever else the policy wants to know.
    #[serde(default)]
    input: Map<String, serde_json::Value>,
}

impl Executor for Validate {
    fn kind(&self) -> TicketKind {
        TicketKind::Validate
    }

    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(self.validate(work))
    }
}

impl Validate {
    async fn validate(&self, work: &Work) -> Verdict {
        let wanted: Parameters = parameters(work)?;
        let path = work.workspace.resolve(&wanted.policy).map_err(Failure::refused)?;
        let artifact = self.artifact(wanted.artifact).await?;
        let input = json!({ "artifact": artifact, "plan": work.plan_name, "input": wanted.input });
        let limit = work.deadline.saturating_duration_since(Instant::now());
        let denied = blocking(move || denied(&path, input, limit)).await?;
        if denied.is_empty() {
            return Ok(Done::default());
        }
        Err(Failure::Final(denied.into_iter().collect::<Vec<_>>().join("; ")))
    }

    /// What the policy learns of the artifact, after reading all of it.
    async fn artifact(&self, digest: Option<String>) -> Result<serde_json::Value, Failure> {
        let Some(digest) = digest else { return Ok(serde_json::Value::Null) };
        let digest: Digest = digest.parse().map_err(Failure::refused)?;
        let artifacts = self.0.artifacts.clone();
        blocking(move || {
            let stored = artifacts.verify(&digest).map_err(|error| Failure::because(&error))?;
            let file = artifacts.name(&digest);
            Ok(json!({ "digest": digest.to_string(), "file": file, "size_bytes": stored.size_bytes }))
        })
        .await
    }
}

fn denied(
    path: &Path,
    input: serde_json::Value,
    limit: Duration,
) -> Result<BTreeSet<String>, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::refused(format!("the policy {} {what}", path.display()))
    };
    let policy = read(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let mut engine = regorus::Engine::new();
    engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: STEPS });
    engine
        .add_policy(path.display().to_string(), policy)
        .map_err(|error| wrong(&format!("does not parse: {error}")))?;
    engine.set_input(Value::from(input));
    let verdict = engine
        .eval_rule(DENY.to_owned())
        .map_err(|error| wrong(&format!("could not be evaluated: {error}")))?;
    match verdict {
        Value::Set(messages) => Ok(messages.iter().map(message).collect()),
        // Neither absent nor of another shape may pass for "nothing is denied".
        _ => Err(wrong(&format!("has no {DENY} that is a set"))),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path.metadata()?.len() > MAX_POLICY_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_POLICY_BYTES} bytes")));
    }
    std::fs::read_to_string(path)
}

fn message(value: &Value) -> String {
    value.as_string().map_or_else(|_| value.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(policy: &str, input: serde_json::Value) -> Result<BTreeSet<String>, Failure> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), policy).expect("written");
        denied(file.path(), input, Duration::from_secs(5))
    }

    #[test]
    fn each_message_of_the_policy_is_a_reason() {
        let policy = "package hive\ndeny contains \"too large\" if input.size > 3\ndeny contains \"late\" if input.late";
        assert_eq!(judge(policy, json!({ "size": 3 })), Ok(BTreeSet::new()));
        let both = judge(policy, json!({ "size": 4, "late": true })).expect("it is a policy");
        assert_eq!(both.into_iter().collect::<Vec<_>>(), ["late", "too large"]);
    }

    #[test]
    fn a_policy_that_decides_nothing_fails_instead_of_passing() {
        for policy in [
            "package hive\nallow := true",
            "package other\ndeny contains \"x\"",
            "package hive\ndeny := false",
        ] {
            let refused = judge(policy, json!({})).expect_err("nothing was decided");
            assert!(
                matches!(&refused, Failure::Final(reason) if reason.contains("the policy")),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_policy_that_does_not_parse_says_where() {
        let refused =
            judge("package hive\ndeny contains", json!({})).expect_err("it does not parse");
        assert!(
            matches!(&refused, Failure::Final(reason) if reason.contains("does not parse")),
            "{refused:?}"
        );
    }

    #[test]
    fn a_policy_that_never_ends_is_stopped() {
        let policy = "package hive\nxs := numbers.range(1, 3000)\ndeny contains \"x\" if {\n\tsome a in xs\n\tsome b in xs\n\tsome c in xs\n\ta * b * c == 0\n}";
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), policy).expect("written");
        let refused =
            denied(file.path(), json!({}), Duration::from_millis(50)).expect_err("it never ends");
        assert!(
            matches!(&refused, Failure::Final(reason) if reason.contains("evaluated")),
            "{refused:?}"
        );
    }
}
