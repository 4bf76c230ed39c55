//! Answers are slow, get lost, lead elsewhere, make no sense.

use std::time::Duration;

use hive_dev::proxy::{Fault, Rule};
use hive_security::credentials::Policy;
use hive_security::metrics::Metrics;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;

use super::ends::{flawless, gets_well, number, rotates, seconds};
use super::logs::Logs;
use super::stage::Stage;
use super::world::{Cluster, ROLE, Service, Terms, World};

#[tokio::test]
async fn no_answer_that_is_slow_lost_strange_or_leads_elsewhere_is_noticed_by_anyone() {
    let cluster = Cluster::start().await;
    let long = Terms { lease_s: (300, 3600), token_s: (300, 3600) };
    let drops = Fault::Drip { bytes: 64, pause: seconds(1) };
    let slow = [Fault::Slow(seconds(5)), Fault::Slow(seconds(30)), drops];
    let world = World::start(&cluster, long).await;
    slow_answers_and_such_as_come_in_drops_delay_nobody(world, slow, seconds(200)).await;
    let world = World::start(&cluster, Terms::MINUTE).await;
    a_login_whose_answer_is_lost_is_one_orphan_which_its_token_takes_along(world).await;
    a_redirect_to_a_stranger_is_followed_by_nobody(&cluster).await;
    answers_that_make_no_sense_appear_in_no_log(&cluster).await;
    cluster.stop().await;
}

/// Each fault lasts for so long, and until another credential is in use in spite of it.
pub(crate) async fn slow_answers_and_such_as_come_in_drops_delay_nobody(
    world: impl Stage,
    faults: impl IntoIterator<Item = Fault>,
    each: Duration,
) {
    let service = world.serve(Policy::default()).await;
    for fault in faults {
        world.proxy().spoil(Rule::of("", fault));
        world.pass(each).await;
        rotates(&world, &service, seconds(300)).await;
        flawless(&service);
        world.proxy().restore();
    }
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

pub(crate) async fn a_login_whose_answer_is_lost_is_one_orphan_which_its_token_takes_along(
    world: impl Stage,
) {
    let service = world.serve(Policy::default()).await;
    world.pass(seconds(5)).await;
    world.proxy().spoil(Rule::of("database/creds/", Fault::Lose).times(1));
    let mut most = 0;
    service.credentials.rotate().await;
    let is_replaced = async || {
        most = most.max(world.logins().await.len());
        number(&service) == 2
    };
    world.pass_until("another is in use", seconds(400), is_replaced).await;
    assert!(
        most <= 3,
        "{most} logins at a time: the old one, the new one, and one orphan are three"
    );
    assert_eq!(world.proxy().count("GET", "database/creds/"), 3, "it was asked for in a loop");
    gets_well(&world, &service, seconds(120)).await;
    crate::fixture::until("only one is left", || async { world.logins().await.len() == 1 }).await;
    let metrics = Metrics::default().and_credentials(&service.credentials).to_string();
    let orphans = format!("hive_leases_entrusted_total{{role=\"{ROLE}\"}} 1");
    assert!(metrics.contains(&orphans), "{metrics}");
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn a_redirect_to_a_stranger_is_followed_by_nobody(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    let stranger = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be listened on");
    let address = stranger.local_addr().expect("it is bound");
    for location in [
        format!("http://{address}/v1/auth/token/renew-self"),
        format!("https://{address}/v1/auth/token/renew-self"),
        "https://vault.example/v1/auth/token/renew-self".to_owned(),
    ] {
        world.pass(seconds(15)).await;
        world.proxy.spoil(Rule::of("", Fault::redirect(&location)));
        world.pass(seconds(25)).await;
        world.proxy.restore();
        gets_well(&world, &service, seconds(120)).await;
        flawless(&service);
    }
    let visit = tokio::time::timeout(Duration::from_millis(50), stranger.accept()).await;
    assert!(visit.is_err(), "the stranger had a visitor, with a token");
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn answers_that_make_no_sense_appear_in_no_log(cluster: &Cluster) {
    let logs = Logs::keep();
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    answers_that_make_no_sense_delay_nobody(&world, &service, seconds(12)).await;
    let metrics = Metrics::default().and_credentials(&service.credentials).to_string();
    let shown = format!("{:?} {metrics}", service.credentials);
    // What the last answers may have brought has ended by itself.
    world.pass(seconds(61)).await;
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    let text = logs.text() + &shown;
    assert!(text.contains("a call to Vault failed"), "nothing was logged at all");
    for kind in ["vault-token", "db-password", "jwt-svid"] {
        for secret in world.witness.seen_of(kind) {
            assert!(!text.contains(secret.expose_secret()), "a {kind} was shown");
        }
    }
    assert!(world.witness.seen_of("db-password").len() > 6);
    world.stop().await;
}

/// Each kind for so long, in which another credential is wanted.
pub(crate) async fn answers_that_make_no_sense_delay_nobody(
    world: &impl Stage,
    service: &Service,
    each: Duration,
) {
    let huge = format!(r#"{{"data":{{"password":"{}"}}}}"#, "x".repeat(1 << 20));
    for fault in [
        Fault::status(200, "{\"data\":"),
        Fault::status(200, &huge),
        Fault::status(200, "<html>welcome</html>"),
        Fault::status(502, "bad gateway"),
        Fault::Answer(b"\x16\x03\x01\x02\x00\x01\xff\xfe".to_vec()),
        Fault::Truncate(90),
    ] {
        world.proxy().spoil(Rule::of("", fault));
        service.credentials.rotate().await;
        world.pass(each).await;
        world.proxy().restore();
        rotates(world, service, seconds(400)).await;
        flawless(service);
    }
}
