//! EXECUTE: a command, and what it must say. With `undo`, another command that takes it back.

use super::{Done, Executor, Failure, Pending, Tools, Verdict, Work, parameters, run_command};
use crate::sandbox::{Captured, printable};
use hive_plan::TicketKind;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Runs commands.
pub(super) struct Execute(pub(super) Tools);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// A program with `/` in its name is a path of the plan; without, it is looked up on the search path.
    command: Vec<String>,
    /// Text that standard output must contain.
    expect: Option<String>,
    /// The command that takes it back.
    undo: Option<Vec<String>>,
}

impl Executor for Execute {
    fn kind(&self) -> TicketKind {
        TicketKind::Execute
    }

    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(async {
            let wanted: Parameters = parameters(work)?;
            let output = self.run(work, &wanted.command).await?;
            meets(&output, wanted.expect.as_deref())
        })
    }

    fn undo_borrows(&self) -> bool {
        true
    }

    fn undo<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(async {
            let wanted: Parameters = parameters(work)?;
            let undo = wanted.undo.ok_or_else(|| Failure::refused("the ticket has no undo"))?;
            let output = self.run(work, &undo).await?;
            Ok(Done { message: output.last_line().unwrap_or_default(), ..Done::default() })
        })
    }
}

impl Execute {
    async fn run(&self, work: &Work, command: &[String]) -> Result<Captured, Failure> {
        let (command, program) = located(work, command)?;
        // It may read the plan's directory, and its own program wherever that is.
        let readable: Vec<PathBuf> =
            [Some(work.workspace.root().to_owned()), program].into_iter().flatten().collect();
        Ok(run_command(&self.0.sandbox, work, &command, &work.home, &readable).await?)
    }
}

fn located(work: &Work, command: &[String]) -> Result<(Vec<String>, Option<PathBuf>), Failure> {
    let Some((program, arguments)) =
        command.split_first().filter(|(program, _)| program.contains('/'))
    else {
        return Ok((command.to_vec(), None));
    };
    let path = work.workspace.resolve(program).map_err(Failure::refused)?;
    let program = text(&path)?;
    Ok(([&[program], arguments].concat(), Some(path)))
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::refused(format!("{} is not UTF-8", path.display())))
}

fn meets(output: &Captured, expect: Option<&str>) -> Verdict {
    match expect {
        Some(expected) if !output.stdout.contains(expected) => {
            let printed = crate::sandbox::last_line(&output.stdout).unwrap_or_default();
            Err(Failure::Retryable(format!(
                "printed {printed:?}, expected {:?}",
                printable(expected)
            )))
        }
        _ => Ok(Done {
            message: crate::sandbox::last_line(&output.stdout).unwrap_or_default(),
            ..Done::default()
        }),
    }
}
