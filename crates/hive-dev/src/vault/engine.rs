//! What a secrets engine or an auth method is: asked below its mount, through one narrow interface.
//!
//! # A new engine: one file and one line
//!
//! Write `vault/<kind>.rs` with a type that implements [`Engine`], and add its constructor to [`CATALOG`]; then
//! `sys/mounts/<path>` (or `sys/auth/<path>`) with that `type` mounts it. Everything around an engine is the core's:
//! namespaces, seal, quotas, tokens, policies (a write is `create` where [`Engine::exists`] says so, else `update`),
//! wrapping, audit, leases and their end.
//!
//! - [`Ask`] is one call: `ask.verb()`, `ask.path` below the mount, `ask.text("field")`, `ask.duration("ttl")?`,
//!   `ask.strings("list")`, `ask.call.query`, `ask.now()` and `ask.wall()` (the clock handed in, never the machine's).
//! - The answer is a [`Reply`] (`Reply::data`, `Reply::Empty`, [`Reply::login`]) or a [`Fault`] (status and texts).
//!   Use [`Fault::unsupported_path`] and [`Fault::unsupported`] for what you do not know.
//! - A secret under a lease is made through [`Ask::lease`]: the lease is there before the effect, the effect goes on if
//!   the caller hangs up, and your [`Engine::revoke`] is called when it ends, by whatever cause, until it succeeds.
//!   `lease.data` is what you handed in.
//! - An auth method answers its `login` (which [`Engine::is_open`] must name) with [`Reply::login`]; the core makes
//!   the token. Fields that all methods share (`token_ttl`, …) are read and shown by [`super::terms::TokenTerms`].
//! - Every secret handed out is first told to `ask.witness(kind, value).await?`.
//! - Configuration comes over the API alone; what a [`Setup`](super::Setup) gives is written through the same types.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt, ready};
use hive_lease::Moment;
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value};

use super::audit::Entry;
use super::core::{Core, Lease, Token};
use super::fields;
use super::reply::{Fault, Reply, random_hex, random_uuid};
use super::routes::{Call, Caller, Verb};
use super::terms::{Terms, TokenTerms};

/// A secrets engine or an auth method, at one mount.
pub(super) trait Engine: Send + Sync + 'static {
    /// Whether this path is answered without a token: a login, a CA certificate.
    fn is_open(&self, _path: &str) -> bool {
        false
    }

    /// Whether the path is for those with `sudo` alone.
    fn needs_sudo(&self, _path: &str) -> bool {
        false
    }

    /// Whether something is there already: a write there needs `update`, and `create` where nothing is.
    fn exists(&self, _core: &Core, _path: &str) -> bool {
        true
    }

    /// Answers a call. The caller's policies have been asked.
    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>>;

    /// Extends what a lease stands for until then. Called before the lease itself is extended.
    fn renew<'a>(
        &'a self,
        _lease: &'a Lease,
        _expires: SystemTime,
    ) -> BoxFuture<'a, Result<(), String>> {
        ready(Ok(())).boxed()
    }

    /// Ends what a lease stands for. What is gone already is no error. The text is told to who asked.
    fn revoke<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), String>> {
        ready(Ok(())).boxed()
    }

    /// What a token that this method vouched for may be renewed on. `ask` is the renewal, from whomever it comes.
    fn renew_login(&self, _ask: &Ask<'_>, _token: &Token) -> Result<Renewal, Fault> {
        Ok(Renewal::AsIssued)
    }

    /// The mount is gone, or the vault stops: let go of connections.
    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

/// Makes an engine from the `options` of its mount.
type Make = fn(&Map<String, Value>) -> Arc<dyn Engine>;

/// What can be mounted: whether it is an auth method, its type, and how it is made.
pub(super) const CATALOG: &[(bool, &str, Make)] = &[
    (true, "approle", |_| Arc::new(super::approle::AppRole::default())),
    (true, "cert", |_| Arc::new(super::cert::Cert::default())),
    (true, "jwt", |_| Arc::new(super::jwt::Jwt::default())),
    (true, "kubernetes", |_| Arc::new(super::kubernetes::Kubernetes::default())),
    (true, "oidc", |_| Arc::new(super::jwt::Jwt::default())),
    (false, "database", |_| Arc::new(super::database::Databases::default())),
    (false, "kv", super::kv::engine),
    (false, "pki", |_| Arc::new(super::pki::PkiEngine::default())),
    (false, "transit", |_| Arc::new(super::transit::Transit::default())),
];

/// What is mounted somewhere.
pub(super) struct Mount {
    /// Of the namespace: empty, or `ns1/` or `ns1/ns2/`.
    pub(super) namespace: String,
    /// Within the namespace, with the slash at the end: `secret/`, `auth/jwt/`.
    pub(super) path: String,
    pub(super) kind: String,
    pub(super) accessor: String,
    pub(super) uuid: String,
    pub(super) options: Value,
    pub(super) engine: Arc<dyn Engine>,
    config: Mutex<MountConfig>,
}

