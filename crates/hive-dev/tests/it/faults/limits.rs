//! Vault allows less than was asked for: shorter lives, fewer calls, fewer rights.

use std::collections::BTreeMap;

use hive_security::credentials::{Credentials, Policy, Request, Settings};
use hive_security::vault::LoginMethod;
use serde_json::json;

use super::ends::{flawless, number, rotates, seconds};
use super::world::{Cluster, ROLE, Terms, World};
use crate::fixture;

#[tokio::test]
async fn what_vault_does_not_allow_is_done_without() {
    let cluster = Cluster::start().await;
    a_token_that_ends_before_its_leases_is_replaced_with_them_in_time(&cluster).await;
    a_quota_of_one_call_a_second_is_kept_and_noticed_by_nobody(&cluster).await;
    without_the_right_to_revoke_a_lease_the_token_takes_it_along(&cluster).await;
    without_the_right_to_renew_everything_is_replaced_before_it_ends(&cluster).await;
    a_hundred_services_that_start_at_once_do_not_renew_at_once(&cluster).await;
    cluster.stop().await;
}

async fn a_token_that_ends_before_its_leases_is_replaced_with_them_in_time(cluster: &Cluster) {
    let world = World::start(cluster, Terms { lease_s: (3600, 7200), token_s: (60, 120) }).await;
    let service = world.serve(Policy::default()).await;
    world.pass(seconds(600)).await;
    let reached = number(&service);
    assert!((5..=12).contains(&reached), "{reached} generations in ten minutes");
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn a_quota_of_one_call_a_second_is_kept_and_noticed_by_nobody(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    let quota = json!({ "rate": 1, "interval": "1s" });
    let (status, answer) = world.operate("POST", "sys/quotas/rate-limit/all", quota).await;
    assert_eq!(status, 204, "{answer}");
    for _ in 0..3 {
        rotates(&world, &service, seconds(120)).await;
        flawless(&service);
    }
    let calls = world.proxy.calls();
    let limited = calls.iter().filter(|call| call.status == Some(429)).count();
    assert!(limited > 0, "the quota was never felt");
    assert!(limited < 3 * calls.len() / 4, "{limited} of {} calls were refused", calls.len());
    // It holds for the operator, too, who shares the one call a second with the service.
    let is_lifted = async || {
        let (status, _) = world.operate("DELETE", "sys/quotas/rate-limit/all", json!({})).await;
        status == 204
    };
    world.pass_until("the quota is lifted", seconds(120), is_lifted).await;
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn without_the_right_to_revoke_a_lease_the_token_takes_it_along(cluster: &Cluster) {
    let world = World::start_with(cluster, Terms::MINUTE, |setup| {
        let rules = setup.policies.get_mut("worker").expect("the policy");
        rules.retain(|rule| rule.path != "sys/leases/revoke");
    })
    .await;
    let service = world.serve(Policy::default()).await;
    for _ in 0..3 {
        rotates(&world, &service, seconds(120)).await;
        fixture::until("one is left", || async { world.logins().await.len() == 1 }).await;
    }
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}

async fn without_the_right_to_renew_everything_is_replaced_before_it_ends(cluster: &Cluster) {
    let world = World::start_with(cluster, Terms::MINUTE, |setup| {
        let denied = json!({ "path": "sys/leases/renew", "capabilities": ["deny"] });
        let rules = setup.policies.get_mut("worker").expect("the policy");
        rules.push(serde_json::from_value(denied).expect("a rule"));
    })
    .await;
    let service = world.serve(Policy::default()).await;
    world.pass(seconds(300)).await;
    assert!(number(&service) >= 5, "{} generations in five minutes", number(&service));
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
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
