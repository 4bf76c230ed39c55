//! `sys/mounts`, `sys/auth` and what `bao kv` asks first: which engine is where, and for how long it issues.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::clock;
use super::core::Core;
use super::engine::{Ask, CATALOG, Mount};
use super::fields;
use super::reply::{Fault, Reply, random_uuid};
use super::routes::Verb;
use super::terms::SYSTEM_TTL;
use super::tokens::object;

/// In every namespace, and nowhere else.
const OWN: [&str; 5] = ["auth/token/", "cubbyhole/", "identity/", "sys/", "auth/"];
const RUNNING: &str = "v2.7.2+builtin.bao";

/// `sys/mounts/…` and, with `prefix` `auth/`, `sys/auth/…`.
pub(super) async fn handle(ask: &Ask<'_>, prefix: &str, rest: &str) -> Result<Reply, Fault> {
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() {
        return match ask.verb() {
            Verb::Read => Ok(Reply::data_at_top(Value::Object(table(ask, prefix)))),
            Verb::List | Verb::Scan => Err(Fault::unsupported_path()),
            _ => Err(Fault::unsupported()),
        };
    }
    if let Some(name) = rest.strip_suffix("/tune") {
        return tune(ask, prefix, &format!("{name}/"));
    }
    let name = format!("{rest}/");
    match ask.verb() {
        Verb::Read => {
            let kind = if prefix.is_empty() { "secret engine mount" } else { "auth engine" };
            let text = format!("No {kind} at {name}");
            let mount = find(ask, prefix, &name).ok_or_else(|| Fault::new(400, text))?;
            Ok(Reply::data_at_top(describe(&mount)))
        }
        Verb::Write => mount(ask, prefix, &name),
        Verb::Delete => {
            if is_own(prefix, &name) {
                let text = match (prefix, name.as_str()) {
                    ("auth/", "token/") => "token credential backend cannot be disabled".to_owned(),
                    _ => format!("cannot unmount \"{name}\""),
                };
                return Err(Fault::new(400, text));
            }
            if let Some(mount) = find(ask, prefix, &name) {
                unmount(ask.core, &mount).await;
            }
            Ok(Reply::Empty)
        }
        _ => Err(Fault::unsupported()),
    }
}

fn is_own(prefix: &str, name: &str) -> bool {
    let path = format!("{prefix}{name}");
    OWN.iter().any(|own| path == *own || (*own != "auth/" && path.starts_with(own)))
        || (prefix.is_empty() && name.starts_with("auth/"))
}

fn find(ask: &Ask<'_>, prefix: &str, name: &str) -> Option<Arc<Mount>> {
    let path = format!("{}{prefix}{name}", ask.call.namespace);
    ask.core.state().mounts.get(&path).cloned()
}

fn table(ask: &Ask<'_>, prefix: &str) -> Map<String, Value> {
    let state = ask.core.state();
    let own = state.mounts.values().filter(|mount| {
        mount.namespace == ask.call.namespace && mount.is_auth() != prefix.is_empty()
    });
    own.map(|mount| (mount.path[prefix.len()..].to_owned(), describe(mount))).collect()
}

fn describe(mount: &Mount) -> Value {
    let config = mount.config();
    let mut limits = json!({
        "default_lease_ttl": config.default_ttl.as_secs(),
        "force_no_cache": false,
        "max_lease_ttl": config.max_ttl.as_secs(),
    });
    if let (true, Some(limits)) = (mount.is_auth(), limits.as_object_mut()) {
        limits.insert("token_type".to_owned(), json!("default-service"));
    }
    let passed_on = match mount.path.as_str() {
        "identity/" => Some("Authorization"),
        "sys/" => Some("Accept"),
        _ => None,
    };
    if let (Some(header), Some(limits)) = (passed_on, limits.as_object_mut()) {
        limits.insert("passthrough_request_headers".to_owned(), json!([header]));
    }
    let own = OWN.contains(&mount.path.as_str());
    let mut facts = json!({
        "accessor": mount.accessor,
        "config": limits,
        "deprecation_status": "supported",
        "description": config.description,
        "external_entropy_access": false,
        "local": mount.path == "cubbyhole/",
        "options": mount.options,
        "plugin_version": "",
        "running_plugin_version": RUNNING,
        "running_sha256": "",
        "seal_wrap": mount.path == "sys/",
        "type": mount.kind,
        "uuid": mount.uuid,
    });
    if let (true, Some(facts)) = (own, facts.as_object_mut()) {
        facts.remove("deprecation_status");
    }
    facts
}

