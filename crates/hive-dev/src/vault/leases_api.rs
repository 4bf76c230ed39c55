//! `sys/leases/…`

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::clock;
use super::core::{Core, Lease, TokenKey};
use super::engine::Ask;
use super::kv_one::level;
use super::reply::{Fault, Reply};
use super::routes::Verb;
use super::tokens::{Token, lease_id};

pub(super) const TIDY: &str = "Tidy operation successfully started. Any information from the operation will be printed to OpenBao's server logs.";

pub(super) async fn handle(ask: &Ask<'_>, rest: &str) -> Result<Reply, Fault> {
    let (route, id) = rest.split_once('/').unwrap_or((rest, ""));
    match (ask.verb(), route) {
        (Verb::Write, "lookup") => lookup(ask, id),
        (Verb::List, "lookup") => list(ask, id),
        (Verb::Write, "renew") => renew(ask, id).await,
        (Verb::Write, "revoke") => revoke(ask, id).await,
        (Verb::Write, "revoke-prefix") => revoke_prefix(ask, id, false).await,
        (Verb::Write, "revoke-force") => revoke_prefix(ask, id, true).await,
        (Verb::Write, "tidy") => Ok(Reply::warning(202, TIDY)),
        (Verb::Read, "" | "count") => irrevocable(ask, route),
        (
            _,
            "" | "count" | "lookup" | "renew" | "revoke" | "revoke-force" | "revoke-prefix"
            | "tidy",
        ) => Err(Fault::unsupported()),
        _ => Err(Fault::unsupported_path()),
    }
}

/// In the body, or as the rest of the path.
fn wanted(ask: &Ask<'_>, in_path: &str) -> Result<String, Fault> {
    let id = ask.text("lease_id").unwrap_or(in_path);
    let id = if id.is_empty() { in_path } else { id };
    if id.is_empty() {
        return Err(Fault::new(400, "lease_id must be specified"));
    }
    ask.note(|entry| entry.lease_id = Some(id.to_owned()));
    Ok(id.to_owned())
}

fn lookup(ask: &Ask<'_>, in_path: &str) -> Result<Reply, Fault> {
    let id = wanted(ask, in_path)?;
    let own = &ask.core.clock;
    let lease = ask.core.lease(&id).ok_or_else(|| Fault::new(400, "invalid lease"))?;
    let expires = lease.span.expires_at(own).map(|at| match ask.core.end_of_batch(&lease) {
        Some(end) => at.min(end),
        None => at,
    });
    Ok(Reply::data(json!({
        "id": id,
        "path": lease.path,
        "issue_time": clock::rfc3339(lease.span.issued),
        "expire_time": expires.map(clock::rfc3339),
        "last_renewal": lease.span.last_renewal.map(clock::rfc3339),
        "renewable": lease.renewable,
        "ttl": lease.span.remaining(own).as_secs(),
    })))
}

async fn renew(ask: &Ask<'_>, in_path: &str) -> Result<Reply, Fault> {
    let id = wanted(ask, in_path)?;
    let asked = ask.duration("increment").map_err(Fault::of_field)?;
    let (facts, warning) = ask.core.renew_lease(&id, asked).await?;
    Ok(Reply::lease(Value::Null, facts, warning.into_iter().collect()))
}

/// Idempotent. Unless `sync` is false it waits, and the failure is the caller's; else it is tried again.
async fn revoke(ask: &Ask<'_>, in_path: &str) -> Result<Reply, Fault> {
    let id = wanted(ask, in_path)?;
    let core = Arc::clone(ask.core);
    if !is_waited_for(ask) {
        tokio::spawn(async move { core.end_lease(id, "lease_revoked").await });
        return Ok(begun());
    }
    let work = tokio::spawn(async move { core.end_lease_now(&id).await });
    match work.await {
        Ok(Ok(())) => Ok(Reply::Empty),
        Ok(Err(why)) => Err(Fault::new(400, format!("failed to revoke entry: {why}"))),
        Err(_) => Err(Fault::internal()),
    }
}

fn is_waited_for(ask: &Ask<'_>) -> bool {
    ask.flag("sync") != Some(false)
}

/// What goes on behind the answer.
fn begun() -> Reply {
    Reply::Raw { status: 202, content_type: "application/json", body: Vec::new() }
}

