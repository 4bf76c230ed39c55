//! Vault allows less than was asked for: shorter lives, fewer calls, fewer rights.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use hive_dev::vault::Setup;
use hive_security::credentials::{Credentials, Policy, Request, Settings};
use hive_security::metrics::Metrics;
use hive_security::vault::LoginMethod;
use serde_json::json;

use super::ends::{flawless, number, rotates, seconds};
use super::stage::Stage;
use super::world::{Cluster, ROLE, Service, Terms, World};
use crate::fixture;

#[tokio::test]
async fn what_vault_does_not_allow_is_done_without() {
    let cluster = Cluster::start().await;
    let short_token = Terms { lease_s: (3600, 7200), token_s: (60, 120) };
    let world = World::start(&cluster, short_token).await;
    a_token_that_ends_before_its_leases_is_replaced_with_them_in_time(world, seconds(600), 5..=12)
        .await;
    let world = World::start(&cluster, Terms::MINUTE).await;
    a_quota_of_one_call_a_second_is_kept_and_noticed_by_nobody(world).await;
    let no_revoke = |setup: &mut Setup| {
        let rules = setup.policies.get_mut("worker").expect("the policy");
        rules.retain(|rule| rule.path != "sys/leases/revoke");
    };
    let world = World::start_with(&cluster, Terms::MINUTE, no_revoke).await;
    without_the_right_to_revoke_a_lease_the_token_takes_it_along(world).await;
    let no_renew = |setup: &mut Setup| {
        let denied = json!({ "path": "sys/leases/renew", "capabilities": ["deny"] });
        let rules = setup.policies.get_mut("worker").expect("the policy");
        rules.push(serde_json::from_value(denied).expect("a rule"));
    };
    let world = World::start_with(&cluster, Terms::MINUTE, no_renew).await;
    without_the_right_to_renew_everything_is_replaced_before_it_ends(world, seconds(300), 5).await;
    a_hundred_services_that_start_at_once_do_not_renew_at_once(&cluster).await;
    cluster.stop().await;
}

pub(crate) async fn a_token_that_ends_before_its_leases_is_replaced_with_them_in_time(
    world: impl Stage,
    watched: Duration,
    generations: RangeInclusive<u64>,
) {
    let service = world.serve(Policy::default()).await;
    world.pass(watched).await;
    let reached = number(&service);
    assert!(generations.contains(&reached), "{reached} generations in {watched:?}");
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

pub(crate) async fn a_quota_of_one_call_a_second_is_kept_and_noticed_by_nobody(world: impl Stage) {
    let service = world.serve(Policy::default()).await;
    assert!(world.limit_calls(Some(1)).await);
    for _ in 0..3 {
        rotates(&world, &service, seconds(120)).await;
        flawless(&service);
    }
    let calls = world.proxy().calls();
    let limited = calls.iter().filter(|call| call.status == Some(429)).count();
    assert!(limited > 0, "the quota was never felt");
    // One call is let through each second, and no two attempts at the same thing are closer than a quarter of one: three
    // refusals for each success are the most, were every pause the shortest that there is.
    let let_through = calls.len() - limited;
    assert!(limited < 3 * let_through, "{limited} refused, {let_through} let through");
    // It holds for the operator, too, who shares the one call a second with the service.
    let is_lifted = async || world.limit_calls(None).await;
    world.pass_until("the quota is lifted", seconds(120), is_lifted).await;
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

pub(crate) async fn without_the_right_to_revoke_a_lease_the_token_takes_it_along(
    world: impl Stage,
) {
    let service = world.serve(Policy::default()).await;
    for _ in 0..3 {
        rotates(&world, &service, seconds(120)).await;
        fixture::until("one is left", || async { world.logins().await.len() == 1 }).await;
    }
    let in_vain = ["hive_revocations_total", "vault_credential_renewals_total"];
    let [revocations, renewals] = in_vain.map(|counter| errors(&service, counter));
    assert!(revocations >= 3 && renewals == 0, "{revocations} revocations, {renewals} renewals");
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

pub(crate) async fn without_the_right_to_renew_everything_is_replaced_before_it_ends(
    world: impl Stage,
    watched: Duration,
    generations: u64,
) {
    let service = world.serve(Policy::default()).await;
    world.pass(watched).await;
    let reached = number(&service);
    assert!(reached >= generations, "{reached} generations in {watched:?}");
    assert!(errors(&service, "vault_credential_renewals_total") > 0, "each was tried");
    assert_eq!(errors(&service, "hive_credential_issues_total"), 0);
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

/// What a counter says that was tried in vain.
fn errors(service: &Service, counter: &str) -> u64 {
    let text = Metrics::default().and_credentials(&service.credentials).to_string();
    let line = |line: &&str| line.starts_with(counter) && line.contains("status=\"error\"");
    let lines = text.lines().filter(line).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(_, count)| count.parse::<u64>().expect("a number")).sum()
}

async fn a_hundred_services_that_start_at_once_do_not_renew_at_once(cluster: &Cluster) {
    const SERVICES: usize = 100;
    let world = World::start(cluster, Terms { lease_s: (600, 3600), token_s: (600, 3600) }).await;
    let opening = (0..SERVICES).map(|_| {
        let login =
            LoginMethod::JwtSvid { workload: world.workload.clone(), role: ROLE.to_owned() };
        let requests = vec![Request::read("seal", "secret/data/release")];
        let settings = Settings { clock: world.clock.clone(), ..Settings::default() };
        Credentials::open(fixture::client(&world.proxy.address), login, requests, settings)
    });
    let opened = futures_util::future::join_all(opening).await;
    let services: Vec<_> = opened.into_iter().map(|opened| opened.expect("it opens")).collect();
    world.pass(seconds(400)).await;
    let mut histogram = BTreeMap::<u64, usize>::new();
    for call in world.proxy.calls() {
        if call.path == "auth/token/renew-self" {
            *histogram.entry(call.at.as_secs() / 10 * 10).or_default() += 1;
        }
    }
    println!(
        "renewals of {SERVICES} tokens of 600 s, by the ten seconds in which they came: {histogram:?}"
    );
    assert_eq!(histogram.values().sum::<usize>(), SERVICES);
    assert!(histogram.keys().all(|at| (300..=390).contains(at)), "{histogram:?}");
    // Eleven in ten seconds on average; more than three times as many would be a crowd.
    assert!(histogram.values().all(|count| *count <= 35), "{histogram:?}");
    for service in services {
        world.close_credentials(service).await.expect("all is given back");
    }
    world.nothing_is_left().await;
    world.stop().await;
}
