//! The crate vaultrs, a client in Rust: what it makes of both.

use std::collections::HashMap;
use std::fmt::Debug;

use serde_json::Value;
use vaultrs::api::auth::approle::requests::SetAppRoleRequest;
use vaultrs::api::database::requests::{PostgreSQLConnectionRequest, SetRoleRequest};
use vaultrs::api::kv2::requests::SetSecretRequestOptions;
use vaultrs::api::pki::requests as pki_requests;
use vaultrs::api::sys::requests::ListMountsRequest;
use vaultrs::api::token::requests::CreateTokenRequest;
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::{database, kv2, pki, sys, token, transit};

use crate::vault::recorder::Recorder;
use crate::vault::shape;
use crate::vault::stage::Stage;

/// What vaultrs says when it cannot read an answer.
const NO_ANSWER: &str = ": Err An error occurred with the request";

#[tokio::test(flavor = "multi_thread")]
async fn vaultrs_finds_the_same_in_both() {
    // Whoever installed one before installed the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stage = Stage::set("$postgres").await;
    let (openbao, ours) = stage.recorders();
    let (theirs, ours) = tokio::join!(Checks::of(&openbao), Checks::of(&ours));
    stage.strike().await;
    assert_eq!(theirs.0.len(), ours.0.len());
    let different: Vec<_> = theirs.0.iter().zip(&ours.0).filter(|(a, b)| a != b).collect();
    assert!(different.is_empty(), "{different:#?}");
    // OpenBao leaves out `performance_standby`, and so does ours; and neither has a success for what was deleted.
    let lost = ours.0.iter().filter_map(|line| line.strip_suffix(NO_ANSWER));
    assert_eq!(lost.collect::<Vec<_>>(), ["health", "kv deleted"], "{:#?}", ours.0);
}

/// What came of each call, in a line.
struct Checks(Vec<String>);

impl Checks {
    async fn of(server: &Recorder) -> Self {
        let settings = VaultClientSettingsBuilder::default()
            .address(&server.address)
            .token(server.root_token())
            .build()
            .expect("good settings");
        let client = VaultClient::new(settings).expect("a client");
        let mut checks = Self(Vec::new());
        checks.system(&client).await;
        checks.key_value(&client).await;
        checks.tokens(&client).await;
        checks.approle(&client).await;
        checks.database(&client, server).await;
        checks.pki(&client).await;
        checks.transit(&client).await;
        checks
    }

    fn note<T: Debug>(&mut self, name: &str, result: Result<T, ClientError>) {
        let result = match result {
            Err(ClientError::APIError { code, errors }) => format!("Err {code} {errors:?}"),
            Err(other) => format!("Err {other}"),
            Ok(value) => format!("Ok {value:?}"),
        };
        self.0.push(format!("{name}: {}", shape::masked(&result)));
    }

    async fn system(&mut self, client: &VaultClient) {
        let health = sys::health(client).await;
        self.note("health", health.map(|health| (health.initialized, health.sealed)));
        // Only the development mode of OpenBao has it.
        sys::mount::disable(client, "secret").await.expect("no mount is no error");
        self.note("mount", sys::mount::enable(client, "kv", "kv-v2", None).await);
        self.note("mount again", sys::mount::enable(client, "kv", "kv-v2", None).await);
        let mounts = sys::mount::list(client).await;
        self.note("mounts", mounts.map(|mounts| mounts["kv/"].mount_type.clone()));
        let text = "path \"kv/data/*\" { capabilities = [\"read\"] }";
        self.note("policy", sys::policy::set(client, "app", text).await);
        self.note("policy read", sys::policy::read(client, "app").await.map(|read| read.rules));
        let policies = sys::policy::list(client).await;
        self.note("policies", policies.map(|list| list.policies));
        self.note("auth", sys::auth::enable(client, "approle", "approle", None).await);
        let methods = sys::auth::list(client).await;
        self.note("auths", methods.map(|list| list["approle/"].mount_type.clone()));
        let endpoint = ListMountsRequest::builder().build().expect("a request");
        let wrapped = vaultrs::api::wrap(client, endpoint).await;
        let wrapped = wrapped.expect("it is wrapped");
        self.note("wrapped", wrapped.lookup(client).await.map(|found| found.creation_path));
        self.note("unwrapped", wrapped.unwrap(client).await.map(|mounts| mounts.len()));
        self.note("unwrapped again", wrapped.unwrap(client).await.map(|mounts| mounts.len()));
    }

    async fn key_value(&mut self, client: &VaultClient) {
        let data = HashMap::from([("a", "b")]);
        let set = kv2::set(client, "kv", "app", &data).await;
        self.note("kv set", set.map(|set| set.version));
        let options = SetSecretRequestOptions { cas: 7 };
        let set = kv2::set_with_options(client, "kv", "app", &data, options).await;
        self.note("kv cas", set.map(|set| set.version));
        self.note("kv read", kv2::read::<Value>(client, "kv", "app").await);
        self.note("kv nothing", kv2::read::<Value>(client, "kv", "nothing").await);
        self.note("kv list", kv2::list(client, "kv", "").await);
        let metadata = kv2::read_metadata(client, "kv", "app").await;
        self.note("kv metadata", metadata.map(|read| (read.current_version, read.max_versions)));
        self.note("kv delete", kv2::delete_latest(client, "kv", "app").await);
        self.note("kv deleted", kv2::read::<Value>(client, "kv", "app").await);
        self.note("kv undelete", kv2::undelete_versions(client, "kv", "app", vec![1]).await);
        self.note("kv undeleted", kv2::read::<Value>(client, "kv", "app").await);
        self.note("kv destroy", kv2::destroy_versions(client, "kv", "app", vec![1]).await);
        self.note("kv end", kv2::delete_metadata(client, "kv", "app").await);
    }

