//! Everything at once, as in `benches/rotation`, for a few seconds.

use std::time::{Duration, Instant};

use crate::identity::Rotations;
use crate::work::{Clients, Rates, Work};
use crate::world::World;

const ROTATIONS: u64 = 4;
const DEADLINE: Duration = Duration::from_secs(90);
const CLOSE_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn four_kinds_of_clients_notice_no_rotation_and_in_the_end_nothing_is_left() {
    let world = World::start(false).await;
    let mut clients = Clients::new(&world).await;
    let credentials = world.open(&world.bao.address).await;
    let held = clients.hold(&world, &credentials).await;
    let (work, keys) = (Work::begin(&clients, &Rates::new()), Rotations::begin(&world.authority));
    let (first, deadline) = (credentials.status().generation, Instant::now() + DEADLINE);
    while credentials.status().generation < first + ROTATIONS || keys.count() < 2 {
        assert!(Instant::now() < deadline, "{:?}, {} keys", credentials.status(), keys.count());
        credentials.rotate().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (kind, outcome) in work.end().await {
        assert!(outcome.done > 0 && outcome.failed.is_empty(), "{kind}: {outcome:?}");
    }
    clients.postgres.pool().close().await;
    drop((held, clients, keys));
    credentials.close(CLOSE_WITHIN).await.expect("everything is given back");
    assert_eq!(world.left().await, [0; 3], "roles, users, leases");
    world.stop().await;
}
