//! The one gate. Cheap checks first; the first failure ends it.

use crate::{arrows, conformance, deny, fuzz, interop, real};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 10] = [
    ("format", format),
    ("arrows", arrows::check),
    ("clippy", clippy),
    ("interop", interop::install),
    ("real servers", real::install),
    ("tests", tests),
    ("conformance", conformance::run),
    ("docs", docs),
    ("deny", deny::check),
    ("fuzz", fuzz::check),
];

pub(crate) fn run() -> Result<()> {
    for (name, step) in STEPS {
        println!("── {name}");
        let began = Instant::now();
        step().with_context(|| format!("the step {name:?} failed"))?;
        println!("── {name}: passed in {:.0} s", began.elapsed().as_secs_f32());
    }
    println!("── every check passed");
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])
}

/// What is off by default is checked and tested all the same.
pub(crate) const FEATURES: [&str; 2] = ["--features", "hive/etcd,hive/kafka,hive-registry/bench"];

fn clippy() -> Result<()> {
    let [flag, features] = FEATURES;
    let all = ["clippy", "--workspace", "--all-targets", flag, features];
    cargo(&[&all[..], &["--locked", "--", "-D", "warnings"]].concat(), &[])
}

/// The end-to-end tests drive the built binary, so the binary is built with them.
fn tests() -> Result<()> {
    let [flag, features] = FEATURES;
    cargo(&["test", "--workspace", flag, features, "--locked"], &[])
}

fn docs() -> Result<()> {
    let flags = [("RUSTDOCFLAGS", "-D warnings")];
    cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"], &flags)
}

/// Runs cargo in the workspace, and fails if it does.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .context("cargo cannot be run")?;
    if !status.success() {
        bail!("`cargo {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Where cargo puts what it builds for this workspace.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.map_or_else(|| Ok(conformance::workspace()?.join("target")), Ok)
}
