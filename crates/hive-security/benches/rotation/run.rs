//! Our way: the driver, the holders, and nothing that a service would have to do.

use std::time::{Duration, Instant};

use hive_dev::proxy::{Fault, Proxy, Rule};
use hive_security::clock::Clock;
use hive_security::credentials::Credentials;
use tokio::time::sleep;

use crate::identity::Rotations;
use crate::load::Outcome;
use crate::report;
use crate::totals::Totals;
use crate::work::{Clients, Outcomes, Rates, Work};
use crate::world::World;

const EVERY: Duration = Duration::from_secs(1);
const RESTART_EVERY: Duration = Duration::from_secs(20);
/// A rotation makes eight calls, so one answer of a hundred is one in about twelve seconds.
const LOSE_EVERY: Duration = Duration::from_secs(12);
const WARM_UP: Duration = Duration::from_secs(5);
/// Turns of calm and rotation.
const ROUNDS: u32 = 5;
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// Calm and rotation in turns; then nothing may be left.
pub(crate) async fn ours(settings: crate::Settings) {
    let mut world = World::start(settings.restarts).await;
    let proxy = Proxy::before(&world.bao.address, Clock::system()).await.expect("a proxy");
    let mut clients = Clients::new(&world).await;
    let credentials = world.open(&proxy.address).await;
    let held = clients.hold(&world, &credentials).await;
    let warm = calm("warming up", &clients, &Rates::new(), WARM_UP).await;
    let rates = settings.share.map(|share| shares(&warm, share)).unwrap_or_default();
    let (mut calms, mut rotations) = (Totals::default(), Totals::default());
    for _ in 0..ROUNDS {
        calms.add(calm("calm", &clients, &rates, settings.calm_lasts / ROUNDS).await);
        let round;
        (world, round) = rotating(world, &proxy, (&clients, &rates), &credentials, settings).await;
        rotations.add(round);
    }
    Totals::compare(&calms, &rotations);
    clients.postgres.pool().close().await;
    drop((held, clients));
    match credentials.close(CLOSE_WITHIN).await {
        // Nobody knows the token of a login whose answer was lost. It ends by itself, and no lease was made with it.
        Err(left) if settings.restarts => println!("{left}"),
        closed => closed.expect("everything is given back"),
    }
    let [roles, users, leases] = world.left().await;
    println!("left: {roles} roles of PostgreSQL, {users} users of Redis, {leases} leases");
    world.stop().await;
}

/// This share of what was done a second, for each kind.
fn shares((outcomes, lasted): &(Outcomes, Duration), share: f64) -> Rates {
    let rate = |outcome: &Outcome| share * outcome.done as f64 / lasted.as_secs_f64();
    outcomes.iter().map(|(kind, outcome)| (*kind, rate(outcome))).collect()
}

async fn calm(
    what: &str,
    clients: &Clients,
    rates: &Rates,
    lasts: Duration,
) -> (Outcomes, Duration) {
    let (work, began) = (Work::begin(clients, rates), Instant::now());
    sleep(lasts).await;
    let lasted = began.elapsed();
    print(what, work.end().await, lasted)
}

async fn rotating(
    mut world: World,
    proxy: &Proxy,
    (clients, rates): (&Clients, &Rates),
    credentials: &Credentials,
    settings: crate::Settings,
) -> (World, (Outcomes, Duration)) {
    let (work, began) = (Work::begin(clients, rates), Instant::now());
    let keys = Rotations::begin(&world.authority);
    let first = credentials.status().generation;
    let (mut restarted, mut lost, mut restarts) = (began, began, 0);
    while began.elapsed() < settings.lasts / ROUNDS {
        credentials.rotate().await;
        sleep(EVERY).await;
        if settings.restarts && lost.elapsed() > LOSE_EVERY {
            proxy.spoil(Rule::of("", Fault::Lose).times(1));
            lost = Instant::now();
        }
        if settings.restarts && restarted.elapsed() > RESTART_EVERY {
            world.bao = world.bao.restart().await.expect("OpenBao comes back");
            (restarted, restarts) = (Instant::now(), restarts + 1);
        }
    }
    let rotations = credentials.status().generation - first;
    let lasted = began.elapsed();
    let outcomes = print("rotating", work.end().await, lasted);
    println!(
        "{rotations} rotations of logins, {} of both keys, {restarts} restarts of OpenBao in {:.0} s",
        keys.count(),
        lasted.as_secs_f64()
    );
    (world, outcomes)
}

fn print(what: &str, outcomes: Outcomes, lasted: Duration) -> (Outcomes, Duration) {
    for (kind, outcome) in &outcomes {
        report(&format!("{what}, {kind}"), outcome, lasted);
    }
    (outcomes, lasted)
}
