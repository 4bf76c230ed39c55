//! The sandbox's launcher alone: the smallest program that a worker can start commands with.

fn main() {
    hive_worker::sandbox::exec_shim(std::env::args_os().skip(1))
}
