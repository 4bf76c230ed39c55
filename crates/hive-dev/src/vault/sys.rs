//! `sys/…`: which part answers what.

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;

use super::engine::{Ask, Engine};
use super::reply::{Fault, Reply};
use super::routes::Verb;
use super::{leases_api, mounts, namespaces, policies_api, quotas, seal, wrapping};

/// Answered without a token, or after a look at it of their own.
const OPEN: [&str; 10] = [
    "health",
    "init",
    "internal/ui/mounts",
    "leader",
    "seal-status",
    "unseal",
    "wrapping/lookup",
    "wrapping/rewrap",
    "wrapping/unwrap",
    "internal/ui/mounts/",
];
/// For those with `sudo`.
const SUDO: [&str; 5] =
    ["auth/", "leases/lookup/", "leases/revoke-force", "leases/revoke-prefix", "seal"];
/// Of the whole vault, not of a namespace.
const ROOT_ONLY: [&str; 3] = ["health", "seal", "unseal"];

const NO_AUDIT: &str = "cannot enable audit device via API; use declarative, config-based audit device management instead";

/// The system's own engine.
pub(super) struct System;

impl Engine for System {
    fn is_open(&self, path: &str) -> bool {
        let below = |open: &str| open.ends_with('/') && path.starts_with(open);
        OPEN.contains(&path) || OPEN.iter().any(|open| below(open))
    }

    fn needs_sudo(&self, path: &str) -> bool {
        let is = |sudo: &&str| {
            if sudo.ends_with('/') {
                path.starts_with(*sudo)
            } else {
                path == *sudo || path.starts_with(&format!("{sudo}/"))
            }
        };
        SUDO.iter().any(is)
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move { answer(&ask).await }.boxed()
    }
}

async fn answer(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let path = ask.path.trim_end_matches('/');
    if !ask.call.namespace.is_empty() && ROOT_ONLY.contains(&path) {
        return Err(Fault::new(400, "operation unavailable in namespaces"));
    }
    match (ask.verb(), path) {
        (Verb::Read, "health") => seal::health(ask),
        (Verb::Read, "seal-status") => Ok(Reply::bare(seal::status(ask.core))),
        (Verb::Read, "init") => Ok(Reply::bare(json!({ "initialized": true }))),
        (Verb::Read, "leader") => Ok(Reply::bare(json!({ "ha_enabled": false }))),
        (Verb::Write, "unseal") => seal::unseal(ask),
        (Verb::Write, "seal") => {
            ask.core.set_sealed(true);
            Ok(Reply::Empty)
        }
        (Verb::Write, "capabilities" | "capabilities-accessor" | "capabilities-self") => {
            policies_api::capabilities(ask, &format!("sys/{path}"))
        }
        (Verb::Read, "internal/ui/mounts") => mounts::all_facts(ask),
        (Verb::Write, "remount") => mounts::remount(ask).await,
        (Verb::Read, status) if status.starts_with("remount/status/") => {
            mounts::moved(ask, &status["remount/status/".len()..])
        }
        (Verb::Write, "wrapping/wrap") => wrapping::wrap(ask),
        (Verb::Read, "audit") => Ok(Reply::data(json!({}))),
        (Verb::Write, audit) if audit.starts_with("audit/") => Err(Fault::new(400, NO_AUDIT)),
        _ => below(ask, path).await,
    }
}

async fn below(ask: &Ask<'_>, path: &str) -> Result<Reply, Fault> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "auth" => mounts::handle(ask, "auth/", rest).await,
        "leases" => leases_api::handle(ask, rest).await,
        "mounts" => mounts::handle(ask, "", rest).await,
        "namespaces" => namespaces::handle(ask, rest).await,
        "policy" => policies_api::handle(ask, rest, true),
        "wrapping" => wrapping::handle(ask, rest).await,
        _ => two_below(ask, path).await,
    }
}

async fn two_below(ask: &Ask<'_>, path: &str) -> Result<Reply, Fault> {
    let rest = |route: &str| {
        let rest = path.strip_prefix(route)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
    };
    if let (Verb::Read, Some(mount)) = (ask.verb(), rest("internal/ui/mounts")) {
        return mounts::facts(ask, mount);
    }
    if let Some(name) = rest("policies/acl") {
        return policies_api::handle(ask, name, false);
    }
    if let Some(name) = rest("quotas/rate-limit") {
        return quotas::handle(ask, name);
    }
    Err(Fault::unsupported_path())
}

/// Mounted as in the real server, and with nothing to configure: entities come of logins alone.
pub(super) struct Identity;

impl Engine for Identity {
    fn handle<'a>(&'a self, _ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async { Err(Fault::unsupported_path()) }.boxed()
    }
}