async fn revoke_prefix(ask: &Ask<'_>, prefix: &str, force: bool) -> Result<Reply, Fault> {
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Err(Fault::new(400, "prefix must be specified"));
    }
    let (leases, tokens) = below(ask, &format!("{prefix}/"), force);
    let is_waited_for = force || is_waited_for(ask);
    let core = Arc::clone(ask.core);
    let work = tokio::spawn(async move {
        let all = leases.len() + tokens.len();
        for (at, id) in leases.into_iter().enumerate() {
            match (force, is_waited_for) {
                (true, _) => core.force_lease(&id).await,
                // The first failure is the end of it, as on the real server.
                (_, true) => core.end_lease_now(&id).await.map_err(|why| {
                    format!(
                        "failed to revoke {id:?} ({} / {all}): failed to revoke entry: {why}",
                        at + 1
                    )
                })?,
                _ => core.end_lease(id, "lease_revoked").await,
            }
        }
        for key in tokens {
            let _ = core.revoke_token(key, "token_revoked").await;
        }
        Ok::<_, String>(())
    });
    if !is_waited_for {
        return Ok(begun());
    }
    match work.await {
        Ok(Ok(())) => Ok(Reply::Empty),
        Ok(Err(why)) => Err(Fault::new(400, why)),
        Err(_) => Err(Fault::internal()),
    }
}

fn is_of(ask: &Ask<'_>, lease: &Lease) -> bool {
    lease.mount.namespace == ask.call.namespace && !lease.is_hidden()
}

fn token_leases<'a>(
    ask: &'a Ask<'_>,
    tokens: impl Iterator<Item = (&'a TokenKey, &'a Token)> + 'a,
) -> impl Iterator<Item = (TokenKey, String)> + 'a {
    let own = tokens.filter(|(_, token)| token.namespace == ask.call.namespace && !token.is_batch);
    own.map(|(key, token)| (*key, lease_id(key, token)))
}

/// By force also those that nobody was told of, because the making failed and what it may have left cannot be undone.
fn below(ask: &Ask<'_>, prefix: &str, force: bool) -> (Vec<String>, Vec<TokenKey>) {
    let state = ask.core.state();
    let leases = state.leases.iter();
    let is_meant = |lease: &Lease| match force {
        true => lease.mount.namespace == ask.call.namespace,
        false => is_of(ask, lease),
    };
    let leases = leases.filter(|(id, lease)| is_meant(lease) && id.starts_with(prefix));
    let leases: Vec<_> = leases.map(|(id, _)| id.clone()).collect();
    let tokens = token_leases(ask, state.tokens.iter()).filter(|(_, id)| id.starts_with(prefix));
    let tokens: Vec<_> = tokens.map(|(key, _)| key).collect();
    (leases, tokens)
}

fn list(ask: &Ask<'_>, folder: &str) -> Result<Reply, Fault> {
    let ids: BTreeSet<String> = {
        let state = ask.core.state();
        let leases = state.leases.iter().filter(|(_, lease)| is_of(ask, lease));
        let leases: Vec<_> = leases.map(|(id, _)| id.clone()).collect();
        let tokens: Vec<_> = token_leases(ask, state.tokens.iter()).map(|(_, id)| id).collect();
        leases.into_iter().chain(tokens).collect()
    };
    Reply::keys(level(ids.iter(), folder))
}

/// `sys/leases?type=irrevocable`, and how many there are.
fn irrevocable(ask: &Ask<'_>, route: &str) -> Result<Reply, Fault> {
    if ask.call.query.get("type").is_none_or(|kind| kind != "irrevocable") {
        return Err(Fault::no_value());
    }
    let given_up = given_up(ask.core);
    let lease_count = given_up.len();
    if route.is_empty() {
        let leases: Vec<_> =
            given_up.iter().map(|(id, _, why)| json!({ "lease_id": id, "error": why })).collect();
        return Ok(Reply::data(json!({ "lease_count": lease_count, "leases": leases })));
    }
    let mut counts = Map::new();
    for (_, mount, _) in &given_up {
        let count = counts.get(mount).and_then(Value::as_u64).unwrap_or_default() + 1;
        counts.insert(mount.clone(), json!(count));
    }
    Ok(Reply::data(json!({ "counts": counts, "lease_count": lease_count })))
}

fn given_up(core: &Core) -> Vec<(String, String, String)> {
    let state = core.state();
    let given_up = state.leases.iter().filter(|(_, lease)| lease.is_irrevocable());
    let facts = given_up.map(|(id, lease)| {
        let why = lease.ending.as_ref().and_then(|ending| ending.why.clone());
        (id.clone(), lease.mount.accessor.clone(), why.unwrap_or_default())
    });
    facts.collect()
}
