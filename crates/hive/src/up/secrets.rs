//! What the development vault holds and grants: the same shape that an operator gives to a real one.

use super::Failure;
use hive_api::names;
use hive_dev::postgres::Postgres;
use hive_dev::vault::{Capability, Database, DatabaseRole, JwtRole, PathRule, Sensitive, Setup};
use hive_plan::TicketKind;
use rand::Rng;
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A ticket's token lives as long as its worker renews it, and no longer than the longest ticket.
const TOKEN_TTL_S: u64 = 60;
const TOKEN_TTL_MAX_S: u64 = 24 * 3_600;

/// The kinds whose executors may ask for credentials, with what they may read.
const GRANTS: [(TicketKind, &[&str]); 6] = [
    (TicketKind::Build, &[]),
    (TicketKind::Deploy, &["secret/data/release", "database/creds/releases"]),
    (TicketKind::Execute, &[]),
    (TicketKind::Query, &["database/creds/releases"]),
    (TicketKind::Test, &[]),
    (TicketKind::Validate, &[]),
];

const GROUP_ROLE: &str = "hive_releases";

/// Where the vault listens, whom it believes, and where it keeps its audit log.
pub(super) struct Place {
    pub(super) listen: SocketAddr,
    pub(super) keys_url: String,
    pub(super) trust_domain: String,
    pub(super) audit_path: PathBuf,
}

/// The vault's setup as one line of JSON, secrets included: it goes through a pipe and nowhere else.
pub(super) fn setup(place: Place, database: Option<&Postgres>) -> Result<SecretString, Failure> {
    let audience = format!("{}.{}", names::VAULT.name, place.trust_domain);
    let workers = names::WORKERS.id_pattern(&place.trust_domain);
    let workers = format!("{}*", workers.trim_end_matches("/**"));
    let role = |kind: TicketKind| JwtRole {
        bound_audiences: vec![audience.clone()],
        bound_claims_sub_glob: workers.clone(),
        token_policies: vec![names::ticket_role(kind)],
        token_ttl_s: TOKEN_TTL_S,
        token_max_ttl_s: TOKEN_TTL_MAX_S,
    };
    let setup = Setup {
        listen: place.listen,
        tls: None,
        jwks_url: Some(place.keys_url),
        policies: GRANTS
            .iter()
            .map(|(kind, paths)| (names::ticket_role(*kind), policy(paths)))
            .collect(),
        jwt_roles: GRANTS
            .iter()
            .map(|(kind, _)| (names::ticket_role(*kind), role(*kind)))
            .collect(),
        kv: BTreeMap::from([("secret".to_owned(), seeds())]),
        database: database.map(self::database),
        audit_path: Some(place.audit_path),
        danger_root_token: None,
    };
    serde_json::to_string(&setup)
        .map(SecretString::from)
        .map_err(|error| Failure::error(format!("the vault's setup cannot be written: {error}")))
}

/// Reading the paths, and giving back at once what was borrowed: `default` does not grant the latter.
fn policy(paths: &[&str]) -> Vec<PathRule> {
    let rule =
        |path: &str, capability| PathRule { path: path.to_owned(), capabilities: vec![capability] };
    paths
        .iter()
        .map(|path| rule(path, Capability::Read))
        .chain([rule("sys/leases/revoke", Capability::Update)])
        .collect()
}

/// A key that is made at start and forgotten at the end.
fn seeds() -> BTreeMap<String, Sensitive<Map<String, Value>>> {
    let key: [u8; 32] = rand::rng().random();
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = Map::from_iter([("key".to_owned(), Value::String(key))]);
    BTreeMap::from([("release".to_owned(), Sensitive::new(fields))])
}

fn database(postgres: &Postgres) -> Database {
    Database {
        setup_statements: setup_statements(),
        roles: BTreeMap::from([("releases".to_owned(), releases_role())]),
        ..Database::within(postgres)
    }
}

/// The ledger of releases, and the group that may write to it: granting to the group keeps every issued role free
/// of grants of its own, so that it can always be dropped.
fn setup_statements() -> Vec<String> {
    vec![
        "CREATE TABLE IF NOT EXISTS releases (
            ticket_id text PRIMARY KEY, plan_id text NOT NULL, release text NOT NULL,
            digest text NOT NULL, deployed_by text NOT NULL,
            deployed_at timestamptz NOT NULL DEFAULT now())"
            .to_owned(),
        format!(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{GROUP_ROLE}') THEN
                CREATE ROLE {GROUP_ROLE} NOLOGIN; END IF; END $$"
        ),
        format!("GRANT SELECT, INSERT ON releases TO {GROUP_ROLE}"),
    ]
}

fn releases_role() -> DatabaseRole {
    DatabaseRole {
        creation_statements: vec![format!(
            "CREATE ROLE \"{{{{name}}}}\" LOGIN PASSWORD '{{{{password}}}}' \
             VALID UNTIL '{{{{expiration}}}}' IN ROLE {GROUP_ROLE}"
        )],
        revocation_statements: Vec::new(),
        default_ttl_s: TOKEN_TTL_S,
        max_ttl_s: TOKEN_TTL_MAX_S,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn place() -> Place {
        Place {
            listen: "127.0.0.1:0".parse().expect("an address"),
            keys_url: "http://127.0.0.1:1/keys".to_owned(),
            trust_domain: "dev.test".to_owned(),
            audit_path: PathBuf::from("/nowhere/audit.log"),
        }
    }

    #[test]
    fn without_a_database_the_engine_is_not_mounted() {
        let setup = setup(place(), None).expect("it can be written");
        let setup: Setup = serde_json::from_str(setup.expose_secret()).expect("it can be read");
        assert!(setup.database.is_none());
        assert_eq!(setup.jwt_roles["ticket-deploy"].bound_audiences, ["vault.dev.test"]);
    }

    #[test]
    fn only_a_deploy_may_read_the_signing_key() {
        let setup = setup(place(), None).expect("it can be written");
        let setup: Setup = serde_json::from_str(setup.expose_secret()).expect("it can be read");
        let readers: Vec<_> = setup
            .policies
            .iter()
            .filter(|(_, rules)| rules.iter().any(|rule| rule.path == "secret/data/release"))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(readers, ["ticket-deploy"]);
    }

    #[test]
    fn every_stack_has_a_signing_key_of_its_own() {
        let key = || seeds()["release"].expose()["key"].clone();
        assert_ne!(key(), key());
    }
}
