//! KV, database, PKI and transit.

use std::time::Duration;

use base64::Engine;
use hive_dev::postgres::{self, Postgres, Programs};
use hive_security::SecretJson;
use hive_security::vault::{CertificateRequest, Kv, KvRead, VaultError};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::World;

const MINUTE: Duration = Duration::from_secs(60);

fn secret(value: Value) -> SecretJson {
    SecretJson::new(value)
}

/// The fields and the number of the version.
async fn found(kv: &Kv, world: &World, path: &str, version: Option<u64>) -> (Value, u64) {
    match kv.read(&world.root, path, version).await {
        Ok(KvRead::Found(found)) => (found.data.expose().expect("JSON"), found.version.version),
        other => panic!("{path}: {other:?}"),
    }
}

#[tokio::test]
async fn versions_of_a_secret_are_written_checked_deleted_and_destroyed() {
    let world = World::start().await;
    let (kv, root) = (world.vault.kv("secret"), &world.root);
    let first = kv.write(root, "team/a", &secret(json!({ "n": 1, "m": 1 })), Some(0)).await;
    assert_eq!(first.expect("there was none").version, 1);
    let taken = kv.write(root, "team/a", &secret(json!({ "n": 2 })), Some(0)).await;
    assert!(matches!(taken, Err(VaultError::VersionMismatch { .. })), "{taken:?}");
    kv.write(root, "team/a", &secret(json!({ "n": 2, "m": 1 })), Some(1)).await.expect("current");
    kv.patch(root, "team/a", &secret(json!({ "n": 3 })), Some(2)).await.expect("current");
    assert_eq!(found(&kv, &world, "team/a", None).await, (json!({ "n": 3, "m": 1 }), 3));
    assert_eq!(found(&kv, &world, "team/a", Some(1)).await, (json!({ "n": 1, "m": 1 }), 1));

    kv.delete(root, "team/a").await.expect("it may");
    let Ok(KvRead::Gone(left)) = kv.read(root, "team/a", None).await else {
        panic!("it is deleted")
    };
    assert!(left.version == 3 && !left.deleted_at.is_empty() && !left.destroyed, "{left:?}");
    kv.undelete(root, "team/a", &[3]).await.expect("it may");
    assert_eq!(found(&kv, &world, "team/a", None).await.1, 3);
    kv.delete_versions(root, "team/a", &[1]).await.expect("it may");
    assert!(matches!(kv.read(root, "team/a", Some(1)).await, Ok(KvRead::Gone(_))));
    kv.destroy(root, "team/a", &[2]).await.expect("it may");
    let Ok(KvRead::Gone(left)) = kv.read(root, "team/a", Some(2)).await else {
        panic!("destroyed")
    };
    assert!(left.destroyed);

    let facts = kv.metadata(root, "team/a").await.expect("it is there");
    assert_eq!((facts.current_version, facts.versions.len()), (3, 3));
    assert!(facts.versions[&2].destroyed && facts.versions[&2].version == 2);
    kv.write(root, "b", &secret(json!({})), None).await.expect("it may");
    assert_eq!(kv.list(root, None).await.expect("a list"), ["b", "team/"]);
    assert_eq!(kv.list(root, Some("team/")).await.expect("a list"), ["a"]);
    assert!(kv.list(root, Some("nobody")).await.expect("a list").is_empty());
    kv.remove(root, "team/a").await.expect("it may");
    let none = kv.read(root, "team/a", None).await;
    assert!(matches!(none, Err(VaultError::NotFound { .. })), "{none:?}");
    world.bao.stop().await;
}

