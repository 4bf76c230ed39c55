//! The registry beside a real etcd: the same machine, the same calls in flight, in turns.
//!
//! `cargo bench -p hive-registry --features bench,etcd --bench rivals -- [--agents 10000] [--seconds 5] [--rounds 3]
//! [--watchers 100,1000] [--only secured,etcd]`
//!
//! Both are processes of their own that keep their records on the same disk, durably, and know their callers by mutual TLS
//! with SVIDs; the registry also verifies a JWT-SVID with each call (`plain` is the registry without either). 64 calls are
//! in flight, on 4 connections. Each round starts both anew, and every other round begins with etcd; what is printed is
//! the middle of all rounds, and the least and the most. `cargo xtask real` gets etcd.
//!
//! | here | the registry | etcd |
//! |---|---|---|
//! | register | `Register`, another agent each time | `Put` of a record of that size, without a lease: one that ends with its agent would cost a second write |
//! | heartbeat | `Heartbeat` of one of the agents | `LeaseKeepAlive` of one of as many leases, on 64 open streams |
//! | discover | `DiscoverAgents`: the best 5 that have two capabilities of a hundred | `Range` over the 5 keys of a prefix: what etcd would find had somebody laid it out for this question; `serializable`, from memory as the registry's, and linearizable, its default |
//! | watch | a stream for each watcher, 1,000 on a connection; from before a write until the event is there | the same |
//!
//! etcd has no search: whoever keeps agents in it writes what the registry does here. Published figures of others, none of
//! them measured here: etcd 3.x on three machines of 8 processors, 44,341 puts/s with 1,000 clients and 141,578 linearizable
//! reads/s (etcd.io, op-guide/performance); Consul, 5 servers, 172,000 instances, a change everywhere in less than a second
//! (hashicorp.com/cgsb); Nacos, one node of two processors, 3,200 to 3,400 registrations/s (DaoCloud).
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

#[path = "../registry/calls.rs"]
#[allow(dead_code, reason = "its own bench uses more of it")]
mod calls;
#[path = "../registry/driver.rs"]
#[allow(dead_code, reason = "its own bench uses more of it")]
mod driver;
mod etcd;
mod options;
mod ours;
mod table;
#[path = "../fleet/vitals.rs"]
#[allow(dead_code, reason = "its own bench uses more of it")]
mod vitals;
#[path = "../registry/watchers.rs"]
mod watchers;

use options::Options;
use table::Table;

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
            runtime.block_on(compare(&Options::read(&words)));
        }
    }
}

async fn compare(options: &Options) {
    let mut table = Table::default();
    for round in 0..options.rounds {
        let mut kinds = options.only.clone();
        if round % 2 == 1 {
            kinds.reverse();
        }
        for kind in kinds {
            println!("round {}, {kind}: load {}", round + 1, vitals::load());
            match kind.as_str() {
                "etcd" => etcd::measure(options, &mut table).await,
                _ => ours::measure(&kind, options, &mut table).await,
            }
        }
    }
    print!("{table}");
}
