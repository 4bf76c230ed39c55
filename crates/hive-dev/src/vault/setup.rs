//! What a development vault is made of: one JSON document, handed over on a pipe and never written down.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::postgres::Postgres;

/// Everything a development vault knows when it starts.
///
/// It may hold secrets, so it travels on the standard input of the child as one line of JSON and is never stored.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Where to listen. Loopback only; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Serves over TLS as well, only if this is here.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Where the keys are that JWT-SVIDs are verified with: the auth method at the mount `jwt` is there only if this
    /// is here.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Named policies; the policy `default` exists anyway.
    #[serde(default)]
    pub policies: BTreeMap<String, Vec<PathRule>>,
    /// Roles of the JWT login at the mount `jwt`.
    #[serde(default)]
    pub jwt_roles: BTreeMap<String, JwtRole>,
    /// KV v2 mounts: name of the mount, then path, then the fields stored there.
    #[serde(default)]
    pub kv: BTreeMap<String, BTreeMap<String, Sensitive<Map<String, Value>>>>,
    /// The database engine, mounted at `database` only if this is here.
    #[serde(default)]
    pub database: Option<Database>,
    /// Where the audit log is appended, one JSON object per line; None writes none.
    #[serde(default)]
    pub audit_path: Option<PathBuf>,
    /// A token that may do everything and never ends, for tests that configure the vault over its API.
    #[serde(default)]
    pub danger_root_token: Option<Sensitive<String>>,
}

impl Default for Setup {
    /// Listens on a free port of loopback, knows nothing and admits nobody.
    fn default() -> Self {
        Self {
            listen: FREE,
            tls: None,
            jwks_url: None,
            policies: BTreeMap::new(),
            jwt_roles: BTreeMap::new(),
            kv: BTreeMap::new(),
            database: None,
            audit_path: None,
            danger_root_token: None,
        }
    }
}

impl Setup {
    /// One that admits the given root token: for tests.
    pub fn danger_root(token: &str) -> Self {
        let danger_root_token = Some(Sensitive::new(token.to_owned()));
        Self { danger_root_token, ..Self::default() }
    }
}

/// How the vault serves over TLS. A client may show a certificate of its own, which the auth method `cert` judges.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Where to listen. Loopback only; port 0 takes a free one.
    #[serde(default = "free")]
    pub listen: SocketAddr,
    /// Who the vault is. None makes a certificate for loopback, and an authority for nothing else:
    /// [`TlsEndpoint::ca_pem`](super::TlsEndpoint::ca_pem).
    #[serde(default)]
    pub identity: Option<TlsIdentity>,
}

/// A certificate that was given, with its key.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsIdentity {
    /// The certificate, and those between it and its authority, PEM.
    pub certificate_pem: String,
    /// The private key, PEM.
    pub key_pem: Sensitive<String>,
}

impl Default for Tls {
    /// At a free port of loopback, with a certificate of its own making.
    fn default() -> Self {
        Self { listen: FREE, identity: None }
    }
}

/// A free port of loopback.
const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn free() -> SocketAddr {
    FREE
}

/// What a policy grants on one path.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// `secret/data/release`, a prefix `secret/data/*`, or with `+` for one segment.
    pub path: String,
    /// What may be done there.
    pub capabilities: Vec<Capability>,
}

/// One thing a policy may grant, or, with `deny`, refuse.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are Vault's own")]
pub enum Capability {
    Create,
    Delete,
    Deny,
    List,
    Patch,
    Read,
    Scan,
    Sudo,
    Update,
}

/// Who may log in as what.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRole {
    /// The token's audience must be one of these.
    pub bound_audiences: Vec<String>,
    /// Glob on the token's subject, `*` only, which crosses `/` as it does in Vault.
    pub bound_claims_sub_glob: String,
    /// Policies of the login token, beside `default`.
    pub token_policies: Vec<String>,
    /// How long a login token lives without renewal.
    pub token_ttl_s: u64,
    /// How long it can live at most.
    pub token_max_ttl_s: u64,
}

/// A PostgreSQL server in which roles are issued.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// The login that may create roles.
    pub username: String,
    /// Its password.
    pub password: Sensitive<String>,
    /// Run once at start, in order; they must be repeatable.
    #[serde(default)]
    pub setup_statements: Vec<String>,
    /// Roles by name, issued at `database/creds/<name>`.
    #[serde(default)]
    pub roles: BTreeMap<String, DatabaseRole>,
}

impl Database {
    /// This server, with its administrator's login; nothing is set up, and there are no roles.
    pub fn within(postgres: &Postgres) -> Self {
        Self {
            host: postgres.host.clone(),
            port: postgres.port,
            database: postgres.database.clone(),
            username: postgres.username.clone(),
            password: Sensitive::new(postgres.password.expose_secret().to_owned()),
            setup_statements: Vec::new(),
            roles: BTreeMap::new(),
        }
    }
}

/// How one kind of database login is made, and for how long.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseRole {
    /// SQL with `{{name}}`, `{{password}}` and `{{expiration}}`.
    pub creation_statements: Vec<String>,
    /// SQL with `{{name}}`, run before the role is dropped; may be empty.
    #[serde(default)]
    pub revocation_statements: Vec<String>,
    /// How long a lease lasts without renewal.
    pub default_ttl_s: u64,
    /// How long it can last at most.
    pub max_ttl_s: u64,
}

/// A value that `Debug` does not show. Serialising it does show it: that is for the pipe to the child only.
#[derive(Clone, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Takes a value out of sight.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}