fn mount(ask: &Ask<'_>, prefix: &str, name: &str) -> Result<Reply, Fault> {
    if is_own(prefix, name) {
        return Err(Fault::new(400, format!("cannot mount \"{name}\"")));
    }
    let kind = ask.text("type").filter(|kind| !kind.is_empty());
    let kind = kind.ok_or_else(|| Fault::new(400, "backend type must be specified as a string"))?;
    let given = ask.call.body.get("options");
    let mut options = object(given.cloned().unwrap_or_default());
    let kind = versioned(kind, &mut options);
    // Options that are null stay null, and are not the same as none: the command line sends them.
    let options = Some(options).filter(|own| !own.is_empty() || given != Some(&Value::Null));
    add(ask.core, &ask.call.namespace, &format!("{prefix}{name}"), kind, options)?;
    let mount = find(ask, prefix, name).ok_or_else(Fault::internal)?;
    configure(
        &mount,
        &ask.call.body,
        &object(ask.call.body.get("config").cloned().unwrap_or_default()),
    )?;
    Ok(Reply::Empty)
}

/// `kv-v2` is `kv` with an option.
fn versioned<'a>(kind: &'a str, options: &mut Map<String, Value>) -> &'a str {
    let version = match kind {
        "kv-v1" => "1",
        "kv-v2" => "2",
        _ => return kind,
    };
    options.insert("version".to_owned(), json!(version));
    "kv"
}

/// Mounts an engine of the catalogue.
pub(super) fn add(
    core: &Core,
    namespace: &str,
    path: &str,
    kind: &str,
    options: Option<Map<String, Value>>,
) -> Result<(), Fault> {
    let (prefix, name) = path.strip_prefix("auth/").map_or(("", path), |name| ("auth/", name));
    let taken = core.state().mounts.values().find_map(|mount| {
        let own = (mount.namespace == namespace).then_some(mount.path.as_str())?;
        (path.starts_with(own) || own.starts_with(path)).then(|| own[prefix.len()..].to_owned())
    });
    if let Some(taken) = taken.filter(|_| !name.is_empty()) {
        return Err(Fault::new(400, format!("path is already in use at {taken}")));
    }
    let fits = |(is_auth, own, _): &&(bool, &str, _)| *is_auth != prefix.is_empty() && *own == kind;
    let make = CATALOG.iter().find(fits).map(|(_, _, make)| make);
    let make =
        make.ok_or_else(|| Fault::new(400, format!("plugin not found in the catalog: {kind}")))?;
    let engine = make(&options.clone().unwrap_or_default());
    let options = options.map_or(Value::Null, Value::Object);
    let mount = Mount::new(namespace, path, kind, options, engine);
    core.add_mount(Arc::new(mount));
    Ok(())
}

/// Ends what was issued at a mount, and then the mount.
pub(super) async fn unmount(core: &Arc<Core>, mount: &Arc<Mount>) {
    core.state().mounts.remove(&mount.full_path());
    let leases: Vec<_> = {
        let state = core.state();
        let own = state.leases.iter().filter(|(_, lease)| Arc::ptr_eq(&lease.mount, mount));
        own.map(|(id, _)| id.clone()).collect()
    };
    for id in leases {
        core.end_lease(id, "lease_revoked").await;
    }
    let tokens: Vec<_> = {
        let state = core.state();
        let own = state.tokens.iter().filter(|(_, token)| {
            token.namespace == mount.namespace && token.path.starts_with(&mount.path)
        });
        own.map(|(key, _)| *key).collect()
    };
    for key in tokens {
        let _ = core.revoke_token(key, "token_revoked").await;
    }
    mount.engine.close().await;
}

fn tune(ask: &Ask<'_>, prefix: &str, name: &str) -> Result<Reply, Fault> {
    let mount = find(ask, prefix, name).ok_or_else(|| {
        let path = format!("{prefix}{name}");
        Fault::new(
            400,
            match ask.verb() {
                Verb::Write => format!("tune of path \"{path}\" failed: no mount entry found"),
                _ => format!("cannot fetch sysview for path \"{path}\""),
            },
        )
    })?;
    match ask.verb() {
        Verb::Read => Ok(Reply::data_at_top(tuned(&mount))),
        Verb::Write => {
            configure(&mount, &ask.call.body, &ask.call.body)?;
            Ok(Reply::Empty)
        }
        _ => Err(Fault::unsupported()),
    }
}

fn tuned(mount: &Mount) -> Value {
    let (default_ttl, max_ttl) = mount.limits();
    let mut facts = json!({
        "default_lease_ttl": default_ttl.as_secs(),
        "description": mount.config().description,
        "force_no_cache": false,
        "max_lease_ttl": max_ttl.as_secs(),
    });
    let Some(members) = facts.as_object_mut() else { return facts };
    if mount.is_auth() {
        members.insert("token_type".to_owned(), json!("default-service"));
    } else if mount.options.as_object().is_some_and(|options| !options.is_empty()) {
        members.insert("options".to_owned(), mount.options.clone());
    }
    facts
}

