//! An operator takes away what is in use: a lease, all leases of a path, the token, the role.

use hive_security::credentials::Policy;
use serde_json::json;

use super::ends::{flawless, gets_well, number, rotates, seconds};
use super::load::Load;
use super::world::{Cluster, ROLE, Terms, WORKERS, World};

#[tokio::test]
async fn what_an_operator_takes_away_is_replaced() {
    let cluster = Cluster::start().await;
    what_an_operator_revokes_is_replaced_at_once_and_no_work_is_lost(&cluster).await;
    without_its_role_a_service_keeps_what_it_has(&cluster).await;
    cluster.stop().await;
}

/// What is revoked is gone at that moment. Users who do as the adapter says (ask for other credentials when the login
/// is in doubt, and repeat what had not begun) lose nothing but what was running at that moment: our vault ends the
/// sessions of a login that it revokes, and nobody can tell whether such a statement was still carried out (57P01). So
/// at most one operation of each user fails, and none is made to wait or refused.
async fn what_an_operator_revokes_is_replaced_at_once_and_no_work_is_lost(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let mut service = world.serve(Policy::default()).await;
    let careless = std::mem::replace(
        &mut service.load,
        Load::start_careful(WORKERS, service.pool.clone(), service.credentials.clone()),
    );
    assert!(careless.stop().await.is_flawless());
    for what in ["lease", "prefix", "token"] {
        world.pass(seconds(5)).await;
        let old = number(&service);
        let (status, _) = match what {
            "lease" => {
                let lease = world.vault.leases().pop().expect("one");
                world.operate("PUT", "sys/leases/revoke", json!({ "lease_id": lease })).await
            }
            "prefix" => {
                world.operate("PUT", "sys/leases/revoke-prefix/database/creds", json!({})).await
            }
            _ => {
                let (_, answer) = world.operate("LIST", "auth/token/accessors", json!({})).await;
                let accessors = answer["data"]["keys"].as_array().expect("accessors").clone();
                let mut last = (0, json!(null));
                for accessor in accessors {
                    let body = json!({ "accessor": accessor });
                    let (_, facts) =
                        world.operate("POST", "auth/token/lookup-accessor", body.clone()).await;
                    if facts["data"]["ttl"] != 0 {
                        last = world.operate("POST", "auth/token/revoke-accessor", body).await;
                    }
                }
                last
            }
        };
        assert!((200..300).contains(&status), "{what}: {status}");
        let is_new = async || number(&service) > old;
        world.pass_until("another is in use", seconds(60), is_new).await;
        gets_well(&world, &service, seconds(120)).await;
        service.load.progress(20).await;
    }
    let outcome = world.close(service).await;
    let was_running =
        |why: &String| why.contains("terminating connection due to administrator command");
    assert!(outcome.failed.keys().all(was_running), "{outcome:?}");
    let broken: u64 = outcome.failed.values().sum();
    assert!(outcome.barred == 0 && broken <= 3 * WORKERS, "{outcome:?}");
    world.stop().await;
}

async fn without_its_role_a_service_keeps_what_it_has(cluster: &Cluster) {
    let world = World::start(cluster, Terms::MINUTE).await;
    let service = world.serve(Policy::default()).await;
    let role = format!("auth/jwt/role/{ROLE}");
    let (_, before) = world.operate("GET", &role, json!({})).await;
    let (status, _) = world.operate("DELETE", &role, json!({})).await;
    assert_eq!(status, 204);
    let old = number(&service);
    service.credentials.rotate().await;
    world.pass(seconds(20)).await;
    assert_eq!(number(&service), old);
    assert!(service.credentials.status().is_ready());
    flawless(&service);
    let (status, _) = world.operate("POST", &role, before["data"].clone()).await;
    assert_eq!(status, 204);
    rotates(&world, &service, seconds(400)).await;
    let outcome = world.close(service).await;
    assert!(outcome.is_flawless(), "{outcome:?}");
    world.stop().await;
}
