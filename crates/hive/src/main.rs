//! The `hive` binary. One file per verb in [`cli`]; the whole stack on one machine in `up`.

mod cli;
mod exit;
#[cfg(feature = "dev")]
mod up;

/// Memory that was given back is used again first, so ten thousand connections that come and go leave no growing heap
/// behind (docs/decisions/allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args_os())
}
