//! The libraries of other languages that our servers and clients are tested with, from sources in this repository and
//! pinned packages.

use crate::conformance::workspace;
use crate::tools::{self, Recipe, run};
use anyhow::Result;
use std::path::Path;

const SOURCES: &str = "crates/hive-dev/tests/interop";

/// Makes a Go program with go-spiffe, and a Python environment with py-spiffe and hvac.
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
    let recipe = Recipe::new(&tools::python_version()?, &[requirements.to_path_buf()])?;
    let interpreter = environment.join("bin/python");
    recipe.once(&[interpreter], &environment.join("stamp"), || {
        println!("installing py-spiffe and hvac into {}, once", environment.display());
        let mut install = tools::pip_into(environment)?;
        run(install.args(["--no-deps", "--requirement"]).arg(requirements))
    })
}
