//! The SPIFFE libraries of other languages, which the interoperability tests talk to.
//!
//! Both are made in the target directory from sources in this repository and pinned packages, and made again only when
//! what they are made of has changed.

use crate::conformance::workspace;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = "crates/hive-dev/tests/interop";

/// Makes a Go program with go-spiffe, and a Python environment with py-spiffe.
pub(crate) fn install() -> Result<()> {
    let (sources, tools) = (workspace()?.join(SOURCES), tools()?);
    go_program(&sources.join("go"), &tools.join("bin/interop-go"))?;
    python(&sources.join("python/requirements.txt"), &tools.join("python"))
}

/// Builds a Go module into one program.
pub(crate) fn go_program(module: &Path, program: &Path) -> Result<()> {
    let version = said(Command::new("go").arg("version"))
        .context("Go is missing: install Go 1.25 or newer (https://go.dev/dl/)")?;
    let recipe = recipe(&version, &files(module)?)?;
    let stamp = program.with_extension("stamp");
    if program.exists() && is_made_of(&stamp, &recipe) {
        return Ok(());
    }
    println!("building {}, once", program.display());
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]).arg(program);
    // A workspace above this one is not ours.
    run(build.arg(".").current_dir(module).env("GOWORK", "off"))?;
    std::fs::write(&stamp, recipe).with_context(|| stamp.display().to_string())
}

fn python(requirements: &Path, environment: &Path) -> Result<()> {
    let version = said(Command::new("python3").arg("--version"))
        .context("Python is missing: install python3 (3.10 or newer) and python3-venv")?;
    let recipe = recipe(&version, &[requirements.to_path_buf()])?;
    let stamp = environment.join("stamp");
    if is_made_of(&stamp, &recipe) {
        return Ok(());
    }
    println!("installing py-spiffe into {}, once", environment.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))
        .context("no Python environment can be made: install python3-venv")?;
    let mut install = Command::new(environment.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    run(install.arg("--no-deps").arg("--requirement").arg(requirements))?;
    std::fs::write(&stamp, recipe).with_context(|| stamp.display().to_string())
}

/// Where what is installed for this workspace is kept.
pub(crate) fn tools() -> Result<PathBuf> {
    let tools = crate::check::target_directory()?.join("tools");
    std::fs::create_dir_all(tools.join("bin")).with_context(|| tools.display().to_string())?;
    Ok(tools)
}

/// Everything that the outcome depends on.
fn recipe(version: &str, inputs: &[PathBuf]) -> Result<String> {
    let mut recipe = version.to_owned();
    for input in inputs {
        let text = std::fs::read_to_string(input).with_context(|| input.display().to_string())?;
        recipe.push_str(&format!("── {}\n{text}", input.display()));
    }
    Ok(recipe)
}

fn is_made_of(stamp: &Path, recipe: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|made_of| made_of == recipe)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be run"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_of_something_else_is_made_again() -> Result<()> {
        let directory = std::env::temp_dir().join(format!("hive-recipe-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let (source, stamp) = (directory.join("source"), directory.join("stamp"));
        std::fs::write(&source, "one")?;
        let before = recipe("v1", std::slice::from_ref(&source))?;
        assert!(!is_made_of(&stamp, &before), "never made");
        std::fs::write(&stamp, &before)?;
        assert!(is_made_of(&stamp, &recipe("v1", std::slice::from_ref(&source))?));
        assert!(!is_made_of(&stamp, &recipe("v2", std::slice::from_ref(&source))?));
        std::fs::write(&source, "two")?;
        assert!(!is_made_of(&stamp, &recipe("v1", std::slice::from_ref(&source))?));
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    }
}
