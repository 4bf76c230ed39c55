//! From a call to its answer: namespace, seal, quotas, token, policies, engine, wrapping.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::audit::Entry;
use super::cidr;
use super::connections::Peer;
use super::core::{Core, Token, TokenKey, token_key};
use super::engine::{Ask, Mount};
use super::fields;
use super::reply::{Fault, Reply};
use super::setup::Capability;

/// What is done to a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Delete,
    List,
    Patch,
    Read,
    Scan,
    Write,
}

impl Verb {
    pub(super) fn lists(self) -> bool {
        matches!(self, Self::List | Self::Scan)
    }
}

/// A request, read.
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Of the namespace: empty, or `ns1/`.
    pub(super) namespace: String,
    /// Below the namespace.
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    pub(super) token: Option<SecretString>,
    pub(super) body: Map<String, Value>,
    pub(super) wrap_ttl: Option<Duration>,
    /// Who is at the other end of the connection.
    pub(super) peer: Peer,
}

/// The caller, once its token is known to be good.
pub(super) struct Caller {
    pub(super) key: TokenKey,
    pub(super) token: Token,
    pub(super) secret: SecretString,
}

impl Call {
    pub(super) fn text(&self, member: &str) -> Option<&str> {
        fields::text(&self.body, member)
    }

    /// The path that is unique in the vault.
    pub(super) fn full_path(&self) -> String {
        format!("{}{}", self.namespace, self.path)
    }
}

/// Answers a call, and notes in the audit entry whose it was and what lease it was about.
pub(super) async fn answer(
    core: &Arc<Core>,
    call: &Call,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    if core.seal.is_sealed() && (call.verb, call.path.as_str()) == (Verb::Write, "sys/seal") {
        // It is what was asked for, and there is no token that could be looked at.
        return Ok(Reply::Empty);
    }
    core.seal.check(&call.path)?;
    if matches!(call.verb, Verb::Patch | Verb::Write) && call.path.ends_with('/') {
        return Err(Fault::new(400, "cannot write to a path ending in '/'"));
    }
    core.quotas.check(&call.full_path(), &call.path, core.clock.now())?;
    let found = core.mount(&call.namespace, &call.path);
    if let Some((mount, path)) = &found
        && mount.engine.is_open(path)
    {
        let reply = ask(core, mount, call, path, None, entry).await?;
        return core.wrap(call, reply).await;
    }
    let caller = authenticate_once(core, call)?;
    entry.accessor = Some(caller.token.accessor.clone());
    entry.spiffe_id.clone_from(&caller.token.spiffe_id);
    entry.role.clone_from(&caller.token.role);
    if !caller.token.bound_cidrs.is_empty() && !cidr::admit(&caller.token.bound_cidrs) {
        return Err(Fault::new(403, "permission denied"));
    }
    let outcome = as_caller(core, call, &caller, found, entry).await;
    if caller.token.num_uses < 0 {
        let _ = core.revoke_token(caller.key, "token_revoked").await;
    }
    core.wrap(call, outcome?).await
}

async fn as_caller(
    core: &Arc<Core>,
    call: &Call,
    caller: &Caller,
    found: Option<(Arc<Mount>, &str)>,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    let mount = found.as_ref();
    authorize(core, caller, call, mount.map(|(mount, path)| (&**mount, *path)))?;
    let (mount, path) = mount.ok_or_else(|| {
        let slash = if call.verb.lists() && !call.path.ends_with('/') { "/" } else { "" };
        Fault::no_route(&format!("{}{slash}", call.path))
    })?;
    ask(core, mount, call, path, Some(caller), entry).await
}

async fn ask(
    core: &Arc<Core>,
    mount: &Arc<Mount>,
    call: &Call,
    path: &str,
    caller: Option<&Caller>,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    let notes = Mutex::new(std::mem::take(entry));
    let ask = Ask { core, mount, call, path, caller, entry: &notes };
    let outcome = mount.engine.handle(ask).await;
    *entry = notes.into_inner().unwrap_or_else(PoisonError::into_inner);
    match outcome? {
        Reply::Login(login) => {
            entry.role = Some(login.role.clone());
            core.admit(mount, &call.path, *login, entry).await
        }
        reply => Ok(reply),
    }
}

/// The caller, without the use of its token being counted.
pub(super) fn authenticate(core: &Core, call: &Call) -> Result<Caller, Fault> {
    identified(call, |key| core.token(key))
}

fn authenticate_once(core: &Core, call: &Call) -> Result<Caller, Fault> {
    identified(call, |key| core.use_token(key))
}

fn identified(call: &Call, find: impl FnOnce(&TokenKey) -> Option<Token>) -> Result<Caller, Fault> {
    let secret = call.token.clone().ok_or_else(Fault::no_token)?;
    let key = token_key(secret.expose_secret());
    let token = find(&key).ok_or_else(Fault::no_token)?;
    Ok(Caller { key, token, secret })
}

fn authorize(
    core: &Core,
    caller: &Caller,
    call: &Call,
    found: Option<(&Mount, &str)>,
) -> Result<(), Fault> {
    // A token reaches into its own namespace and those below, and root is no exception.
    if !call.namespace.starts_with(&caller.token.namespace) && !is_own(call) {
        return Err(Fault::denied());
    }
    if caller.token.is_root() {
        return Ok(());
    }
    let path = ruled_path(core, caller, call);
    let granted = core.granted(&caller.token, &path);
    let needs_sudo = found.is_some_and(|(mount, path)| mount.engine.needs_sudo(path));
    if needs_sudo && !granted.contains(&Capability::Sudo) {
        return Err(Fault::denied());
    }
    let may = granted.contains(&wanted(core, call, found))
        && core.limits(&caller.token, &path).admit(call);
    if may { Ok(()) } else { Err(Fault::denied()) }
}

/// What a token does with itself goes to where the token is from.
fn is_own(call: &Call) -> bool {
    call.path.starts_with("auth/token/") && call.path.ends_with("-self")
}

/// The path that the rules are asked for.
fn ruled_path(core: &Core, caller: &Caller, call: &Call) -> String {
    let token = &caller.token;
    let full = if is_own(call) && !call.namespace.starts_with(&token.namespace) {
        format!("{}{}", token.namespace, call.path)
    } else {
        call.full_path()
    };
    if !call.verb.lists() {
        return full;
    }
    // A rule for the folder, with its slash or without.
    let bare = full.trim_end_matches('/');
    let folder = format!("{bare}/");
    if core.granted(token, &folder).is_empty() { bare.to_owned() } else { folder }
}

fn wanted(core: &Core, call: &Call, found: Option<(&Mount, &str)>) -> Capability {
    let creates = || found.is_some_and(|(mount, path)| !mount.engine.exists(core, path));
    match call.verb {
        Verb::Delete => Capability::Delete,
        Verb::List => Capability::List,
        Verb::Patch => Capability::Patch,
        Verb::Read => Capability::Read,
        Verb::Scan => Capability::Scan,
        Verb::Write if creates() => Capability::Create,
        Verb::Write => Capability::Update,
    }
}
