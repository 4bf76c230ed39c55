//! TEST: a command in a copy of the source, which says by its status whether all is well.

use super::{
    Done, Executor, Failed, Failure, Pending, Tools, Verdict, Work, copy_source, fact, parameters,
    run_command,
};
use crate::sandbox::Captured;
use hive_plan::TicketKind;
use serde::Deserialize;

/// Runs tests.
pub(super) struct Test(pub(super) Tools);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// The directory of the source.
    source: String,
    /// Runs in a copy of the source.
    command: Vec<String>,
}

impl Executor for Test {
    fn kind(&self) -> TicketKind {
        TicketKind::Test
    }

    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(self.test(work))
    }
}

impl Test {
    async fn test(&self, work: &Work) -> Verdict {
        let wanted: Parameters = parameters(work)?;
        let source = copy_source(work, &wanted.source).await?;
        match run_command(&self.0.sandbox, work, &wanted.command, &source, &[]).await {
            Ok(output) => {
                let summary = summary(&output).unwrap_or_default();
                Ok(Done { outputs: [fact("summary", &summary)].into(), message: summary })
            }
            Err(Failed::Status(sentence, output)) => {
                Err(Failure::Retryable(match summary(&output) {
                    Some(summary) => format!("{sentence}: {summary}"),
                    None => sentence,
                }))
            }
            Err(Failed::Other(failure)) => Err(failure),
        }
    }
}

/// How the tests went: the results that a Rust test harness prints, added up, or else the last line.
fn summary(output: &Captured) -> Option<String> {
    let results =
        output.stdout.lines().filter_map(|line| line.trim().strip_prefix("test result: "));
    let counts: Vec<_> = results.filter_map(passed_and_failed).collect();
    if counts.is_empty() {
        return output.last_line();
    }
    let (passed, failed) =
        counts.iter().fold((0, 0), |(passed, failed), count| (passed + count.0, failed + count.1));
    Some(format!("{passed} passed, {failed} failed"))
}

/// Reads `ok. 3 passed; 0 failed; …`.
fn passed_and_failed(result: &str) -> Option<(u64, u64)> {
    let (_, counts) = result.split_once(". ")?;
    let mut numbers = counts.split("; ").filter_map(|count| count.split(' ').next()?.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(stdout: &str) -> Captured {
        Captured { stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn the_results_of_several_test_programs_are_added_up() {
        let output = printed(
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(summary(&output).as_deref(), Some("5 passed, 1 failed"));
    }

    #[test]
    fn the_last_line_speaks_for_other_harnesses() {
        assert_eq!(
            summary(&printed("collected 3 items\n3 passed in 0.1s\n\n")).as_deref(),
            Some("3 passed in 0.1s")
        );
        assert_eq!(summary(&printed("")), None);
    }
}
