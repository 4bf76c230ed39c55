//! cargo-deny: licences, bans and sources always; advisories where their database can be had.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The version that deny.toml was written for.
const VERSION: &str = "0.20.2";

pub(crate) fn check() -> Result<()> {
    let program = find_or_install()?;
    run(&program, &["check", "bans", "licenses", "sources"])?;
    if fetch_advisories(&program) {
        run(&program, &["check", "advisories"])
    } else {
        println!("skipped: advisories, because their database cannot be fetched from here");
        Ok(())
    }
}

fn run(program: &PathBuf, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(["--locked", "--workspace"])
        .args(arguments)
        .status()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    if !status.success() {
        bail!("`cargo-deny {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

fn fetch_advisories(program: &PathBuf) -> bool {
    let quiet = Command::new(program)
        .args(["--locked", "fetch", "db"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}

/// The cargo-deny of this machine if it is of the right version, else one in the target directory.
fn find_or_install() -> Result<PathBuf> {
    let ours = crate::tools::directory()?;
    let installed = ours.join("bin/cargo-deny");
    if let Some(found) = [PathBuf::from("cargo-deny"), installed.clone()].into_iter().find(is_right)
    {
        return Ok(found);
    }
    println!("installing cargo-deny {VERSION}, once, into {}", ours.display());
    let root = ours.to_str().context("the target directory's path is not UTF-8")?;
    crate::check::cargo(
        &["install", "cargo-deny", "--version", VERSION, "--locked", "--root", root, "--quiet"],
        &[],
    )?;
    Ok(installed)
}

fn is_right(program: &PathBuf) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
}
