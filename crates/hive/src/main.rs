//! The `hive` binary. One file per verb in [`cli`]; the whole stack on one machine in `up`.

mod cli;
mod exit;
#[cfg(feature = "dev")]
mod up;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os())
}
