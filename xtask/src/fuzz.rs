//! Bad input: runs the fuzz targets in `fuzz/`, on the same toolchain as everything else.
//!
//! libFuzzer comes with its crate; the coverage that guides it is a pass of the stable compiler's LLVM. What a run
//! finds worth keeping goes to the target directory, so the tree stays as it is.

mod run;

use crate::check::{cargo, target_directory};
use crate::conformance::workspace;
use anyhow::{Context, Result};
use run::{Report, Run};
use std::path::PathBuf;
use std::process::Command;

const TARGETS: [&str; 6] = ["token", "svid", "jwks", "bundle", "policy", "spiffe_id"];

/// Six targets, two at a time: a minute and a half.
const SECONDS_DEFAULT: u64 = 30;

/// So many targets run at once: what the smallest machine has cores for.
const AT_ONCE: usize = 2;

/// Edges, compared values, and no more: whatever else is instrumented slows every input down. Only what is built for
/// the target platform gets these, which is why it is named: build scripts run without libFuzzer.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";

/// What to do, from the command line: `[TARGET] [--seconds N]`.
pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<()> {
    let (mut target, mut seconds) = (None, SECONDS_DEFAULT);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let number = arguments.next().context("--seconds takes a number")?;
            seconds = number.parse().with_context(|| format!("--seconds {number}"))?;
        } else {
            let known = TARGETS.into_iter().find(|known| *known == argument);
            target = Some(known.with_context(|| {
                format!("there is no target {argument:?}; known: {}", TARGETS.join(", "))
            })?);
        }
    }
    match target {
        Some(target) => fuzz(&[target], seconds),
        None => fuzz(&TARGETS, seconds),
    }
}

/// Every target for the usual time, and the crate itself.
pub(crate) fn check() -> Result<()> {
    let manifest = manifest()?;
    cargo(&["fmt", "--all", "--check", "--manifest-path", &manifest], &[])?;
    instrumented(&["clippy"], &["--all-targets", "--", "-D", "warnings"])?;
    fuzz(&TARGETS, SECONDS_DEFAULT)
}

/// The platform is this machine's. One profile for all, so that nothing is built twice.
fn place() -> Result<Vec<String>> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc cannot be run")?;
    let version = String::from_utf8(output.stdout).context("rustc -vV prints text")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names the host")?;
    Ok(["--release", "--locked", "--target", host].map(str::to_owned).into())
}

/// Runs cargo on the crate of the targets, instrumented.
fn instrumented(command: &[&str], after: &[&str]) -> Result<()> {
    let manifest = manifest()?;
    let place = place()?;
    let mut arguments = command.to_vec();
    arguments.extend(["--manifest-path", &manifest]);
    arguments.extend(place.iter().map(String::as_str));
    arguments.extend(after);
    let target = built_into()?;
    let target = target.to_str().context("the target directory's path is not UTF-8")?;
    cargo(&arguments, &[("RUSTFLAGS", RUSTFLAGS), ("CARGO_TARGET_DIR", target)])
}

fn fuzz(targets: &[&'static str], seconds: u64) -> Result<()> {
    let names: Vec<&str> = targets.iter().flat_map(|target| ["--bin", target]).collect();
    instrumented(&["build", "--quiet"], &names)?;
    let place = place()?;
    let binaries = built_into()?.join(&place[place.len() - 1]).join("release");
    println!("{}", Report::HEADING);
    for several in targets.chunks(AT_ONCE) {
        let started = several.iter().map(|target| {
            let sources = workspace()?.join("fuzz");
            Run::start(
                target,
                &binaries.join(target),
                &sources,
                &built_into()?.join("runs").join(target),
                seconds,
            )
        });
        // All are waited for, also when one cannot be started: none may be left behind.
        let finished: Vec<Result<Report>> =
            started.collect::<Vec<_>>().into_iter().map(|run| run?.finish()).collect();
        for report in finished {
            println!("{}", report?);
        }
    }
    Ok(())
}

fn manifest() -> Result<String> {
    let path = workspace()?.join("fuzz/Cargo.toml");
    path.into_os_string().into_string().ok().context("the workspace's path is not UTF-8")
}

fn built_into() -> Result<PathBuf> {
    Ok(target_directory()?.join("fuzz"))
}