/// What `tune` changes.
#[derive(Clone, Debug, Default)]
pub(super) struct MountConfig {
    pub(super) description: String,
    /// Zero: the system's.
    pub(super) default_ttl: Duration,
    pub(super) max_ttl: Duration,
}

impl Mount {
    pub(super) fn new(
        namespace: &str,
        path: &str,
        kind: &str,
        options: Value,
        engine: Arc<dyn Engine>,
    ) -> Self {
        let prefix = if path.starts_with("auth/") { "auth_" } else { "" };
        Self {
            namespace: namespace.to_owned(),
            path: path.to_owned(),
            kind: kind.to_owned(),
            accessor: format!("{prefix}{kind}_{}", random_hex(8)),
            uuid: random_uuid(),
            options,
            engine,
            config: Mutex::default(),
        }
    }

    /// The path that is unique in the vault.
    pub(super) fn full_path(&self) -> String {
        format!("{}{}", self.namespace, self.path)
    }

    pub(super) fn config(&self) -> MutexGuard<'_, MountConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_auth(&self) -> bool {
        self.path.starts_with("auth/")
    }
}

/// One call, as an engine sees it.
pub(super) struct Ask<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) mount: &'a Arc<Mount>,
    pub(super) call: &'a Call,
    /// Below the mount: `data/app/one`.
    pub(super) path: &'a str,
    /// None where the path is open.
    pub(super) caller: Option<&'a Caller>,
    /// The line of the audit log that tells of this call.
    pub(super) entry: &'a Mutex<Entry>,
}

impl Ask<'_> {
    pub(super) fn verb(&self) -> Verb {
        self.call.verb
    }

    /// A member of the body that is text.
    pub(super) fn text(&self, member: &str) -> Option<&str> {
        self.call.text(member)
    }

    /// A member of the body that is a number of seconds or text such as `90s`; None where there is none.
    pub(super) fn duration(&self, member: &str) -> Result<Option<Duration>, Fault> {
        fields::duration(&self.call.body, member)
    }

    /// A member that is a list of text, or text with commas.
    pub(super) fn strings(&self, member: &str) -> Option<Vec<String>> {
        fields::strings(&self.call.body, member)
    }

    /// A member that is a boolean, or text that says one.
    pub(super) fn flag(&self, member: &str) -> Option<bool> {
        fields::flag(&self.call.body, member)
    }

    /// A member that is a whole number, or text that says one.
    pub(super) fn number(&self, member: &str) -> Result<Option<i64>, Fault> {
        fields::number(&self.call.body, member)
    }

    /// Who calls; where the path is open nobody does.
    pub(super) fn caller(&self) -> Result<&Caller, Fault> {
        self.caller.ok_or_else(Fault::no_token)
    }

    /// The path below `route`, not empty: `ask.below("role/")`.
    pub(super) fn below(&self, route: &str) -> Option<&str> {
        self.path.strip_prefix(route).filter(|rest| !rest.is_empty())
    }

    /// Monotonic.
    pub(super) fn now(&self) -> Moment {
        self.core.clock.now()
    }

    /// The time of day.
    pub(super) fn wall(&self) -> SystemTime {
        self.core.clock.wall()
    }

    /// Adds to the line of the audit log.
    pub(super) fn note(&self, change: impl FnOnce(&mut Entry)) {
        change(&mut self.entry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A secret that the witness did not hear of is not issued.
    pub(super) async fn witness(&self, kind: &str, value: &str) -> Result<(), Fault> {
        self.core.witness(kind, value).await
    }

    /// Issues a secret under a lease. `data` is kept with the lease for [`Engine::renew`] and [`Engine::revoke`]; it
    /// is not shown. `make` has the effect, is told when the lease expires, and gives the data of the answer.
    pub(super) async fn lease<F>(
        &self,
        terms: Terms,
        data: Map<String, Value>,
        make: impl FnOnce(SystemTime) -> F,
    ) -> Result<Reply, Fault>
    where
        F: Future<Output = Result<Value, Fault>> + Send + 'static,
    {
        self.core.issue(self, terms, data, make).await
    }
}

/// A login that an auth method vouches for.
pub(super) struct Login {
    /// Shown by the token: `jwt-<subject>`.
    pub(super) display_name: String,
    /// Who it is, for the entity: the same name at the same mount is the same entity.
    pub(super) alias: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) terms: TokenTerms,
    /// For the audit log.
    pub(super) spiffe_id: Option<String>,
    pub(super) role: String,
    /// What was shown, if that was a certificate.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

/// What an auth method says when a token of its own is to be renewed.
pub(super) enum Renewal {
    /// As it was issued.
    AsIssued,
    /// It lives on as it is, and nobody is told why.
    Nothing,
    /// On what its role says now.
    On(TokenTerms),
}

impl Renewal {
    /// On the terms of its role, which is called so, if that is still there.
    pub(super) fn of(terms: Option<TokenTerms>, role: &str) -> Result<Self, Fault> {
        let text = || format!("failed to renew entry: role {role} does not exist during renewal");
        terms.map(Self::On).ok_or_else(|| Fault::listed(500, &text()))
    }
}
