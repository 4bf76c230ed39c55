//! Each ill of a Vault that the doctor knows, brought about on a real OpenBao and on our development vault.

use crate::harness::{HIVE, Place, assert_status, wait_until};
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::openbao::OpenBao;
use hive_dev::postgres::{self, Postgres, Programs};
use hive_dev::proxy::{Fault, Proxy, Rule};
use hive_dev::tools;
use hive_dev::vault::{Setup, Vault};
use hive_dev::witness::Witness;
use hive_security::SecretJson;
use hive_security::clock::Clock;
use hive_security::vault::{VaultClient, VaultConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;

const ID: &str = "spiffe://doctor.hive.internal/ns/shop/sa/cart";
const NEEDS: [&str; 2] = ["--needs", "secret/data/cart:read"];

/// The vault that is examined: the real one, or the one for development.
enum Server {
    OpenBao(Box<OpenBao>),
    Ours(Vault),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    OpenBao,
    Ours,
}

const BOTH: [Kind; 2] = [Kind::OpenBao, Kind::Ours];

impl Server {
    async fn start(kind: Kind, directory: &Path) -> Self {
        match kind {
            Kind::OpenBao => {
                let program = tools::program("bao").expect("`cargo xtask real` puts it there");
                let bao = OpenBao::dev(&program, directory).await.expect("it starts");
                Self::OpenBao(Box::new(bao))
            }
            Kind::Ours => {
                let setup = Setup::danger_root("root-of-a-test");
                Self::Ours(Vault::start(setup, Witness::none()).await.expect("it starts"))
            }
        }
    }

    fn address(&self) -> &str {
        match self {
            Self::OpenBao(bao) => &bao.address,
            Self::Ours(vault) => &vault.address,
        }
    }

    fn root(&self) -> SecretString {
        match self {
            Self::OpenBao(bao) => bao.root_token.clone(),
            Self::Ours(_) => SecretString::from("root-of-a-test"),
        }
    }

    async fn stop(self) {
        match self {
            Self::OpenBao(bao) => bao.stop().await,
            Self::Ours(vault) => vault.stop().await.expect("nothing is left"),
        }
    }
}

/// A workload with an identity and a vault that knows it.
struct World {
    runtime: Runtime,
    place: Place,
    authority: Authority,
    server: Server,
    address: String,
    vault: VaultClient,
}

impl World {
    fn start(kind: Kind) -> Self {
        let (runtime, place) = (Runtime::new().expect("a runtime"), Place::new());
        let mut config = AuthorityConfig::new(place.path().join("api.sock"));
        config.trust_domain = Some("doctor.hive.internal".to_owned());
        let authority = runtime.block_on(Authority::start(config)).expect("it starts");
        let cart = Entry::new("/ns/shop/sa/cart", [Selector::Path(PathBuf::from(HIVE))]);
        authority.add_entry(cart).expect("an entry");
        let server = runtime.block_on(Server::start(kind, &place.path().join("vault")));
        let address = server.address().to_owned();
        let vault = VaultClient::new(VaultConfig::at(&address)).expect("loopback");
        let world = Self { runtime, place, authority, server, address, vault };
        world.write("sys/auth/jwt", json!({ "type": "jwt" }));
        world.trust(&world.authority.keys_url());
        world.role(&json!({}));
        let policy = r#"path "secret/data/cart" { capabilities = ["read"] }
            path "database/creds/*" { capabilities = ["read"] }"#;
        world.write("sys/policies/acl/cart", json!({ "policy": policy }));
        world
    }

    fn write(&self, path: &str, data: Value) {
        let (root, data) = (self.server.root(), SecretJson::new(data));
        let written = self.vault.write(&root, path, &data).await_on(self);
        written.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn trust(&self, keys_url: &str) {
        self.write("auth/jwt/config", json!({ "jwks_url": keys_url }));
    }

    fn trust_issuer(&self, issuer: &str) {
        let keys_url = self.authority.keys_url();
        self.write("auth/jwt/config", json!({ "jwks_url": keys_url, "bound_issuer": issuer }));
    }

    fn role(&self, change: &Value) {
        let mut role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_subject": ID, "token_ttl": 60,
            "bound_audiences": ["vault.doctor.hive.internal"], "token_policies": ["cart"],
        });
        for (member, value) in change.as_object().expect("an object") {
            role[member] = value.clone();
        }
        self.write("auth/jwt/role/cart", role);
    }

    /// The report of a doctor who is sent to this address.
    fn doctor(&self, address: &str, arguments: &[&str]) -> (bool, Value) {
        let socket = format!("unix://{}", self.authority.socket().display());
        let output = Command::new(HIVE)
            .args(["doctor", "--json"])
            .args(arguments)
            .env_clear()
            .env("TMPDIR", self.place.tmp())
            .env("SPIFFE_ENDPOINT_SOCKET", socket)
            .env("VAULT_ADDR", address)
            .output()
            .expect("hive can be run");
        let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        assert_status(&output, if report["ok"] == true { 0 } else { 1 });
        (report["ok"] == true, report)
    }

    /// The one check that fails, and what is said about it.
    fn ill(&self, address: &str, arguments: &[&str]) -> (String, String) {
        let (_, report) = self.doctor(address, arguments);
        let checks = report["checks"].as_array().expect("checks");
        let failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
        assert_eq!(failed.len(), 1, "{report:#}");
        assert!(!failed[0]["remedy"].as_str().expect("a remedy").is_empty());
        (failed[0]["name"].as_str().expect("a name").to_owned(), failed[0].to_string())
    }

    fn assert_ill(&self, role: &str, name: &str, said: &[&str]) {
        let arguments = [["--vault-role", role], NEEDS].concat();
        let (failed, all) = self.ill(&self.address, &arguments);
        assert_eq!(failed, name, "{all}");
        for part in said {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    fn stop(self) {
        self.runtime.block_on(self.server.stop());
    }
}

/// Waits for a call on the runtime of the world.
trait AwaitOn: Future + Sized {
    fn await_on(self, world: &World) -> Self::Output {
        world.runtime.block_on(self)
    }
}

impl<F: Future> AwaitOn for F {}

#[test]
fn a_vault_that_grants_what_is_needed_passes_every_check() {
    for kind in BOTH {
        let world = World::start(kind);
        let arguments = [["--vault-role", "cart"], NEEDS].concat();
        let (ok, report) = world.doctor(&world.address, &arguments);
        assert!(ok, "{report:#}");
        let checks = report["checks"].as_array().expect("checks");
        let names = checks.iter().filter_map(|check| check["name"].as_str());
        let names: Vec<_> = names.filter(|name| name.starts_with("Vault")).collect();
        assert_eq!(names, ["Vault", "Vault clock", "Vault login", "Vault policy"]);
        let accessors =
            world.vault.list(&world.server.root(), "auth/token/accessors").await_on(&world);
        assert_eq!(accessors.expect("a list").len(), 1, "the examination left a token behind");
        let (ok, report) = world.doctor(&world.address, &[]);
        assert!(ok && report.to_string().contains("name the role"), "{report:#}");
        world.stop();
    }
}

#[test]
fn a_role_that_is_missing_or_does_not_fit_is_told_apart() {
    for kind in BOTH {
        let world = World::start(kind);
        world.assert_ill("nobody", "Vault login", &["no such role", "nobody"]);
        world.role(&json!({ "bound_audiences": ["another"] }));
        world.assert_ill("cart", "Vault login", &["bound_audiences=vault.doctor.hive.internal"]);
        world.role(&json!({ "bound_subject": "spiffe://doctor.hive.internal/other" }));
        world.assert_ill("cart", "Vault login", &["bound_subject", "bao read auth/jwt/role/cart"]);
        world.role(&json!({ "bound_claims": { "team": "shop" } }));
        world.assert_ill("cart", "Vault login", &["bound_claims"]);
        world.role(&json!({}));
        world.trust_issuer("https://elsewhere.example");
        world.assert_ill("cart", "Vault login", &["bound_issuer", "bao read auth/jwt/config"]);
        let place = Place::new();
        let other = AuthorityConfig::new(place.path().join("other.sock"));
        let other = Authority::start(other).await_on(&world).expect("it starts");
        world.trust(&other.keys_url());
        world.assert_ill("cart", "Vault login", &["jwks_url"]);
        world.stop();
    }
}

#[test]
fn a_policy_that_is_too_narrow_is_shown_with_path_and_capability() {
    for kind in BOTH {
        let world = World::start(kind);
        world.role(&json!({ "token_policies": ["default"] }));
        let rule = r#"path \"secret/data/cart\" { capabilities = [\"read\"] }"#;
        world.assert_ill("cart", "Vault policy", &["read at secret/data/cart", rule]);
        world.role(&json!({}));
        let arguments = ["--vault-role", "cart", "--needs", "secret/data/cart:update"];
        let (name, all) = world.ill(&world.address, &arguments);
        assert!(name == "Vault policy" && all.contains("update at secret/data/cart"), "{all}");
        world.stop();
    }
}

#[test]
fn a_vault_that_is_sealed_or_away_is_named() {
    for kind in BOTH {
        let world = World::start(kind);
        world.write("sys/seal", json!({}));
        let (name, all) = world.ill(&world.address, &[]);
        assert!(name == "Vault" && all.contains("is sealed") && all.contains("unseal"), "{all}");
        let World { runtime, place, authority, server, address, vault } = world;
        runtime.block_on(server.stop());
        let server = runtime.block_on(Server::start(kind, &place.path().join("again")));
        let world = World { runtime, place, authority, server, address, vault };
        let (name, all) = world.ill(&world.address, &[]);
        assert!(name == "Vault" && all.contains("no answer from Vault"), "{all}");
        let (name, all) = world.ill("http://vault.example:8200", &[]);
        assert!(name == "Vault setting" && all.contains("plain http"), "{all}");
        world.stop();
    }
}

fn health(standby: bool, ahead_s: i64) -> Fault {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let health = json!({
        "initialized": true, "sealed": false, "standby": standby, "version": "2.7.2",
        "server_time_utc": i64::try_from(now).expect("not yet") + ahead_s,
    });
    Fault::status(200, &health.to_string())
}

#[test]
fn a_standby_that_does_not_forward_and_a_clock_that_is_wrong_are_named() {
    for kind in BOTH {
        let world = World::start(kind);
        let proxy = Proxy::before(&world.address, Clock::system()).await_on(&world);
        let proxy = proxy.expect("it listens");
        proxy.spoil(Rule::of("sys/health", health(true, 0)));
        proxy.spoil(Rule::of(
            "auth/jwt/login",
            Fault::redirect("http://127.0.0.1:1/v1/auth/jwt/login"),
        ));
        let (name, all) = world.ill(&proxy.address, &["--vault-role", "cart"]);
        assert!(name == "Vault login" && all.contains("does not forward"), "{all}");
        proxy.restore();
        for (ahead_s, said) in [(300, "5 min ahead of"), (-7300, "h behind")] {
            proxy.spoil(Rule::of("sys/health", health(false, ahead_s)));
            let (name, all) = world.ill(&proxy.address, &["--vault-role", "cart"]);
            assert!(
                name == "Vault clock" && (all.contains(said) || all.contains("4 min")),
                "{all}"
            );
            proxy.restore();
        }
        world.stop();
    }
}

fn with_database(world: &World) -> Postgres {
    let programs = Programs::find().expect("PostgreSQL is installed");
    let directory = world.place.path().join("pg");
    let config = postgres::Config { programs, directory, launcher: None };
    let postgres = Postgres::start(config).await_on(world).expect("it starts");
    world.write("sys/mounts/database", json!({ "type": "database" }));
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "connection_url": postgres.connection_url(), "allowed_roles": "*",
        "username": postgres.username, "password": postgres.password.expose_secret(),
    });
    world.write("database/config/pg", config);
    let create =
        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
    let role = json!({ "db_name": "pg", "creation_statements": [create], "default_ttl": 600, "max_ttl": 600 });
    world.write("database/roles/cart", role);
    postgres
}

