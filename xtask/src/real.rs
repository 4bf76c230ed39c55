//! The real SPIRE that the conformance tests run: built from source, once, into the target directory.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const PACKAGES: [&str; 2] =
    ["github.com/spiffe/spire/cmd/spire-agent", "github.com/spiffe/spire/cmd/spire-server"];

pub(crate) fn build() -> Result<()> {
    let module = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real/spire");
    let tools = crate::check::target_directory()?.join("tools");
    let (programs, stamp) = (tools.join("bin"), tools.join("spire.stamp"));
    let wanted = recipe(&module)?;
    if is_built(&programs, &stamp, &wanted) {
        return Ok(());
    }
    find_go()?;
    println!(
        "building {} into {}, once; minutes where nothing is cached",
        version(&wanted)?,
        programs.display()
    );
    let began = Instant::now();
    fs::create_dir_all(&programs)
        .with_context(|| format!("{} cannot be made", programs.display()))?;
    compile(&module, &programs)?;
    fs::write(&stamp, wanted).with_context(|| format!("{} cannot be written", stamp.display()))?;
    println!("built in {:.0} s", began.elapsed().as_secs_f32());
    Ok(())
}

/// What the programs are made from: their versions, and the hashes of all that goes into them.
fn recipe(module: &Path) -> Result<String> {
    let read = |name: &str| {
        let path = module.join(name);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    Ok(read("go.mod")? + &read("go.sum")?)
}

fn version(recipe: &str) -> Result<&str> {
    let line = recipe.lines().find_map(|line| line.strip_prefix("require github.com/spiffe/"));
    line.context("xtask/real/spire/go.mod requires SPIRE")
}

fn is_built(programs: &Path, stamp: &Path, wanted: &str) -> bool {
    let there = |package: &&str| {
        package.rsplit('/').next().is_some_and(|name| programs.join(name).is_file())
    };
    PACKAGES.iter().all(there) && fs::read_to_string(stamp).is_ok_and(|built| built == wanted)
}

fn find_go() -> Result<()> {
    let run = |program: &str| {
        let status = Command::new(program)
            .arg(if program == "go" { "version" } else { "--version" })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !run("go") {
        bail!(
            "the conformance tests run a real SPIRE, which is built with Go: install Go 1.26 or later, \
             from https://go.dev/dl or your distribution, so that `go` is on the PATH"
        );
    }
    if !run("cc") && !run("gcc") {
        bail!("SPIRE's SQLite is built with a C compiler: install one, such as gcc");
    }
    Ok(())
}

fn compile(module: &Path, programs: &Path) -> Result<()> {
    // `go` takes a path that ends with a separator for a directory.
    let into = programs.join("");
    let status = Command::new("go")
        .current_dir(module)
        .env("CGO_ENABLED", "1")
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(into)
        .args(PACKAGES)
        .status()
        .context("go cannot be run")?;
    if !status.success() {
        bail!("`go build` in {} ended with {status}", module.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_module_requires() {
        let module = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real/spire");
        let recipe = recipe(&module).expect("it is part of the repository");
        assert_eq!(version(&recipe).expect("it is required"), "spire v1.15.3");
    }

    #[test]
    fn nothing_counts_as_built_under_another_recipe() {
        let directory = std::env::temp_dir().join(format!("xtask-real-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let stamp = directory.join("stamp");
        let built = |wanted| is_built(&directory, &stamp, wanted);
        fs::write(&stamp, "one").expect("a file");
        assert!(!built("one"), "the programs are missing");
        for name in ["spire-agent", "spire-server"] {
            fs::write(directory.join(name), "").expect("a file");
        }
        assert!(built("one") && !built("two"));
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
