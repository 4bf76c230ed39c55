//! KV version 1 and the cubbyhole: a value per path, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use super::core::{Core, TokenKey};
use super::engine::{Ask, Engine};
use super::fields;
use super::reply::{Fault, LeaseFacts, Reply};
use super::routes::Verb;

type Values = BTreeMap<String, Map<String, Value>>;

/// KV version 1.
#[derive(Default)]
pub(super) struct KvOne(Mutex<Values>);

impl KvOne {
    fn values(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for KvOne {
    fn exists(&self, _core: &Core, path: &str) -> bool {
        self.values().contains_key(path)
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            if ask.verb() == Verb::Read {
                let found = self.values().get(ask.path).cloned();
                return read(&ask, found.ok_or_else(Fault::no_value)?).await;
            }
            change(&ask, &mut self.values())
        }
        .boxed()
    }
}

/// Its `ttl` is no lease, but says how long a reader may keep it.
async fn read(ask: &Ask<'_>, value: Map<String, Value>) -> Result<Reply, Fault> {
    witness(ask, &value).await?;
    let own = ["ttl", "lease"].iter().find_map(|name| fields::duration(&value, name).ok()?);
    let ttl_s = own.unwrap_or_else(|| ask.mount.limits().0).as_secs();
    let lease = LeaseFacts { id: String::new(), ttl_s, renewable: false };
    Ok(Reply::lease(Value::Object(value), lease, Vec::new()))
}

async fn witness(ask: &Ask<'_>, value: &Map<String, Value>) -> Result<(), Fault> {
    for field in value.values() {
        ask.witness("kv", &fields::shown(field)).await?;
    }
    Ok(())
}

fn change(ask: &Ask<'_>, values: &mut Values) -> Result<Reply, Fault> {
    match ask.verb() {
        Verb::Delete => {
            values.remove(ask.path);
            Ok(Reply::Empty)
        }
        Verb::List => Reply::keys(level(values.keys(), ask.path)),
        Verb::Write if ask.call.body.is_empty() => Err(Fault::new(400, "missing data fields")),
        Verb::Write => {
            values.insert(ask.path.to_owned(), ask.call.body.clone());
            Ok(Reply::Empty)
        }
        _ => Err(Fault::unsupported()),
    }
}

/// The names directly below a folder; a folder's own name ends in `/`.
pub(super) fn level<'a>(paths: impl Iterator<Item = &'a String>, folder: &str) -> Vec<String> {
    let folder = folder.trim_end_matches('/');
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let below = paths.filter_map(|path| path.strip_prefix(&folder));
    let names = below.map(|rest| rest.split_inclusive('/').next().unwrap_or(rest).to_owned());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What a token keeps for itself, and what ends with it.
pub(super) struct Cubbyhole;

impl Engine for Cubbyhole {
    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            let caller = ask.caller()?;
            if caller.token.wrapped.is_some() {
                return unwrapped(&ask);
            }
            if ask.verb() == Verb::Read {
                let value = kept(&ask, &caller.key).ok_or_else(Fault::no_value)?;
                witness(&ask, &value).await?;
                return Ok(Reply::data(Value::Object(value)));
            }
            let mut state = ask.core.state();
            change(&ask, state.cubbyholes.entry(caller.key).or_default())
        }
        .boxed()
    }
}

fn kept(ask: &Ask<'_>, key: &TokenKey) -> Option<Map<String, Value>> {
    ask.core.state().cubbyholes.get(key)?.get(ask.path).cloned()
}

/// The way of old clients to unwrap.
fn unwrapped(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let wrapped = ask.caller()?.token.wrapped.clone().ok_or_else(Fault::no_value)?;
    match (ask.verb(), ask.path) {
        (Verb::Read, "response") => {
            Ok(Reply::data(json!({ "response": wrapped.body.to_string() })))
        }
        _ => Err(Fault::denied()),
    }
}
