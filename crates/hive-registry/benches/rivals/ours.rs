//! The registry.

use hive_api::names::worker_path;
use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use tonic::transport::Endpoint;

use crate::calls::{self, Way};
use crate::driver::{self, CONNECTIONS, Server};
use crate::options::Options;
use crate::table::{Measured, Table};
use crate::watchers;

/// One round.
pub(crate) async fn measure(kind: &str, options: &Options, table: &mut Table) {
    let directory = tempfile::tempdir().unwrap();
    let config = AuthorityConfig::new(directory.path().join("api.sock"));
    let authority = Authority::start(config).await.unwrap();
    authority.add_entry(Entry::of_process(worker_path("bench"), std::process::id())).unwrap();
    let workload = driver::attach(&authority).await;
    let server = Server::start(&authority, directory.path()).await;
    let secured: Vec<_> =
        (0..options.connections()).map(|_| driver::secured(&workload, &server)).collect();
    // The first call tells the other server who we are.
    calls::register(&secured, 1).await;
    if kind == "plain" {
        let plain = || Endpoint::from_shared(server.plain.clone()).unwrap().connect_lazy();
        let ways: Vec<_> = (0..options.connections()).map(|_| plain()).collect();
        each(kind, &ways, &server, options, table).await;
    } else {
        each(kind, &secured, &server, options, table).await;
    }
    server.stop().await;
    authority.stop().await;
}

async fn each<W: Way>(
    kind: &str,
    ways: &[W],
    server: &Server,
    options: &Options,
    table: &mut Table,
) {
    let mut server = Measured { whose: kind, pid: server.id(), table };
    for number in &options.watchers {
        let watched = watchers::measure(&ways[CONNECTIONS - 1..], *number);
        server.measure(4, &format!("watch, {number:>6} watchers"), watched).await;
    }
    let (few, mut ids) = (&ways[..CONNECTIONS], Vec::new());
    let registered = async {
        let (times, all) = calls::register(few, options.agents).await;
        ids = all;
        times
    };
    server.measure(0, "register", registered).await;
    server.weigh();
    server.measure(1, "heartbeat", calls::heartbeat(few, &ids, options.lasts)).await;
    server.measure(2, "discover", calls::discover(few, options.lasts)).await;
}
