//! The KV engines over the API: version 2, and version 1 where a mount does not ask for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use super::clock;
use super::core::Core;
use super::engine::{Ask, Engine};
use super::fields;
use super::kv_one::KvOne;
use super::kv_store::{Description, Kv};
use super::reply::{Fault, Reply};
use super::routes::Verb;

/// The version that the options of a mount ask for.
pub(super) fn engine(options: &Map<String, Value>) -> Arc<dyn Engine> {
    match options.get("version").map(fields::shown).as_deref() {
        Some("2") => Arc::new(KvTwo::default()),
        _ => Arc::new(KvOne::default()),
    }
}

/// KV version 2.
#[derive(Default)]
pub(super) struct KvTwo(Mutex<Kv>);

impl KvTwo {
    pub(super) fn kv(&self) -> MutexGuard<'_, Kv> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for KvTwo {
    fn exists(&self, _core: &Core, path: &str) -> bool {
        let below = path.strip_prefix("data/").or_else(|| path.strip_prefix("metadata/"));
        below.is_none_or(|path| self.kv().holds(path))
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            let (kind, path) = ask.path.split_once('/').unwrap_or((ask.path, ""));
            match (ask.verb(), kind) {
                (Verb::Write | Verb::Patch, "data" | "metadata")
                    if path.is_empty() || path.ends_with('/') =>
                {
                    Err(Fault::new(400, "cannot write to a path ending in '/'"))
                }
                (Verb::Read, _) if ask.path == "data" => Err(root_of_the_mount()),
                (Verb::Read, "data") => self.read(&ask, path).await,
                (Verb::List | Verb::Scan, "metadata" | "detailed-metadata") => {
                    list(&self.kv(), &ask, kind, path)
                }
                _ => change(&mut self.kv(), &ask, kind, path),
            }
        }
        .boxed()
    }
}

impl KvTwo {
    async fn read(&self, ask: &Ask<'_>, path: &str) -> Result<Reply, Fault> {
        let data = self.kv().read(path, version(ask)?, ask.wall())?;
        for value in data["data"].as_object().into_iter().flat_map(|fields| fields.values()) {
            ask.witness("kv", &fields::shown(value)).await?;
        }
        Ok(Reply::data(data))
    }
}

fn root_of_the_mount() -> Fault {
    let text = "Non-listing operations on the root of a K/V v2 mount are not supported.";
    Fault { warnings: vec![text.to_owned()], ..Fault::no_value() }
}

fn version(ask: &Ask<'_>) -> Result<Option<u64>, Fault> {
    let given = ask.number("version").map_err(Fault::of_field)?;
    Ok(given.and_then(|number| u64::try_from(number).ok()))
}

fn list(kv: &Kv, ask: &Ask<'_>, kind: &str, folder: &str) -> Result<Reply, Fault> {
    let scans = ask.verb() == Verb::Scan;
    let names = if scans { kv.scan(folder) } else { kv.list(folder) };
    let after = ask.call.query.get("after").cloned().unwrap_or_default();
    let limit = ask.call.query.get("limit").and_then(|limit| limit.parse().ok());
    let names = names.into_iter().filter(|name| *name > after);
    let names: Vec<_> = names.take(limit.unwrap_or(usize::MAX)).collect();
    if kind == "metadata" || names.is_empty() {
        return Reply::keys(names);
    }
    let folder = folder.trim_end_matches('/');
    let full =
        |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let facts = names
        .iter()
        .filter(|name| !name.ends_with('/'))
        .filter_map(|name| Some((name.clone(), kv.metadata(&full(name)).ok()?)));
    let facts: Map<_, _> = facts.collect();
    Ok(Reply::data(json!({ "key_info": facts, "keys": names })))
}

fn change(kv: &mut Kv, ask: &Ask<'_>, kind: &str, path: &str) -> Result<Reply, Fault> {
    let now = ask.wall();
    match (ask.verb(), kind) {
        (Verb::Write, "data") => {
            let (fields, cas) = (given(ask)?, cas(ask)?);
            return kv.write(path, fields, cas, now).map(Reply::data);
        }
        (Verb::Patch, "data") => {
            let (fields, cas) = (given(ask)?, cas(ask)?);
            return kv.patch(path, &fields, cas, now).map(Reply::data);
        }
        (Verb::Read, "subkeys") => return kv.subkeys(path, version(ask)?, now).map(Reply::data),
        (Verb::Read, "metadata") => return kv.metadata(path).map(Reply::data),
        (Verb::Delete, "data") => kv.delete(path, &[], now),
        (Verb::Delete, "metadata") => kv.forget(path),
        (Verb::Write | Verb::Patch, "metadata") => return describe(kv, ask, path, now),
        (Verb::Write, "delete") => kv.delete(path, &versions(ask, "No")?, now),
        (Verb::Write, "destroy") => kv.destroy(path, &versions(ask, "no")?),
        (Verb::Write, "undelete") => kv.undelete(path, &versions(ask, "No")?),
        (Verb::Read, "config") => return Ok(config(kv)),
        (Verb::Write, "config") => return configure(kv, ask),
        (_, "config" | "data" | "delete" | "destroy" | "metadata" | "subkeys" | "undelete") => {
            return Err(Fault::unsupported());
        }
        _ => return Err(not_versioned()),
    }
    Ok(Reply::Empty)
}

