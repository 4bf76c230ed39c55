//! Namespaces: vaults within the vault.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::core::Core;
use super::engine::{Ask, Engine, Mount};
use super::fields;
use super::reply::{Fault, Reply, random_text, random_uuid};
use super::routes::Verb;
use super::tokens::object;

/// Names that mean something else in a path.
/// What the mount `sys` says of itself.
const SYSTEM: &str = "system endpoints used for control, policy and debugging";
const RESERVED: [&str; 6] = ["audit", "auth", "cubbyhole", "identity", "root", "sys"];

/// A namespace below the root.
#[derive(Clone)]
pub(super) struct Namespace {
    /// At the end of its tokens and leases.
    pub(super) id: String,
    pub(super) uuid: String,
    pub(super) custom_metadata: BTreeMap<String, String>,
}

impl Core {
    /// `.<id>`, and nothing for the root namespace.
    pub(super) fn namespace_suffix(&self, path: &str) -> String {
        self.state().namespaces.get(path).map(|own| format!(".{}", own.id)).unwrap_or_default()
    }

    /// The namespace that a header names and a path begins with, and the rest of the path.
    pub(super) fn namespace_of(&self, header: &str, path: &str) -> Result<(String, String), Fault> {
        let state = self.state();
        let mut own = String::new();
        for part in header.split('/').filter(|part| !part.is_empty()) {
            own = format!("{own}{part}/");
        }
        if own == "root/" {
            own.clear();
        }
        if !own.is_empty() && !state.namespaces.contains_key(&own) {
            return Err(Fault::new(404, "namespace not found"));
        }
        let mut rest = path;
        while let Some((first, after)) = rest.split_once('/') {
            let below = format!("{own}{first}/");
            if !state.namespaces.contains_key(&below) {
                break;
            }
            (own, rest) = (below, after);
        }
        Ok((own, rest.to_owned()))
    }

    /// Makes a namespace with what each has: its own `sys`, tokens, cubbyholes and default policy.
    pub(super) fn add_namespace(&self, path: &str) {
        if !path.is_empty() {
            let (id, uuid) = (random_text(6), random_uuid());
            let namespace = Namespace { id, uuid, custom_metadata: BTreeMap::new() };
            self.state().namespaces.insert(path.to_owned(), namespace);
        }
        self.state().policies.open(path, self.clock.wall());
        let own: [(&str, &str, &str, Arc<dyn Engine>); 4] = [
            (
                "auth/token/",
                "token",
                "token based credentials",
                Arc::new(super::token::Tokens::default()),
            ),
            (
                "cubbyhole/",
                "cubbyhole",
                "per-token private secret storage",
                Arc::new(super::kv_one::Cubbyhole),
            ),
            ("identity/", "identity", "identity store", Arc::new(super::sys::Identity)),
            ("sys/", "system", SYSTEM, Arc::new(super::sys::System)),
        ];
        for (mount, kind, description, engine) in own {
            let mut mount = Mount::new(path, mount, kind, Value::Null, engine);
            if !path.is_empty() {
                mount.kind = format!("ns_{kind}");
            }
            mount.config().description = description.to_owned();
            self.add_mount(Arc::new(mount));
        }
    }
}

/// `sys/namespaces/…`
pub(super) async fn handle(ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
    let own = &ask.call.namespace;
    if name.is_empty() {
        return if ask.verb().lists() { list(ask.core, own) } else { Err(Fault::unsupported()) };
    }
    if name.contains('/') {
        return Err(Fault::new(400, "namespace name cannot contain /"));
    }
    let path = format!("{own}{name}/");
    match ask.verb() {
        Verb::Delete => remove(ask, &path).await,
        Verb::Patch => change(ask, &path, true),
        Verb::Read => describe(ask.core, &path).map(Reply::data).ok_or_else(Fault::no_value),
        Verb::Write => {
            make(ask, name, &path)?;
            change(ask, &path, false)
        }
        Verb::List | Verb::Scan => Err(Fault::unsupported()),
    }
}

fn make(ask: &Ask<'_>, name: &str, path: &str) -> Result<(), Fault> {
    if RESERVED.contains(&name) {
        let text = format!("\"{name}/\" is a reserved path and cannot be used as a namespace name");
        return Err(Fault::new(400, text));
    }
    if !ask.core.state().namespaces.contains_key(path) {
        ask.core.add_namespace(path);
    }
    Ok(())
}

fn change(ask: &Ask<'_>, path: &str, merge: bool) -> Result<Reply, Fault> {
    let given = fields::pairs(&ask.call.body, "custom_metadata").unwrap_or_default();
    if let Some(namespace) = ask.core.state().namespaces.get_mut(path) {
        if !merge {
            namespace.custom_metadata.clear();
        }
        namespace.custom_metadata.extend(given);
    }
    describe(ask.core, path).map(Reply::data).ok_or_else(Fault::no_value)
}

fn describe(core: &Core, path: &str) -> Option<Value> {
    let namespace = core.state().namespaces.get(path).cloned()?;
    Some(json!({
        "custom_metadata": namespace.custom_metadata,
        "id": namespace.id,
        "locked": false,
        "path": path,
        "tainted": false,
        "uuid": namespace.uuid,
    }))
}

fn list(core: &Core, own: &str) -> Result<Reply, Fault> {
    let paths: Vec<String> = core.state().namespaces.keys().cloned().collect();
    let name = |path: &String| {
        let rest = path.strip_prefix(own)?;
        (rest.matches('/').count() == 1).then(|| rest.to_owned())
    };
    let children: Vec<_> = paths.iter().filter_map(name).collect();
    if children.is_empty() {
        return Err(Fault::no_value());
    }
    let facts = children
        .iter()
        .map(|name| (name.clone(), describe(core, &format!("{own}{name}")).unwrap_or_default()));
    let facts: Map<_, _> = facts.collect();
    Ok(Reply::data(json!({ "key_info": facts, "keys": children })))
}

async fn remove(ask: &Ask<'_>, path: &str) -> Result<Reply, Fault> {
    let core = ask.core;
    let known: Vec<String> = core.state().namespaces.keys().cloned().collect();
    if !known.iter().any(|own| own == path) {
        return Ok(Reply::warning(200, "requested namespace does not exist"));
    }
    if known.iter().any(|own| own.starts_with(path) && own != path) {
        return Err(Fault::new(400, "unable to delete namespace containing child namespaces"));
    }
    let mounts: Vec<_> = core.state().mounts.values().cloned().collect();
    for mount in mounts.iter().filter(|mount| mount.namespace == path) {
        super::mounts::unmount(core, mount).await;
    }
    let keys: Vec<_> = {
        let state = core.state();
        let own = state.tokens.iter().filter(|(_, token)| token.namespace == path);
        own.map(|(key, _)| *key).collect()
    };
    for key in keys {
        let _ = core.revoke_token(key, "token_revoked").await;
    }
    let mut state = core.state();
    state.policies.close(path);
    state.namespaces.remove(path);
    drop(state);
    Ok(Reply::data(Value::Object(object(json!({ "status": "in-progress" })))))
}
