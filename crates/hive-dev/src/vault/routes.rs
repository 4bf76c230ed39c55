//! Which call means what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::audit::Entry;
use super::core::{Core, Token, TokenKey, token_key};
use super::reply::{Fault, Reply};
use super::setup::Capability;
use super::{auth, clock, kv, leases};

/// What is done to a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Delete,
    List,
    Read,
    Write,
}

/// A request, read.
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Below `/v1/`.
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    pub(super) token: Option<SecretString>,
    pub(super) body: Map<String, Value>,
}

/// The caller, once its token is known to be good.
pub(super) struct Caller {
    pub(super) key: TokenKey,
    pub(super) token: Token,
    pub(super) secret: SecretString,
}

impl Call {
    pub(super) fn text(&self, member: &str) -> Option<&str> {
        self.body.get(member).and_then(Value::as_str)
    }
}

/// Answers a call, and notes in the audit entry whose it was and what lease it was about.
pub(super) async fn answer(
    core: &Arc<Core>,
    call: &Call,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    match (call.verb, call.path.as_str()) {
        (Verb::Read, "sys/health") => return Ok(health(core, call)),
        (Verb::Read, "sys/seal-status") => return Ok(seal_status(core)),
        (Verb::Read, "sys/init") => return Ok(bare(json!({ "initialized": true }))),
        (Verb::Read, "sys/leader") => {
            return Ok(bare(json!({ "ha_enabled": false, "is_self": false })));
        }
        (Verb::Write, "auth/jwt/login") => return auth::login(core, call, entry).await,
        _ => {}
    }
    let caller = authenticate(core, call)?;
    entry.accessor = Some(caller.token.accessor.clone());
    entry.spiffe_id = Some(caller.token.spiffe_id.clone());
    entry.role = Some(caller.token.role.clone());
    if let Some(mount) = call.path.strip_prefix("sys/internal/ui/mounts/") {
        return mount_facts(core, &caller, mount);
    }
    authorize(core, &caller, call)?;
    dispatch(core, &caller, call, entry).await
}

async fn dispatch(
    core: &Arc<Core>,
    caller: &Caller,
    call: &Call,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    match (call.verb, call.path.as_str()) {
        (Verb::Read | Verb::Write, "auth/token/lookup-self") => Ok(auth::lookup_self(caller)),
        (Verb::Write, "auth/token/renew-self") => auth::renew_self(core, caller, call),
        (Verb::Write, "auth/token/revoke-self") => Ok(auth::revoke_self(core, caller).await),
        (Verb::Write, "sys/capabilities-self") => Ok(capabilities_self(core, caller, call)),
        (Verb::Write, "sys/leases/lookup") => leases::lookup(core, call, entry),
        (Verb::Write, path) if is_or_below(path, "sys/leases/renew") => {
            leases::renew(core, call, entry).await
        }
        (Verb::Write, path) if is_or_below(path, "sys/leases/revoke") => {
            leases::revoke(core, call, entry).await
        }
        (Verb::Read, path) if core.database.is_some() && path.starts_with("database/creds/") => {
            leases::issue(core, caller, call, entry).await
        }
        (_, path) => match path.split_once('/') {
            Some((mount, rest)) if core.state().kv.contains_key(mount) => {
                key_value(core, call, mount, rest).await
            }
            _ => Err(Fault::no_route(path)),
        },
    }
}