#[tokio::test]
async fn names_with_metacharacters_are_names_and_nothing_else() {
    let world = World::start().await;
    let kv = world.vault.kv("secret");
    for name in ["a b", "a?list=true", "a#b", "%2e%2e", "';drop role x;--", "$(id)`id`", "ü€"] {
        let value = json!({ "name": name });
        kv.write(&world.root, name, &secret(value.clone()), Some(0)).await.expect(name);
        assert_eq!(found(&kv, &world, name, None).await.0, value);
    }
    assert_eq!(kv.list(&world.root, None).await.expect("a list").len(), 7);
    let database = world.vault.database("database");
    for role in ["../../sys/seal", "a/b", "..", "", "a\nb"] {
        let refused = database.credentials(&world.root, role).await;
        assert!(matches!(refused, Err(VaultError::Name { .. })), "{role}: {refused:?}");
    }
    world.bao.stop().await;
}

async fn postgres(world: &World) -> Postgres {
    let programs = Programs::find().expect("PostgreSQL is installed");
    let directory = world.directory.path().join("pg");
    let config = postgres::Config { programs, directory, launcher: None };
    Postgres::start(config).await.expect("it starts")
}

async fn with_database(world: &World, postgres: &Postgres) {
    world.write("sys/mounts/database", json!({ "type": "database" })).await;
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "connection_url": postgres.connection_url(), "allowed_roles": "*",
        "username": postgres.username, "password": postgres.password.expose_secret(),
    });
    world.write("database/config/pg", config).await;
    let create =
        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
    let role = json!({ "db_name": "pg", "creation_statements": [create], "default_ttl": 60, "max_ttl": 120 });
    world.write("database/roles/app", role).await;
}

#[tokio::test]
async fn a_database_login_has_a_lease_and_a_static_one_is_changed() {
    let world = World::start().await;
    let postgres = postgres(&world).await;
    with_database(&world, &postgres).await;
    let database = world.vault.database("database");
    let login = database.credentials(&world.root, "app").await.expect("a login");
    assert!(login.lease.ttl == MINUTE && login.lease.renewable, "{login:?}");
    assert!(!format!("{login:?}").contains(login.password.expose_secret()));
    let renewal = world.vault.renew_lease(&world.root, &login.lease.id, 5 * MINUTE).await;
    let renewal = renewal.expect("it may");
    assert!(renewal.ttl <= 2 * MINUTE && !renewal.warnings.is_empty(), "{renewal:?}");
    world.vault.revoke_lease(&world.root, &login.lease.id).await.expect("it may");
    let unknown = database.credentials(&world.root, "nobody").await;
    assert!(matches!(unknown, Err(VaultError::NotFound { .. })), "{unknown:?}");

    let made = database.credentials(&world.root, "app").await.expect("a user for the static role");
    let role = json!({ "db_name": "pg", "username": made.username, "rotation_period": "1h" });
    world.write("database/static-roles/fixed", role).await;
    let before = database.static_credentials(&world.root, "fixed").await.expect("a login");
    assert!(before.username == made.username && before.ttl <= 60 * MINUTE && !before.ttl.is_zero());
    database.rotate_role(&world.root, "fixed").await.expect("it may");
    let after = database.static_credentials(&world.root, "fixed").await.expect("a login");
    assert_ne!(before.password.expose_secret(), after.password.expose_secret());
    world.bao.stop().await;
    postgres.stop().await;
}

