//! Tokens, leases, wrapping, namespaces, and what the server says about itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hive_dev::proxy::{Fault, Proxy, Rule};
use hive_security::SecretJson;
use hive_security::clock::Clock;
use hive_security::credentials::{Credentials, Error, Request, Settings};
use hive_security::vault::{
    CertificateRequest, ChildToken, KvRead, LoginMethod, SecretId, VaultClient, VaultConfig,
    VaultError,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::World;

const MINUTE: Duration = Duration::from_secs(60);

/// Leases without a database: certificates that have one each.
async fn with_leases(world: &World) {
    world.write("sys/mounts/pki", json!({ "type": "pki" })).await;
    let root = json!({ "common_name": "root.test", "key_type": "ec", "key_bits": 256 });
    world.write("pki/root/generate/internal", root).await;
    let role = json!({
        "allow_any_name": true, "generate_lease": true, "key_type": "ec", "key_bits": 256, "ttl": "60s", "max_ttl": "120s",
    });
    world.write("pki/roles/leased", role).await;
}

const LEASED: &str = r#"path "pki/issue/leased" { capabilities = ["update"] }
    path "sys/leases/revoke" { capabilities = ["update"] }"#;

#[tokio::test]
async fn a_lease_is_looked_up_and_given_back_and_then_it_is_gone() {
    let world = World::start().await;
    with_leases(&world).await;
    let token = world.token(LEASED).await;
    let issued = world
        .vault
        .pki("pki")
        .issue(&token, "leased", &CertificateRequest::named("a.test"))
        .await
        .expect("a certificate");
    let lease = issued.certificate.lease.expect("a lease");
    assert!(lease.ttl <= MINUTE && lease.id.starts_with("pki/issue/leased/"), "{lease:?}");
    let found = world.vault.lookup_lease(&token, &lease.id).await.expect("it is there");
    assert!(found.id == lease.id && found.ttl <= MINUTE);
    let listed = world.vault.list_leases(&world.root, "pki/issue/leased").await.expect("a list");
    assert_eq!(listed, [lease.id.rsplit('/').next().expect("a name")]);
    let denied = world.vault.list_leases(&token, "pki/issue/leased").await;
    assert!(matches!(denied, Err(VaultError::Denied { .. })), "{denied:?}");
    world.vault.revoke_lease(&token, &lease.id).await.expect("it may");
    world.vault.revoke_lease(&token, &lease.id).await.expect("once more is no error");
    let gone = world.vault.lookup_lease(&token, &lease.id).await;
    assert!(matches!(gone, Err(VaultError::LeaseGone { .. })), "{gone:?}");
    let gone = world.vault.renew_lease(&token, &lease.id, MINUTE).await;
    assert!(matches!(gone, Err(VaultError::LeaseGone { .. })), "{gone:?}");

    let pki = world.vault.pki("pki");
    for name in ["b.test", "c.test"] {
        pki.issue(&token, "leased", &CertificateRequest::named(name)).await.expect("one more");
    }
    world.vault.revoke_leases(&world.root, "pki/issue/leased").await.expect("it may");
    let listed = world.vault.list_leases(&world.root, "pki/issue/leased").await.expect("a list");
    assert!(listed.is_empty(), "{listed:?}");
    world.bao.stop().await;
}

#[tokio::test]
async fn the_lease_of_a_lost_answer_ends_with_the_token_that_asked_for_it() {
    let world = World::start().await;
    with_leases(&world).await;
    let token = world.token(LEASED).await;
    let proxy = Proxy::before(&world.bao.address, Clock::system()).await.expect("it listens");
    proxy.spoil(Rule::of("pki/issue", Fault::Lose).times(1));
    let vault = VaultClient::new(VaultConfig::at(&proxy.address)).expect("loopback");
    let request = CertificateRequest::named("a.test");
    let lost = vault.pki("pki").issue(&token, "leased", &request).await.expect_err("it is lost");
    assert!(matches!(lost, VaultError::Unreachable { never_sent: false, .. }), "{lost:?}");
    assert!(!lost.had_no_effect());
    assert_eq!(proxy.count("POST", "pki/issue/leased"), 1, "it was asked once and never again");
    let leases = || world.vault.list_leases(&world.root, "pki/issue/leased");
    assert_eq!(leases().await.expect("a list").len(), 1, "there is an orphan");
    vault.revoke_self(&token).await.expect("it may");
    let deadline = std::time::Instant::now() + MINUTE;
    while !leases().await.expect("a list").is_empty() {
        assert!(std::time::Instant::now() < deadline, "the orphan is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.bao.stop().await;
}

#[tokio::test]
async fn a_child_token_is_bounded_renewed_and_ended() {
    let world = World::start().await;
    let mut wanted = ChildToken::default();
    wanted.policies = vec!["default".to_owned()];
    wanted.ttl = Some(MINUTE);
    wanted.explicit_ttl_max = Some(2 * MINUTE);
    let child = world.vault.create_token(&world.root, &wanted).await.expect("a token");
    assert!(child.ttl == MINUTE && child.renewable);
    let facts = world.vault.lookup_self(&child.token).await.expect("it lives");
    assert_eq!((facts.policies, facts.explicit_ttl_max), (wanted.policies, Some(2 * MINUTE)));
    let renewal = world.vault.renew_self(&child.token, 10 * MINUTE).await.expect("it may");
    assert!(renewal.ttl <= 2 * MINUTE && !renewal.warnings.is_empty(), "{renewal:?}");
    world.vault.revoke_accessor(&world.root, &child.accessor).await.expect("it may");
    let gone = world.vault.lookup_self(&child.token).await;
    assert!(matches!(gone, Err(VaultError::Denied { .. })), "{gone:?}");
    let root = world.vault.lookup_self(&world.root).await.expect("it lives");
    assert_eq!((root.ttl, root.explicit_ttl_max), (Duration::ZERO, None));
    world.bao.stop().await;
}

/// An AppRole whose tokens may revoke themselves and nothing else, and a way to log in with it.
async fn with_a_narrow_role(world: &World) -> LoginMethod {
    let policy = r#"path "auth/token/revoke-self" { capabilities = ["update"] }"#;
    world.write("sys/policies/acl/narrow", json!({ "policy": policy })).await;
    world.write("sys/auth/approle", json!({ "type": "approle" })).await;
    let role =
        json!({ "token_policies": ["narrow"], "token_no_default_policy": true, "token_ttl": 60 });
    world.write("auth/approle/role/narrow", role).await;
    let path = "auth/approle/role/narrow";
    let id = world.vault.read(&world.root, &format!("{path}/role-id")).await.expect("it is there");
    let (secret, nothing) = (format!("{path}/secret-id"), SecretJson::new(json!({})));
    let secret = world.vault.write_wrapped(&world.root, &secret, &nothing, MINUTE).await;
    LoginMethod::AppRole {
        mount: "approle".to_owned(),
        role_id: id.data.text("role_id").expect("text").expose_secret().to_owned(),
        secret_id: SecretId::wrapped("narrow", secret.expect("it is wrapped").token),
    }
}

#[tokio::test]
async fn a_token_that_may_not_even_look_at_itself_is_not_taken_for_a_dead_one() {
    let world = World::start().await;
    let login = with_a_narrow_role(&world).await;
    let token = login.login(&world.vault).await.expect("it may").token;
    let denied = world.vault.lookup_self(&token).await;
    assert!(matches!(denied, Err(VaultError::Denied { by_policy: true, .. })), "{denied:?}");
    let unknown = VaultClient::new(VaultConfig::at(&world.bao.address)).expect("loopback");
    let unknown = unknown.lookup_self(&SecretString::from("s.unknown")).await;
    assert!(matches!(unknown, Err(VaultError::Denied { by_policy: false, .. })), "{unknown:?}");

    let proxy = Proxy::before(&world.bao.address, Clock::system()).await.expect("it listens");
    let vault = VaultClient::new(VaultConfig::at(&proxy.address)).expect("loopback");
    let requests = vec![Request::read("app", "secret/data/app")];
    let opened = Credentials::open(vault, login, requests, Settings::default()).await;
    assert!(matches!(opened, Err(Error::Refused { .. })), "{opened:?}");
    assert_eq!(proxy.count("POST", "auth/approle/login"), 1, "another login does not help");
    world.bao.stop().await;
}

#[tokio::test]
async fn what_is_wrapped_can_be_had_once() {
    let world = World::start().await;
    let secret = SecretJson::new(json!({ "key": "s3cr3t" }));
    let wrapped = world.vault.wrap(&world.root, &secret, MINUTE).await.expect("it is wrapped");
    assert_eq!((wrapped.ttl, &*wrapped.creation_path), (MINUTE, "sys/wrapping/wrap"));
    let facts = world.vault.lookup_wrapped(&wrapped.token).await.expect("it is there");
    assert_eq!((&*facts.creation_path, facts.ttl), ("sys/wrapping/wrap", MINUTE));
    let again = world.vault.rewrap(&world.root, &wrapped.token).await.expect("a new token");
    let gone = world.vault.unwrap(&wrapped.token).await;
    assert!(matches!(gone, Err(VaultError::WrapGone { .. })), "{gone:?}");
    let answer = world.vault.unwrap(&again.token).await.expect("the first who asks");
    assert_eq!(answer.data.text("key").expect("a field").expose_secret(), "s3cr3t");
    let gone = world.vault.unwrap(&again.token).await;
    assert!(matches!(gone, Err(VaultError::WrapGone { .. })), "{gone:?}");
    let gone = world.vault.lookup_wrapped(&again.token).await;
    assert!(matches!(gone, Err(VaultError::WrapGone { .. })), "{gone:?}");

    world.vault.kv("secret").write(&world.root, "a", &secret, None).await.expect("it may");
    let wrapped = world.vault.read_wrapped(&world.root, "secret/data/a", MINUTE).await;
    let wrapped = wrapped.expect("it is wrapped");
    assert_eq!(wrapped.creation_path, "secret/data/a");
    let answer = world.vault.unwrap(&wrapped.token).await.expect("the first who asks");
    assert!(answer.data.expose_text().contains("s3cr3t"));
    world.bao.stop().await;
}

#[tokio::test]
async fn namespaces_are_apart() {
    let world = World::start().await;
    world.write("sys/namespaces/one", json!({})).await;
    let one = world.vault.in_namespace("one").expect("a good name");
    let mount = SecretJson::new(json!({ "type": "kv", "options": { "version": "2" } }));
    one.write(&world.root, "sys/mounts/secret", &mount).await.expect("it may");
    let secret = SecretJson::new(json!({ "where": "one" }));
    one.kv("secret").write(&world.root, "a", &secret, None).await.expect("it may");
    let found = one.kv("secret").read(&world.root, "a", None).await.expect("it is there");
    assert!(matches!(found, KvRead::Found(_)));
    let elsewhere = world.vault.kv("secret").read(&world.root, "a", None).await;
    assert!(matches!(elsewhere, Err(VaultError::NotFound { .. })), "{elsewhere:?}");
    assert!(one.health().await.expect("it answers").initialized);
    world.bao.stop().await;
}

#[tokio::test]
async fn the_server_tells_its_state_its_time_and_what_a_token_may_do() {
    let world = World::start().await;
    let health = world.vault.health().await.expect("it answers");
    assert!(health.initialized && !health.sealed && !health.standby);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let theirs = health.server_time_s.expect("a time").unsigned_abs();
    assert!(theirs.abs_diff(now) <= 5 && health.cluster_id.is_some(), "{health:?}");
    assert!(!world.vault.seal_status().await.expect("it answers").sealed);
    let token = world.token(r#"path "secret/data/a" { capabilities = ["read", "list"] }"#).await;
    let paths = ["secret/data/a", "secret/data/b"];
    let granted = world.vault.capabilities_self(&token, &paths).await.expect("it answers");
    let of = |path: &str| granted[path].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!((of(paths[0]), of(paths[1])), (vec!["list", "read"], vec!["deny"]));
    let root = world.vault.capabilities_self(&world.root, &paths[..1]).await.expect("it answers");
    assert!(root[paths[0]].contains("root"));
    let counts = world.vault.counts();
    let count = |operation: &str, status: &str| {
        let found = counts.tallies().into_iter();
        found
            .filter(|t| t.operation.as_str() == operation && t.status == status)
            .map(|t| t.count)
            .sum::<u64>()
    };
    assert_eq!((count("health", "success"), count("capabilities", "success")), (2, 2));
    world.bao.stop().await;
}

#[tokio::test]
async fn the_index_of_a_write_goes_with_the_next_reads() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = crate::spire::find("bao");
    let bao =
        hive_dev::openbao::OpenBao::durable(&program, directory.path()).await.expect("it starts");
    let vault = VaultClient::new(VaultConfig::at(&bao.address)).expect("loopback");
    super::write(
        &vault,
        &bao.root_token,
        "sys/mounts/secret",
        json!({ "type": "kv", "options": { "version": "2" } }),
    )
    .await;
    let secret = SecretJson::new(json!({ "k": "v" }));
    let kv = vault.kv("secret");
    // The engine is upgraded to versions in the background, and says so until it is done.
    let deadline = std::time::Instant::now() + MINUTE;
    while let Err(error) = kv.write(&bao.root_token, "a", &secret, None).await {
        assert!(error.is_transient() && error.had_no_effect(), "{error:?}");
        assert!(std::time::Instant::now() < deadline, "it cannot be written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The server waits for that index, and refuses with 412 what it cannot understand.
    assert!(matches!(kv.read(&bao.root_token, "a", None).await, Ok(KvRead::Found(_))));
    bao.stop().await;
}
