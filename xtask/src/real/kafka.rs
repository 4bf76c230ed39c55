//! Kafka: its archives, from Maven.

use crate::tools::{self, Recipe, run, said};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

pub(super) fn install() -> Result<()> {
    let pom = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real/kafka/pom.xml");
    let libraries = tools::directory()?.join("kafka/libs");
    said(Command::new("java").arg("-version"))
        .context("Java is missing: install a Java runtime, 17 or newer")?;
    let recipe = Recipe::new("1", std::slice::from_ref(&pom))?;
    recipe.once(std::slice::from_ref(&libraries), &libraries.with_extension("stamp"), || {
        println!("copying Kafka into {}, once", libraries.display());
        let mut copy = Command::new("mvn");
        copy.args(["-q", "-B", "dependency:copy-dependencies", "-f"]).arg(&pom);
        copy.arg(format!("-DoutputDirectory={}", libraries.display()));
        run(&mut copy)
            .context("install Maven (Debian: maven), and see that it reaches a repository")
    })
}