#[test]
fn a_token_that_ends_before_its_lease_is_found_out() {
    for kind in BOTH {
        let world = World::start(kind);
        let postgres = with_database(&world);
        world.role(&json!({ "token_ttl": 60, "token_max_ttl": 90 }));
        let arguments = ["--vault-role", "cart", "--needs", "database/creds/cart:read"];
        let (name, all) = world.ill(&world.address, &arguments);
        assert!(name == "Vault lease" && all.contains("for 10 min"), "{all}");
        assert!(all.contains("after 90 s") || all.contains("after 89 s"), "{all}");
        assert!(all.contains("token_max_ttl"), "{all}");
        world.role(&json!({ "token_ttl": 60, "token_max_ttl": 3600 }));
        let (ok, report) = world.doctor(&world.address, &arguments);
        assert!(ok, "{report:#}");
        let missing = ["--vault-role", "cart", "--needs", "database/creds/nobody:read"];
        let (name, all) = world.ill(&world.address, &missing);
        assert!(name == "Vault lease" && all.contains("write the engine's role"), "{all}");
        // OpenBao ends the leases of a revoked token in the background.
        let root = world.server.root();
        wait_until("no lease of the examination is left", || {
            let leases = world.vault.list_leases(&root, "database/creds/cart").await_on(&world);
            leases.expect("a list").is_empty()
        });
        let World { runtime, server, .. } = world;
        runtime.block_on(async {
            server.stop().await;
            postgres.stop().await;
        });
    }
}
