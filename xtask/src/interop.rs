//! The SPIFFE libraries of other languages, which the interoperability tests talk to, from sources in this repository
//! and pinned packages.

use crate::conformance::workspace;
use crate::tools::{self, Recipe, run, said};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

const SOURCES: &str = "crates/hive-dev/tests/interop";

/// Makes a Go program with go-spiffe, and a Python environment with py-spiffe.
pub(crate) fn install() -> Result<()> {
    let (sources, tools) = (workspace()?.join(SOURCES), tools::directory()?);
    go_program(&sources.join("go"), &tools.join("bin/interop-go"))?;
    python(&sources.join("python/requirements.txt"), &tools.join("python"))
}

/// Builds a Go module into one program.
pub(crate) fn go_program(module: &Path, program: &Path) -> Result<()> {
    let recipe = Recipe::new(&tools::go_version()?, &tools::files(module)?)?;
    recipe.once(&[program.to_path_buf()], &program.with_extension("stamp"), || {
        println!("building {}, once", program.display());
        run(&mut tools::go_build(module, program, &["."]))
    })
}

fn python(requirements: &Path, environment: &Path) -> Result<()> {
    let version = said(Command::new("python3").arg("--version"))
        .context("Python is missing: install python3 (3.10 or newer) and python3-venv")?;
    let recipe = Recipe::new(&version, &[requirements.to_path_buf()])?;
    let interpreter = environment.join("bin/python");
    recipe.once(std::slice::from_ref(&interpreter), &environment.join("stamp"), || {
        println!("installing py-spiffe into {}, once", environment.display());
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))
            .context("no Python environment can be made: install python3-venv")?;
        let mut install = Command::new(&interpreter);
        install.args(["-m", "pip", "install", "--quiet", "--no-input"]);
        install.args(["--disable-pip-version-check", "--no-deps", "--requirement"]);
        run(install.arg(requirements))
    })
}
