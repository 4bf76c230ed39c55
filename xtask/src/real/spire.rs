//! The real SPIRE that the conformance tests run: built from source, once.

use crate::tools::{self, Recipe, run, said};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const PACKAGES: [&str; 2] =
    ["github.com/spiffe/spire/cmd/spire-agent", "github.com/spiffe/spire/cmd/spire-server"];

pub(super) fn build() -> Result<()> {
    let (module, tools) = (module(), tools::directory()?);
    let programs = tools.join("bin");
    let names = PACKAGES.iter().filter_map(|package| package.rsplit('/').next());
    let products: Vec<PathBuf> = names.map(|name| programs.join(name)).collect();
    // Its files hold the versions, and the hashes of all that goes in.
    let recipe = Recipe::new(&tools::go_version()?, &tools::files(&module)?)?;
    recipe.once(&products, &tools.join("spire.stamp"), || {
        find_c_compiler()?;
        println!(
            "building {} into {}, once; minutes where nothing is cached",
            version(&module)?,
            programs.display()
        );
        let began = Instant::now();
        // `go` takes a path that ends with a separator for a directory.
        run(tools::go_build(&module, &programs.join(""), &PACKAGES).env("CGO_ENABLED", "1"))?;
        println!("built in {:.0} s", began.elapsed().as_secs_f32());
        Ok(())
    })
}

fn module() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real/spire")
}

fn version(module: &Path) -> Result<String> {
    let path = module.join("go.mod");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("require github.com/spiffe/"));
    Ok(line.with_context(|| format!("{} requires SPIRE", path.display()))?.to_owned())
}

fn find_c_compiler() -> Result<()> {
    said(Command::new("cc").arg("--version"))
        .or_else(|_| said(Command::new("gcc").arg("--version")))
        .context("SPIRE's SQLite is built with a C compiler: install one, such as gcc")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_module_requires() {
        assert_eq!(version(&module()).expect("it is required"), "spire v1.15.3");
    }
}