fn is_or_below(path: &str, route: &str) -> bool {
    path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn authenticate(core: &Core, call: &Call) -> Result<Caller, Fault> {
    let secret = call.token.clone().ok_or_else(Fault::no_token)?;
    let key = token_key(secret.expose_secret());
    let token = core.token(&key).ok_or_else(Fault::no_token)?;
    Ok(Caller { key, token, secret })
}

fn authorize(core: &Core, caller: &Caller, call: &Call) -> Result<(), Fault> {
    let granted = |path: &str| core.policies.capabilities(&caller.token.policies, path);
    let (mut granted_here, wanted) = (granted(&call.path), wanted(core, call));
    if call.verb == Verb::List && granted_here.is_empty() {
        granted_here = granted(&format!("{}/", call.path));
    }
    // A lease may be named in the path; the right is the one to the call.
    for call_path in ["sys/leases/renew", "sys/leases/revoke"] {
        if granted_here.is_empty() && is_or_below(&call.path, call_path) {
            granted_here = granted(call_path);
        }
    }
    if granted_here.contains(&wanted) { Ok(()) } else { Err(Fault::denied()) }
}

fn wanted(core: &Core, call: &Call) -> Capability {
    match call.verb {
        Verb::Delete => Capability::Delete,
        Verb::List => Capability::List,
        Verb::Read => Capability::Read,
        Verb::Write if creates(core, &call.path) => Capability::Create,
        Verb::Write => Capability::Update,
    }
}

/// Only KV can tell a first write from a later one.
fn creates(core: &Core, path: &str) -> bool {
    let Some((mount, rest)) = path.split_once('/') else { return false };
    let Some(path) = rest.strip_prefix("data/") else { return false };
    core.state().kv.get(mount).is_some_and(|kv| !kv.holds(path))
}

async fn key_value(core: &Core, call: &Call, mount: &str, rest: &str) -> Result<Reply, Fault> {
    let (kind, path) = rest.split_once('/').unwrap_or((rest, ""));
    if (call.verb, kind) == (Verb::Read, "data") {
        return read_value(core, call, mount, path).await;
    }
    let now = SystemTime::now();
    let mut state = core.state();
    let Some(kv) = state.kv.get_mut(mount) else { return Err(Fault::no_route(&call.path)) };
    match (call.verb, kind) {
        (Verb::Write, "data") => return write_value(kv, call, path, now),
        (Verb::Read, "metadata") => return kv.metadata(path).map(Reply::data),
        (Verb::List, "metadata") => return kv.list(path).map(Reply::data),
        (Verb::Delete, "data") => kv.delete(path, &[], now),
        (Verb::Delete, "metadata") => kv.forget(path),
        (Verb::Write, "delete") => kv.delete(path, &versions(call), now),
        (Verb::Write, "destroy") => kv.destroy(path, &versions(call)),
        (Verb::Write, "undelete") => kv.undelete(path, &versions(call)),
        (_, "data" | "delete" | "destroy" | "metadata" | "undelete") => {
            return Err(Fault::unsupported());
        }
        _ => return Err(Fault::no_route(&call.path)),
    }
    Ok(Reply::Empty)
}

async fn read_value(core: &Core, call: &Call, mount: &str, path: &str) -> Result<Reply, Fault> {
    let version = call.query.get("version").and_then(|text| text.parse().ok());
    let read = |kv: &kv::Kv| kv.read(path, version);
    let data = core.state().kv.get(mount).map_or_else(|| Err(Fault::no_value()), read)?;
    for value in data["data"].as_object().into_iter().flat_map(|fields| fields.values()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        witness(core, "kv", &text).await?;
    }
    Ok(Reply::data(data))
}

fn write_value(kv: &mut kv::Kv, call: &Call, path: &str, now: SystemTime) -> Result<Reply, Fault> {
    let Some(fields) = call.body.get("data").and_then(Value::as_object) else {
        return Err(Fault::new(400, "no data provided"));
    };
    let cas =
        call.body.get("options").and_then(|options| options.get("cas")).and_then(Value::as_u64);
    kv.write(path, fields.clone(), cas, now).map(Reply::data)
}

fn versions(call: &Call) -> Vec<u64> {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let list = call.body.get("versions").and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(number).collect()).unwrap_or_default()
}

fn capabilities_self(core: &Core, caller: &Caller, call: &Call) -> Reply {
    let paths = call.body.get("paths").and_then(Value::as_array).cloned().unwrap_or_default();
    let paths = paths.iter().chain(call.body.get("path")).filter_map(Value::as_str);
    let facts: Map<_, _> = paths
        .map(|path| match core.policies.capabilities(&caller.token.policies, path).as_slice() {
            [] => (path.to_owned(), json!(["deny"])),
            granted => (path.to_owned(), json!(granted)),
        })
        .collect();
    Reply::data(Value::Object(facts))
}

/// What `bao kv` asks before it does anything: which version of KV is this?
fn mount_facts(core: &Core, caller: &Caller, path: &str) -> Result<Reply, Fault> {
    let mount = path.split('/').next().unwrap_or_default();
    let (kind, options) = match mount {
        "database" if core.database.is_some() => ("database", Value::Null),
        kv if core.state().kv.contains_key(kv) => ("kv", json!({ "version": "2" })),
        _ => ("", Value::Null),
    };
    if kind.is_empty() || !core.policies.touch_mount(&caller.token.policies, &format!("{mount}/")) {
        let text = format!(
            "preflight capability check returned 403, please ensure client's policies grant access to path \"{mount}/\""
        );
        return Err(Fault::new(403, text));
    }
    Ok(Reply::data(json!({
        "accessor": format!("{kind}_{mount}"),
        "config": { "default_lease_ttl": 0, "force_no_cache": false, "max_lease_ttl": 0 },
        "description": "",
        "local": false,
        "options": options,
        "path": format!("{mount}/"),
        "seal_wrap": false,
        "type": kind,
    })))
}

fn health(core: &Core, call: &Call) -> Reply {
    let status = call.query.get("activecode").and_then(|code| code.parse().ok()).unwrap_or(200);
    let unix =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let body = json!({
        "initialized": true,
        "sealed": false,
        "standby": false,
        "performance_standby": false,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": unix,
        "version": version(),
        "cluster_name": CLUSTER,
        "cluster_id": core.cluster_id,
    });
    Reply::Bare { status, body }
}

const CLUSTER: &str = "hive-dev";

/// Clients compare versions, so it begins with a number; the rest says what it is.
fn version() -> String {
    format!("{}+hive-dev", env!("CARGO_PKG_VERSION"))
}

fn seal_status(core: &Core) -> Reply {
    bare(json!({
        "type": "shamir",
        "initialized": true,
        "sealed": false,
        "t": 1,
        "n": 1,
        "progress": 0,
        "nonce": "",
        "version": version(),
        "build_date": clock::rfc3339(SystemTime::UNIX_EPOCH),
        "migration": false,
        "cluster_name": CLUSTER,
        "cluster_id": core.cluster_id,
        "recovery_seal": false,
        "storage_type": "inmem",
    }))
}

fn bare(body: Value) -> Reply {
    Reply::Bare { status: 200, body }
}

/// A secret that the witness did not hear of is not issued.
pub(super) async fn witness(core: &Core, kind: &str, value: &str) -> Result<(), Fault> {
    core.witness.note(kind, value).await.map_err(|error| {
        tracing::error!(%error, "a secret was not issued");
        Fault::new(500, "internal error")
    })
}
