//! Ten thousand agents, each on a TLS connection of its own, while every identity rotates: does any of them die?
//!
//! `cargo bench -p hive-registry --features bench --bench fleet -- [--agents 10000] [--minutes 10] [--hosts 20]
//! [--age-seconds 150] [--warm-minutes 2] [--storms 0] [--hogs 2]`
//!
//! The registry is a process of its own and serves as `hive registry` does: the same function, a file of SQLite, its
//! lease of 15 s, its log, its metrics, its age of connections. The agents live in other processes, their hosts; each
//! host has a SPIFFE ID of its own. An agent heartbeats every 5 s, with what hive-worker waits for an answer, and now and
//! then registers again with another version.
//!
//! An X.509-SVID lives for two minutes and a JWT-SVID for one. The keys that sign them are replaced as well, again and
//! again: prepared, activated, tainted, revoked. A client's connection is replaced when it is `--age-seconds` old, or up to
//! half of that younger, so that the replacements spread; the registry's own age of half an hour is reached by a run that is longer.
//! The hosts run at a lower priority than the registry, for they stand for other machines.
//! Beside it, 20 watches follow every change and 50 questions a second are asked.
//!
//! A watch of its own counts who becomes suspect, dead or gone. Nobody should; one agent that never heartbeats shows that
//! the watch would see it. Whatever died falsely makes the bench fail. Memory is printed, and how it grows: the line that
//! fits best through what was seen after `--warm-minutes`.
//!
//! With `--storms`, all agents lose their connections at once, so many times, while the registry is short of processor time: it runs
//! at a lower priority than its agents, beside `--hogs` busy loops. What is printed then is told in [`storm`]. Nobody may
//! die of that either; give `--agents 2000` or so, for they share the processors.
//!
//! The registry needs a file descriptor for each agent, and raises its soft limit to the hard one, as every service does.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

mod agent;
mod driver;
mod host;
mod options;
mod outcome;
mod process;
mod registry;
mod rotation;
mod storm;
mod traffic;
mod vitals;
mod watcher;

use std::process::ExitCode;

/// That of the `hive` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hive_runtime::harden::raise_open_files();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["registry", endpoint, directory] => {
            // As many threads as `hive registry` has.
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(registry::serve(endpoint, directory.as_ref()));
        }
        ["hog"] => storm::hog(),
        ["host", endpoint, ref load @ ..] => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(host::run(endpoint, host::Load::read(load)));
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            return runtime.block_on(driver::run(&options::Options::read(&words)));
        }
    }
    ExitCode::SUCCESS
}