#[tokio::test]
async fn certificates_are_issued_signed_and_revoked() {
    let world = World::start().await;
    world.write("sys/mounts/pki", json!({ "type": "pki" })).await;
    let root = json!({ "common_name": "root.test", "key_type": "ec", "key_bits": 256 });
    world.write("pki/root/generate/internal", root).await;
    let role = json!({
        "allow_any_name": true, "allowed_uri_sans": "spiffe://hive.test/*", "key_type": "ec", "key_bits": 256,
        "require_cn": false, "ttl": "60s", "max_ttl": "1h",
    });
    world.write("pki/roles/app", role).await;
    let pki = world.vault.pki("pki");
    let mut wanted = CertificateRequest::named("a.test");
    wanted.alt_names = vec!["b.test".to_owned()];
    wanted.uri_sans = vec!["spiffe://hive.test/ns/a/sa/b".to_owned()];
    wanted.ttl = Some(5 * MINUTE);
    let issued = pki.issue(&world.root, "app", &wanted).await.expect("a certificate");
    assert!(issued.certificate.lease.is_none());
    let key = issued.private_key_pem.expose_secret();
    assert!(key.contains("PRIVATE KEY") && !format!("{issued:?}").contains(key));
    PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    assert_eq!(
        serial_number(&issued.certificate.certificate_pem),
        issued.certificate.serial_number
    );

    let own = rcgen::KeyPair::generate().expect("a key");
    let mut csr = rcgen::CertificateParams::new(vec!["c.test".to_owned()]).expect("names");
    csr.distinguished_name.push(rcgen::DnType::CommonName, "c.test");
    let csr = pem("CERTIFICATE REQUEST", csr.serialize_request(&own).expect("a request").der());
    let signed = pki.sign(&world.root, "app", &csr, &CertificateRequest::named("c.test")).await;
    let signed = signed.expect("a certificate");
    let refused = pki.sign(&world.root, "app", "no request", &wanted).await;
    assert!(matches!(refused, Err(VaultError::Rejected { .. })), "{refused:?}");
    let chain = pki.ca_chain().await.expect("anyone may ask");
    assert!(chain.contains(signed.chain_pem[0].trim()), "{chain}");

    pki.revoke(&world.root, &signed.serial_number).await.expect("it may");
    let list = pki.crl().await.expect("anyone may ask");
    let list = Pem::iter_from_buffer(list.as_bytes()).next().expect("one").expect("PEM");
    let (_, list) = x509_parser::parse_x509_crl(&list.contents).expect("a list");
    let revoked: Vec<_> =
        list.iter_revoked_certificates().map(|gone| gone.raw_serial_as_string()).collect();
    assert_eq!(revoked, [signed.serial_number]);
    world.bao.stop().await;
}

pub(super) fn pem(what: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
}

fn serial_number(pem: &str) -> String {
    let pem = Pem::iter_from_buffer(pem.as_bytes()).next().expect("one").expect("PEM");
    pem.parse_x509().expect("a certificate").raw_serial_as_string()
}

#[tokio::test]
async fn what_is_encrypted_and_signed_is_decrypted_and_verified() {
    let world = World::start().await;
    world.write("sys/mounts/transit", json!({ "type": "transit" })).await;
    world.write("transit/keys/box", json!({ "type": "aes256-gcm96" })).await;
    world.write("transit/keys/pen", json!({ "type": "ed25519" })).await;
    let (transit, root) = (world.vault.transit("transit"), &world.root);
    let plaintext = SecretSlice::from(b"\x00s3cr3t\xff".to_vec());
    let first = transit.encrypt(root, "box", &plaintext).await.expect("it may");
    assert!(first.starts_with("vault:v1:"));
    world.write("transit/keys/box/rotate", json!({})).await;
    let second = transit.rewrap(root, "box", &first).await.expect("it may");
    assert!(second.starts_with("vault:v2:"));
    for ciphertext in [&first, &second] {
        let opened = transit.decrypt(root, "box", ciphertext).await.expect("it may");
        assert_eq!(opened.expose_secret(), plaintext.expose_secret());
        assert!(!format!("{opened:?}").contains("s3cr3t"));
    }
    let spoilt = transit.decrypt(root, "box", "vault:v1:AAAA").await;
    assert!(matches!(spoilt, Err(VaultError::Rejected { .. })), "{spoilt:?}");
    let signature = transit.sign(root, "pen", b"message").await.expect("it may");
    assert!(transit.verify(root, "pen", b"message", &signature).await.expect("an answer"));
    assert!(!transit.verify(root, "pen", b"another", &signature).await.expect("an answer"));
    world.bao.stop().await;
}
