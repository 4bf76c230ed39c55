//! Automation: `cargo xtask check` is the one gate, `cargo xtask bench` measures.

mod arrows;
mod bench;
mod check;
mod conformance;
mod deny;
mod interop;
mod mutants;
mod real;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  check   everything CI checks: format, clippy, crate arrows, tests, conformance, docs, cargo-deny
  bench   start-up time and resident memory of `hive up`, on a release build
  bench layered [options]   what the layers cost a gRPC call, beside bare tonic and beside grpc-go with go-spiffe
  interop          installs what the interoperability tests need: go-spiffe and py-spiffe
  conformance      what the SPIFFE standards ask for, and which test shows it
  mutants [name]   break hive-security in a copy, one place at a time, and demand that a test notices
  real             build the real SPIRE that the conformance tests run; `check` does it by itself
";

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let outcome = match task.as_deref() {
        Some("bench") => bench::run(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some("check") => check::run(),
        Some("conformance") => conformance::run(),
        Some("interop") => interop::install(),
        Some("mutants") => mutants::run(std::env::args().nth(2).as_deref()),
        Some("real") => real::build(),
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
