//! What the tests need and this machine may not have: made in the target directory, and made again only when what it is
//! made of has changed.

use crate::check::target_directory;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where what is made for this workspace is kept.
pub(crate) fn directory() -> Result<PathBuf> {
    let tools = target_directory()?.join("tools");
    std::fs::create_dir_all(tools.join("bin")).with_context(|| tools.display().to_string())?;
    Ok(tools)
}

/// Everything that an outcome depends on: the version of what makes it, and the files that go in.
#[derive(PartialEq)]
pub(crate) struct Recipe(String);

impl Recipe {
    pub(crate) fn new(version: &str, inputs: &[PathBuf]) -> Result<Self> {
        let mut recipe = version.to_owned();
        for input in inputs {
            let text =
                std::fs::read_to_string(input).with_context(|| input.display().to_string())?;
            recipe.push_str(&format!("── {}\n{text}", input.display()));
        }
        Ok(Self(recipe))
    }

    /// Runs `make` unless all of `products` are there and `stamp` says that they were made by this recipe.
    pub(crate) fn once(
        &self,
        products: &[PathBuf],
        stamp: &Path,
        make: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let is_same = std::fs::read_to_string(stamp).is_ok_and(|made_by| made_by == self.0);
        if is_same && products.iter().all(|product| product.exists()) {
            return Ok(());
        }
        make()?;
        std::fs::write(stamp, &self.0).with_context(|| stamp.display().to_string())
    }
}

/// The version of Go, or what to do about it.
pub(crate) fn go_version() -> Result<String> {
    said(Command::new("go").arg("version")).context(
        "Go is missing: install Go 1.26 or newer, from https://go.dev/dl or your distribution",
    )
}

/// `go build` of `packages` of a module, to be run.
pub(crate) fn go_build(module: &Path, into: &Path, packages: &[&str]) -> Command {
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"]);
    // A workspace above this one is not ours.
    build.arg(into).args(packages).current_dir(module).env("GOWORK", "off");
    build
}

/// The version of Python, or what to do about it.
pub(crate) fn python_version() -> Result<String> {
    said(Command::new("python3").arg("--version"))
        .context("Python is missing: install python3 (3.10 or newer) and python3-venv")
}

/// Makes a Python environment; what remains to be said is what to install.
pub(crate) fn pip_into(environment: &Path) -> Result<Command> {
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))
        .context("no Python environment can be made: install python3-venv")?;
    let mut install = Command::new(environment.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    Ok(install)
}

/// Where a program is on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|place| place.join(program)).find(|place| place.is_file())
}

/// The files of a directory, not those below.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// What a command prints, if it succeeds.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
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
        let product = directory.join("product");
        let made = |version| -> Result<bool> {
            let mut made = false;
            Recipe::new(version, std::slice::from_ref(&source))?.once(
                std::slice::from_ref(&product),
                &stamp,
                || {
                    made = true;
                    Ok(std::fs::write(&product, "")?)
                },
            )?;
            Ok(made)
        };
        std::fs::write(&source, "one")?;
        assert!(made("v1")?, "never made");
        assert!(!made("v1")?);
        assert!(made("v2")? && made("v1")?);
        std::fs::write(&source, "two")?;
        assert!(made("v1")?);
        std::fs::remove_file(&product)?;
        assert!(made("v1")?, "the product is missing");
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    }

    #[test]
    fn what_could_not_be_made_is_tried_again() -> Result<()> {
        let stamp = std::env::temp_dir().join(format!("hive-stamp-{}", std::process::id()));
        let recipe = Recipe::new("v1", &[])?;
        assert!(recipe.once(&[], &stamp, || bail!("no")).is_err());
        assert!(!stamp.exists());
        Ok(())
    }
}
