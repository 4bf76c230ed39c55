//! Automation: `cargo xtask check` is the one gate, `cargo xtask bench` measures.

mod arrows;
mod bench;
mod check;
mod deny;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  check   everything CI checks: format, clippy, crate arrows, docs, cargo-deny, tests
  bench   start-up time and resident memory of `hive up`, on a release build
";

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let outcome = match task.as_deref() {
        Some("bench") => bench::run(),
        Some("check") => check::run(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
