//! Automation: `cargo xtask check` is the one gate, `cargo xtask bench` measures.

mod arrows;
mod bench;
mod check;
mod conformance;
mod deny;
mod fuzz;
mod interop;
mod mutants;
mod real;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  check                       everything that CI checks: format, arrows between crates, clippy, tests, conformance,
                              docs, cargo-deny, fuzzing
  bench                       start-up time and resident memory of `hive up`, on a release build
  bench layered [OPTIONS]     what the layers cost a gRPC call, beside bare tonic and beside grpc-go with go-spiffe
  conformance                 what the SPIFFE standards ask for, and which test shows it
  fuzz [TARGET] [--seconds N] bad input for whatever reads a stranger's bytes
  interop                     install go-spiffe and py-spiffe for the interoperability tests; `check` does it by itself
  mutants [NAME]              break the code in a copy, one place at a time, and demand that a test notices
  real                        get the real servers that the tests run (SPIRE, OpenBao, Redis, Kafka); `check` does it
                              by itself
";

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let outcome = match task.as_deref() {
        Some("bench") => bench::run(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some("check") => check::run(),
        Some("conformance") => conformance::run(),
        Some("fuzz") => fuzz::from_arguments(std::env::args().skip(2)),
        Some("interop") => interop::install(),
        Some("mutants") => mutants::run(std::env::args().nth(2).as_deref()),
        Some("real") => real::install(),
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