    async fn tokens(&mut self, client: &VaultClient) {
        let mut wanted = CreateTokenRequest::builder();
        wanted.policies(vec!["app".to_owned()]).ttl("10m");
        let made = token::new(client, Some(&mut wanted)).await.expect("a token");
        self.0.push(format!("token: {:?} {}", made.policies, made.lease_duration));
        let found = token::lookup(client, &made.client_token).await;
        self.note("token found", found.map(|found| (found.path, found.policies, found.orphan)));
        let renewed = token::renew(client, &made.client_token, Some("20m")).await;
        self.note("token renewed", renewed.map(|renewed| renewed.lease_duration));
        self.note("token revoked", token::revoke(client, &made.client_token).await);
        let found = token::lookup(client, &made.client_token).await;
        self.note("token gone", found.map(|found| found.path));
    }

    async fn approle(&mut self, client: &VaultClient) {
        use vaultrs::auth::approle::{login, role};
        let mut wanted = SetAppRoleRequest::builder();
        wanted.token_policies(vec!["app".to_owned()]).token_ttl("10m");
        self.note("approle", role::set(client, "approle", "app", Some(&mut wanted)).await);
        let id = role::read_id(client, "approle", "app").await.expect("an ID").role_id;
        let secret = role::secret::generate(client, "approle", "app", None).await;
        let secret = secret.expect("a secret ID");
        let auth = login(client, "approle", &id, &secret.secret_id).await;
        self.note("approle login", auth.map(|auth| (auth.policies, auth.lease_duration)));
        let auth = login(client, "approle", &id, "nonsense").await;
        self.note("approle refuses", auth.map(|auth| auth.policies));
    }

    async fn database(&mut self, client: &VaultClient, server: &Recorder) {
        self.note("database", sys::mount::enable(client, "database", "database", None).await);
        let postgres = server.value("vaultrs", "postgres");
        let url = format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@{postgres}/hive?sslmode=disable"
        );
        let mut wanted = PostgreSQLConnectionRequest::builder();
        wanted.plugin_name("postgresql-database-plugin").connection_url(url);
        wanted.username(server.value("vaultrs", "postgres_admin")).password("first-password");
        wanted.allowed_roles(vec!["*".to_owned()]).verify_connection(true);
        let made = database::connection::postgres(client, "database", "pg", Some(&mut wanted));
        self.note("connection", made.await);
        let statement =
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
        let mut wanted = SetRoleRequest::builder();
        wanted.db_name("pg").creation_statements(vec![statement.to_owned()]).default_ttl("1h");
        let role = database::role::set(client, "database", "app", Some(&mut wanted)).await;
        self.note("role", role);
        let role = database::role::read(client, "database", "app").await;
        self.note("role read", role.map(|role| (role.db_name, role.default_ttl)));
        self.note("roles", database::role::list(client, "database").await.map(|list| list.keys));
        let login = database::role::creds(client, "database", "app").await;
        self.note("login", login.map(|login| login.password.len()));
        let login = database::role::creds(client, "database", "nothing").await;
        self.note("no login", login.map(|login| login.password.len()));
    }

    async fn pki(&mut self, client: &VaultClient) {
        self.note("pki", sys::mount::enable(client, "pki", "pki", None).await);
        let mut wanted = pki_requests::GenerateRootRequest::builder();
        wanted.common_name("Test Root").ttl("100h").key_type("ec").key_bits(256_u64);
        let root = pki::cert::ca::generate(client, "pki", "internal", Some(&mut wanted)).await;
        self.note("root", root.map(|root| root.is_some()));
        let mut wanted = pki_requests::SetRoleRequest::builder();
        wanted.allowed_domains(vec!["example.test".to_owned()]).allow_subdomains(true);
        wanted.key_type("ec").key_bits(256_u64).ttl("1h");
        self.note("pki role", pki::role::set(client, "pki", "web", Some(&mut wanted)).await);
        let mut wanted = pki_requests::GenerateCertificateRequest::builder();
        wanted.common_name("a.example.test");
        let made = pki::cert::generate(client, "pki", "web", Some(&mut wanted)).await;
        let made = made.expect("a certificate");
        self.0.push(format!("certificate: {}", made.private_key_type));
        let revoked = pki::cert::revoke(client, "pki", &made.serial_number).await;
        self.note("revoked", revoked.map(|revoked| revoked.revocation_time > 0));
        self.note("certificates", pki::cert::list(client, "pki").await.map(|list| list.len()));
        let rotated = pki::cert::crl::rotate(client, "pki").await;
        self.note("rotated", rotated.map(|rotated| rotated.success));
    }

    async fn transit(&mut self, client: &VaultClient) {
        self.note("transit", sys::mount::enable(client, "transit", "transit", None).await);
        self.note("key", transit::key::create(client, "transit", "app", None).await);
        let sealed = transit::data::encrypt(client, "transit", "app", "aGVsbG8=", None).await;
        let sealed = sealed.expect("it is sealed").ciphertext;
        let opened = transit::data::decrypt(client, "transit", "app", &sealed, None).await;
        self.note("opened", opened.map(|opened| opened.plaintext));
        self.note("rotate", transit::key::rotate(client, "transit", "app").await);
        let again = transit::data::rewrap(client, "transit", "app", &sealed, None).await;
        self.note("rewrapped", again.map(|again| again.ciphertext[..9].to_owned()));
        let wrong = transit::data::decrypt(client, "transit", "app", "nonsense", None).await;
        self.note("not opened", wrong.map(|opened| opened.plaintext));
    }
}