/// For those who take it for version 1.
fn not_versioned() -> Fault {
    let text = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. If using the OpenBao CLI, use 'bao kv get' for this operation.";
    Fault { warnings: vec![text.to_owned()], ..Fault::no_value() }
}

fn given(ask: &Ask<'_>) -> Result<Map<String, Value>, Fault> {
    match ask.call.body.get("data") {
        None => Err(Fault::new(400, "no data provided")),
        Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(fields.clone()),
        Some(other) => Err(not_a_map("data", other)),
    }
}

fn not_a_map(member: &str, value: &Value) -> Fault {
    let kind = match value {
        Value::Array(_) => "[]interface {}",
        Value::Bool(_) => "bool",
        Value::Number(_) => "json.Number",
        _ => "string",
    };
    let why =
        format!("'' expected type 'map[string]interface {{}}', got unconvertible type '{kind}'");
    Fault::new(400, format!("error converting input for field \"{member}\": {why}"))
}

fn cas(ask: &Ask<'_>) -> Result<Option<u64>, Fault> {
    let Some(cas) = ask.call.body.get("options").and_then(|options| options.get("cas")) else {
        return Ok(None);
    };
    let number = cas.as_u64().or_else(|| cas.as_str()?.parse().ok());
    number.map(Some).ok_or_else(|| Fault::new(400, "error parsing check-and-set parameter"))
}

fn versions(ask: &Ask<'_>, no: &str) -> Result<Vec<u64>, Fault> {
    let given = ask.strings("versions").unwrap_or_default();
    let numbers: Vec<_> = given.iter().filter_map(|text| text.parse().ok()).collect();
    if numbers.is_empty() {
        return Err(Fault::new(400, format!("{no} version number provided")));
    }
    Ok(numbers)
}

fn describe(kv: &mut Kv, ask: &Ask<'_>, path: &str, now: SystemTime) -> Result<Reply, Fault> {
    let merges = ask.verb() == Verb::Patch;
    if merges && !kv.holds(path) {
        return Err(Fault { silent: true, ..Fault::no_value() });
    }
    let custom = match ask.call.body.get("custom_metadata") {
        None => None,
        Some(Value::Null) => Some(BTreeMap::new()),
        Some(Value::Object(members)) => {
            Some(members.iter().map(custom_field).collect::<Result<_, _>>()?)
        }
        Some(other) => return Err(not_a_map("custom_metadata", other)),
    };
    let given = Description {
        max_versions: positive(ask)?,
        cas_required: ask.flag("cas_required"),
        delete_after: ask.duration("delete_version_after")?,
        custom,
    };
    if !merges && given.custom.is_some() {
        kv.forget_custom(path);
    }
    kv.describe(path, given, now);
    Ok(Reply::Empty)
}

fn custom_field((name, value): (&String, &Value)) -> Result<(String, Option<String>), Fault> {
    let kind = match value {
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        _ => return Ok((name.clone(), (!value.is_null()).then(|| fields::shown(value)))),
    };
    let why = format!("'' expected type 'string', got unconvertible type '{kind}'");
    Err(Fault::new(400, format!("custom_metadata validation failed: {why}")))
}

fn positive(ask: &Ask<'_>) -> Result<Option<u64>, Fault> {
    Ok(ask.number("max_versions")?.map(|number| u64::try_from(number).unwrap_or_default()))
}

fn config(kv: &Kv) -> Reply {
    Reply::data(json!({
        "cas_required": kv.config.cas_required,
        "delete_version_after": clock::go_duration(kv.config.delete_after),
        "max_versions": kv.config.max_versions,
        "metadata_cas_required": false,
    }))
}

fn configure(kv: &mut Kv, ask: &Ask<'_>) -> Result<Reply, Fault> {
    let config = &mut kv.config;
    config.max_versions = positive(ask)?.unwrap_or(config.max_versions);
    config.cas_required = ask.flag("cas_required").unwrap_or(config.cas_required);
    config.delete_after = ask.duration("delete_version_after")?.unwrap_or(config.delete_after);
    Ok(Reply::Empty)
}
