//! How many calls a second the registry takes, how late a change reaches its watchers, and what 99,000 agents weigh.
//!
//! `cargo bench -p hive-registry --features bench --bench registry -- [--agents 99000] [--connections 4] [--seconds 5]
//! [--watchers 100,1000,10000] [--only secured,plain]`
//!
//! The server is a process of its own, logs as it does by default, and keeps its records in a file of SQLite; all callers
//! are another process on the same machine. `secured` is how the registry is served: mutual TLS, and each call carries a JWT-SVID that is verified.
//! `plain` is the same service without either, so that the price of knowing who calls is seen. 16 calls are in flight
//! on each of 4 connections; every registration is another agent, with four of a hundred capabilities.
//!
//! Both share the machine's processors, so what each call costs either side is told as well: a server with two of its own
//! takes two seconds' worth of calls a second.
//!
//! One identity may own 100,000 agents, and all of these have one owner.
//!
//! Watchers ask for the agents of one namespace, and ten times a second one of these is registered anew with another
//! version. The time runs from before that call until a watcher has the event, so it contains the write; what that alone
//! takes is told before. They come first, while there are no other agents, and once more at the end, when there are all.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

mod calls;
mod driver;
mod watchers;

/// That of the `hive` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match words[..] {
        ["serve", endpoint, directory] => {
            runtime.block_on(hive_registry::bench::serve(endpoint, directory.as_ref()));
        }
        _ => {
            // Without a subscriber, each span would look for another kind of log.
            hive_runtime::telemetry::init("warn").unwrap();
            runtime.block_on(driver::run(&driver::Options::read(&words)));
        }
    }
}
