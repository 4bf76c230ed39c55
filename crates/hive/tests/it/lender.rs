//! A real OpenBao that lends logins of a real PostgreSQL to whoever runs `hive` here.

use crate::harness::{HIVE, Place, wait_until};
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::openbao::OpenBao;
use hive_dev::postgres::{Config, Postgres, Programs};
use hive_dev::tools::program;
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

/// Leases of less than half a minute are never renewed, only replaced.
pub(crate) const LEASE_TTL: &str = "8s";
const SPIFFE_PATH: &str = "/ns/test/sa/borrower";

pub(crate) struct Lender {
    pub(crate) place: Place,
    runtime: Runtime,
    authority: Authority,
    bao: OpenBao,
    postgres: Postgres,
}

impl Lender {
    pub(crate) fn start() -> Self {
        let place = Place::new();
        let runtime = Runtime::new().expect("a runtime");
        let (authority, bao, postgres) = runtime.block_on(async {
            let config = AuthorityConfig::new(place.path().join("api.sock"));
            let authority = Authority::start(config).await.expect("the authority starts");
            let hive = PathBuf::from(HIVE).canonicalize().expect("it was built");
            let borrower = Entry::new(SPIFFE_PATH, [Selector::Path(hive)]);
            authority.add_entry(borrower).expect("an entry");
            let bao = program("bao").expect("`cargo xtask real` puts OpenBao there");
            let bao = OpenBao::dev(&bao, &place.path().join("bao")).await.expect("OpenBao starts");
            let programs = Programs::find().expect("PostgreSQL is installed");
            let directory = place.path().join("pg");
            let config = Config { programs, directory, launcher: None };
            let postgres = Postgres::start(config).await.expect("PostgreSQL starts");
            (authority, bao, postgres)
        });
        let lender = Self { place, runtime, authority, bao, postgres };
        lender.believe_the_authority();
        lender.lend_logins();
        lender
    }

    fn believe_the_authority(&self) {
        let domain = self.authority.trust_domain().to_owned();
        let policy = "path \"database/*\" { capabilities = [\"read\"] }\n\
             path \"sys/leases/lookup\" { capabilities = [\"update\"] }\n\
             path \"sys/leases/lookup/*\" { capabilities = [\"list\", \"sudo\"] }\n\
             path \"sys/leases/renew\" { capabilities = [\"update\"] }\n\
             path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n\
             path \"sys/leases/revoke-prefix/*\" { capabilities = [\"update\", \"sudo\"] }\n";
        let file = self.place.path().join("borrower.hcl");
        std::fs::write(&file, policy).expect("written");
        self.bao(&["policy", "write", "borrower", file.to_str().expect("UTF-8")]);
        self.bao(&["auth", "enable", "jwt"]);
        self.bao(&["write", "auth/jwt/config", &format!("jwks_url={}", self.authority.keys_url())]);
        self.bao(&[
            "write",
            "auth/jwt/role/borrower",
            "role_type=jwt",
            "user_claim=sub",
            &format!("bound_audiences=vault.{domain}"),
            &format!("bound_subject=spiffe://{domain}{SPIFFE_PATH}"),
            "token_policies=borrower",
            "token_ttl=1h",
        ]);
    }

    fn lend_logins(&self) {
        let (postgres, password) = (&self.postgres, self.postgres.password.expose_secret());
        self.sql("CREATE ROLE temporal LOGIN");
        self.bao(&["secrets", "enable", "database"]);
        self.bao(&[
            "write",
            "database/config/ledger",
            "plugin_name=postgresql-database-plugin",
            "allowed_roles=*",
            &format!("connection_url={}", postgres.connection_url()),
            &format!("username={}", postgres.username),
            &format!("password={password}"),
        ]);
        let create =
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
        for (role, ttl) in [("brief", LEASE_TTL), ("long", "1h")] {
            self.bao(&[
                "write",
                &format!("database/roles/{role}"),
                "db_name=ledger",
                &format!("creation_statements={create}"),
                &format!("default_ttl={ttl}"),
                "max_ttl=2h",
            ]);
        }
        self.bao(&[
            "write",
            "database/static-roles/temporal",
            "db_name=ledger",
            "username=temporal",
            "rotation_period=1h",
        ]);
    }

    /// `hive` as the borrower.
    pub(crate) fn hive(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.hive(arguments);
        command
            .env("SPIFFE_ENDPOINT_SOCKET", self.authority.endpoint())
            .env("VAULT_ADDR", &self.bao.address)
            .env("HIVE_VAULT_ROLE", "borrower")
            .env("XDG_RUNTIME_DIR", self.place.tmp());
        command
    }

    /// Logins that were lent and not given back.
    pub(crate) fn lent(&self) -> Vec<String> {
        let asked = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1";
        self.runtime.block_on(async {
            let mut root = self.connect(&self.postgres.username, password_of(&self.postgres)).await;
            sqlx::query_scalar(asked).fetch_all(&mut root).await.expect("the roles")
        })
    }

    /// Whether somebody can log in with these.
    pub(crate) fn lets_in(&self, username: &str, password: &str) -> bool {
        let options = self.postgres.server().username(username).password(password);
        self.runtime.block_on(PgConnection::connect_with(&options)).is_ok()
    }

    fn sql(&self, statement: &str) {
        self.runtime.block_on(async {
            let mut root = self.connect(&self.postgres.username, password_of(&self.postgres)).await;
            let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
            statement.execute(&mut root).await.expect("the administrator may do it");
        });
    }

    async fn connect(&self, username: &str, password: &str) -> PgConnection {
        let options = self.postgres.server().username(username).password(password);
        PgConnection::connect_with(&options).await.expect("it lets us in")
    }

    fn bao(&self, arguments: &[&str]) {
        let mut command = Command::new(program("bao").expect("it is there"));
        command.args(arguments).env("BAO_ADDR", &self.bao.address);
        command.env("BAO_TOKEN", self.bao.root_token.expose_secret());
        let output = command.output().expect("it can be run");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Nothing is lent any more, and nothing is left behind.
    pub(crate) fn stop(self) {
        wait_until("every login is given back", || self.lent().is_empty());
        self.runtime.block_on(async {
            self.bao.stop().await;
            self.postgres.stop().await;
            self.authority.stop().await;
        });
        let left: Vec<_> = std::fs::read_dir(self.place.tmp())
            .expect("the directory is there")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| !name.to_string_lossy().starts_with("neural-hive-leases-"))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn password_of(postgres: &Postgres) -> &str {
    postgres.password.expose_secret()
}
