//! BUILD: a command in a copy of the source; what it made goes into the artifact store.

use super::{
    Done, Executor, Failure, Pending, Tools, Verdict, Work, blocking, copy_source, fact,
    parameters, run_command,
};
use crate::artifacts::Stored;
use crate::workspace::stays_below;
use hive_plan::TicketKind;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Builds artifacts.
pub(super) struct Build(pub(super) Tools);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// The directory of the source.
    source: String,
    /// Runs in a copy of the source.
    command: Vec<String>,
    /// What the command makes, below the source.
    artifact: PathBuf,
}

impl Executor for Build {
    fn kind(&self) -> TicketKind {
        TicketKind::Build
    }

    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(self.build(work))
    }
}

impl Build {
    async fn build(&self, work: &Work) -> Verdict {
        let wanted: Parameters = parameters(work)?;
        let file = file_name(&wanted.artifact)?;
        let source = copy_source(work, &wanted.source).await?;
        run_command(&self.0.sandbox, work, &wanted.command, &source, &[]).await?;
        let stored = self.store(source, wanted.artifact, file.clone()).await?;
        let outputs = [
            fact("artifact", &stored.digest),
            fact("file", file),
            fact("size_bytes", stored.size_bytes),
        ];
        Ok(Done { outputs: outputs.into(), message: String::new() })
    }

    async fn store(
        &self,
        source: PathBuf,
        artifact: PathBuf,
        name: String,
    ) -> Result<Stored, Failure> {
        let artifacts = self.0.artifacts.clone();
        blocking(move || {
            let mut made = crate::tree::open_beneath(&source, &artifact).map_err(|error| {
                Failure::retryable(format!(
                    "the command left no artifact {}: {error}",
                    artifact.display()
                ))
            })?;
            artifacts.store(&name, &mut made).map_err(|error| Failure::because(&error))
        })
        .await
    }
}

fn file_name(artifact: &Path) -> Result<String, Failure> {
    let name =
        artifact.file_name().and_then(|name| name.to_str()).filter(|_| stays_below(artifact));
    name.map(str::to_owned).ok_or_else(|| {
        Failure::refused(format!(
            "the artifact {} is not a file below the source",
            artifact.display()
        ))
    })
}