/// `description` is beside the limits where it is tuned, and above them where it is mounted.
fn configure(
    mount: &Mount,
    body: &Map<String, Value>,
    limits: &Map<String, Value>,
) -> Result<(), Fault> {
    let default_ttl = ttl(limits, "default_lease_ttl")?;
    let max_ttl = ttl(limits, "max_lease_ttl")?;
    let mut config = mount.config();
    let (default_ttl, max_ttl) =
        (default_ttl.unwrap_or(config.default_ttl), max_ttl.unwrap_or(config.max_ttl));
    let most = if max_ttl.is_zero() { SYSTEM_TTL } else { max_ttl };
    if default_ttl > most {
        let (given, most) = (default_ttl.as_secs(), most.as_secs());
        let text = format!(
            "backend max lease TTL of {most} is less than backend default lease TTL of {given}"
        );
        return Err(Fault::new(400, text));
    }
    (config.default_ttl, config.max_ttl) = (default_ttl, max_ttl);
    if let Some(description) = fields::text(body, "description") {
        config.description = description.to_owned();
    }
    Ok(())
}

fn ttl(limits: &Map<String, Value>, member: &str) -> Result<Option<Duration>, Fault> {
    match limits.get(member).and_then(Value::as_str) {
        Some("system") => Ok(Some(Duration::ZERO)),
        _ => fields::duration(limits, member),
    }
}

/// `sys/internal/ui/mounts/…`: which version of KV is this?
pub(super) fn facts(ask: &Ask<'_>, path: &str) -> Result<Reply, Fault> {
    let caller = super::routes::authenticate(ask.core, ask.call)?;
    let path = path.trim_matches('/');
    let folder = format!("{path}/");
    let mount = ask.core.mount(&ask.call.namespace, &folder);
    let may_know = |mount: &Mount| ask.core.may_touch(&caller.token, &mount.full_path());
    let Some((mount, _)) = mount.filter(|(mount, _)| may_know(mount)) else {
        let text = format!(
            "preflight capability check returned 403, please ensure client's policies grant access to path \"{path}/\""
        );
        return Err(Fault::new(403, text));
    };
    let mut facts = object(describe(&mount));
    facts.insert("path".to_owned(), json!(mount.path));
    Ok(Reply::data(Value::Object(facts)))
}

/// `sys/internal/ui/mounts`
pub(super) fn all_facts(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let caller = super::routes::authenticate(ask.core, ask.call)?;
    let visible = |prefix: &str| -> Map<String, Value> {
        let full = |name: &str| format!("{}{prefix}{name}", ask.call.namespace);
        let all = table(ask, prefix).into_iter();
        all.filter(|(name, _)| ask.core.may_touch(&caller.token, &full(name))).collect()
    };
    Ok(Reply::data(json!({ "auth": visible("auth/"), "secret": visible("") })))
}

/// `sys/remount`: the engine moves with all it holds; what was issued at the old place ends.
pub(super) async fn remount(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let member = |name| ask.text(name).map(|path| format!("{}/", path.trim_matches('/')));
    let (Some(from), Some(to)) = (member("from"), member("to")) else {
        return Err(Fault::new(400, "both 'from' and 'to' path must be specified as a string"));
    };
    let namespace = &ask.call.namespace;
    let old = ask.core.state().mounts.get(&format!("{namespace}{from}")).cloned();
    let old = old.ok_or_else(|| Fault::new(400, format!("no matching mount at \"{from}\"")))?;
    if ask.core.state().mounts.contains_key(&format!("{namespace}{to}")) {
        return Err(Fault::new(400, format!("path already in use at \"{to}\"")));
    }
    let engine = Arc::clone(&old.engine);
    let new = Mount::new(namespace, &to, &old.kind, old.options.clone(), engine);
    *new.config() = old.config().clone();
    unmount(ask.core, &old).await;
    ask.core.add_mount(Arc::new(new));
    let id = random_uuid();
    ask.core.state().note_move(&id, &from, &to);
    let mut reply = Reply::data_at_top(json!({ "migration_id": id }));
    if let Reply::Body(envelope) = &mut reply {
        let text = "Mount move has been queued. Progress will be reported in OpenBao's server log, tagged with the returned migration_id";
        envelope.warnings.push(text.to_owned());
    }
    tracing::debug!(from, to, at = clock::rfc3339(ask.wall()), "a mount has moved");
    Ok(reply)
}

/// `sys/remount/status/…`: whoever asks is told that it is done, for it was before it was answered.
pub(super) fn moved(ask: &Ask<'_>, id: &str) -> Result<Reply, Fault> {
    let state = ask.core.state();
    let found = state.moves.iter().find(|(own, ..)| own == id);
    let (_, from, to) = found.ok_or_else(Fault::no_value)?;
    let info = json!({ "source_mount": from, "target_mount": to, "status": "success" });
    Ok(Reply::data(json!({ "migration_id": id, "migration_info": info })))
}
