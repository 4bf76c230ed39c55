//! A development vault, as a process of its own, that lends logins of a real PostgreSQL; and a test that knows every
//! secret that was issued.

use crate::harness::{HIVE, Place, signal};
use crate::search::Secrets;
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::postgres::{Config, Postgres, Programs};
use hive_dev::vault::{Capability, Database, DatabaseRole, JwtRole, PathRule, Sensitive, Setup};
use hive_dev::witness::{Listener, VARIABLE, Witness};
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};

/// The Vault role of everybody here.
pub(crate) const ROLE: &str = "borrower";
const SPIFFE_PATH: &str = "/ns/test/sa/borrower";
/// Leases of less than half a minute are never renewed, only replaced.
const BRIEF_S: u64 = 6;

pub(crate) struct DevLender {
    pub(crate) place: Place,
    pub(crate) witness: Listener,
    pub(crate) authority: Authority,
    pub(crate) postgres: Postgres,
    /// Where the vault serves.
    pub(crate) address: String,
    vault: Child,
    /// Its end is the vault's.
    input: ChildStdin,
}

impl DevLender {
    pub(crate) async fn start(place: Place) -> Self {
        let witness = Listener::bind(place.path().join("witness")).expect("a listener");
        let told = Witness::connect(witness.path()).expect("it listens");
        let authority = authority(&place, told.clone()).await;
        let programs = Programs::find().expect("PostgreSQL is installed");
        let config = Config { programs, directory: place.path().join("pg"), launcher: None };
        let postgres = Postgres::start(config).await.expect("PostgreSQL starts");
        let password = postgres.password.expose_secret();
        told.note("db-admin", password).await.expect("the witness listens");
        let setup = setup(&place, &authority, &postgres);
        let mut vault = spawn_vault(&place, &witness);
        let mut input = vault.stdin.take().expect("a pipe");
        let line = serde_json::to_string(&setup).expect("it can be written") + "\n";
        input.write_all(line.as_bytes()).await.expect("it reads");
        let mut lines = BufReader::new(vault.stdout.take().expect("a pipe")).lines();
        let line = lines.next_line().await.expect("it can be read").expect("it starts");
        let facts = hive_runtime::ready::parse(&line).expect("it says where it serves");
        let address = facts["address"].clone();
        Self { place, witness, authority, postgres, address, vault, input }
    }

    /// `hive` as a borrower, in a directory of the test's own.
    pub(crate) fn hive(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.hive(arguments);
        command
            .current_dir(self.place.path())
            .env("SPIFFE_ENDPOINT_SOCKET", self.authority.endpoint())
            .env("VAULT_ADDR", &self.address)
            .env("HIVE_VAULT_ROLE", ROLE)
            .env("XDG_RUNTIME_DIR", self.place.tmp());
        command
    }

    /// Ends everything; what is left are files, and what to look for in them.
    pub(crate) async fn stop(self) -> (Place, Secrets) {
        let (place, secrets, status) = self.end(None).await;
        assert!(status.success(), "something is left");
        (place, secrets)
    }

    /// The same, but the vault dies; and how it did.
    pub(crate) async fn abort(self) -> (Place, Secrets, ExitStatus) {
        self.end(Some("ABRT")).await
    }

    async fn end(self, by: Option<&str>) -> (Place, Secrets, ExitStatus) {
        let Self { place, witness, authority, postgres, mut vault, input, .. } = self;
        match by {
            Some(by) => signal(by, vault.id().expect("it runs")),
            None => drop(input),
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), vault.wait()).await;
        let status = ended.expect("it ends").expect("it is ours");
        postgres.stop().await;
        authority.stop().await;
        (place, Secrets::of(&witness), status)
    }
}

/// Everybody here is the same borrower: this process, and `hive`.
async fn authority(place: &Place, witness: Witness) -> Authority {
    let mut config = AuthorityConfig::new(place.path().join("api.sock"));
    config.witness = witness;
    config.publish_ahead = Duration::ZERO;
    let authority = Authority::start(config).await.expect("the authority starts");
    let hive = PathBuf::from(HIVE).canonicalize().expect("it was built");
    for entry in [
        Entry::new(SPIFFE_PATH, [Selector::Path(hive)]),
        Entry::of_process(SPIFFE_PATH, std::process::id()),
    ] {
        authority.add_entry(entry).expect("an entry");
    }
    authority
}

fn spawn_vault(place: &Place, witness: &Listener) -> Child {
    let log = File::create(place.path().join("vault.log")).expect("a file");
    let mut command = place.hive(&["dev", "vault"]);
    command.env(VARIABLE, witness.path()).env("HIVE_LOG", "trace").current_dir(place.path());
    let mut command = allowing_cores(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("hive runs")
}

/// The command, started by somebody who has allowed core dumps.
pub(crate) fn allowing_cores(command: &Command) -> Command {
    let mut allowing = Command::new("sh");
    allowing.args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\""]);
    allowing.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => allowing.env(name, value),
            None => allowing.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        allowing.current_dir(directory);
    }
    allowing
}

fn setup(place: &Place, authority: &Authority, postgres: &Postgres) -> Setup {
    let domain = authority.trust_domain();
    let role = JwtRole {
        bound_audiences: vec![format!("vault.{domain}")],
        bound_claims_sub_glob: format!("spiffe://{domain}{SPIFFE_PATH}"),
        token_policies: vec![ROLE.to_owned()],
        token_ttl_s: 60,
        token_max_ttl_s: 3_600,
    };
    let seal = json!({ "key": format!("{:032x}", rand::random::<u128>()) });
    let seal = Sensitive::new(seal.as_object().expect("an object").clone());
    Setup {
        jwks_url: Some(authority.keys_url()),
        policies: BTreeMap::from([(ROLE.to_owned(), policy())]),
        jwt_roles: BTreeMap::from([(ROLE.to_owned(), role)]),
        kv: BTreeMap::from([("secret".to_owned(), [("release".to_owned(), seal)].into())]),
        database: Some(database(postgres)),
        audit_path: Some(place.path().join("vault-audit.log")),
        ..Setup::default()
    }
}

fn policy() -> Vec<PathRule> {
    use Capability::{List, Read, Sudo, Update};
    let rule = |path: &str, capabilities: &[Capability]| PathRule {
        path: path.to_owned(),
        capabilities: capabilities.to_vec(),
    };
    vec![
        rule("database/creds/*", &[Read]),
        rule("secret/data/release", &[Read]),
        rule("sys/leases/lookup", &[Update]),
        rule("sys/leases/lookup/*", &[List, Sudo]),
        rule("sys/leases/revoke", &[Update]),
    ]
}

fn database(postgres: &Postgres) -> Database {
    let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' \
        VALID UNTIL '{{expiration}}' IN ROLE ledger_writer";
    let role = |default_ttl_s| DatabaseRole {
        creation_statements: vec![create.to_owned()],
        revocation_statements: Vec::new(),
        default_ttl_s,
        max_ttl_s: 3_600,
    };
    Database {
        setup_statements: vec![
            "CREATE TABLE ledger (entry text)".to_owned(),
            "CREATE ROLE ledger_writer NOLOGIN; GRANT INSERT ON ledger TO ledger_writer".to_owned(),
        ],
        roles: BTreeMap::from([
            ("brief".to_owned(), role(BRIEF_S)),
            ("ledger".to_owned(), role(60)),
        ]),
        ..Database::within(postgres)
    }
}
