//! Rate-limit quotas: a bucket of tokens per quota, for the vault, a namespace or a mount.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hive_lease::Moment;
use serde_json::json;

use super::engine::Ask;
use super::reply::{Fault, Reply};
use super::routes::Verb;
use super::terms::since;

/// Asked often by who looks after the server, and never limited.
const EXEMPT: [&str; 3] = ["sys/health", "sys/seal-status", "sys/unseal"];

/// All quotas by name.
#[derive(Default)]
pub(super) struct Quotas(Mutex<BTreeMap<String, Quota>>);

/// So many calls in an interval, below a path.
struct Quota {
    path: String,
    rate: f64,
    interval: Duration,
    left: f64,
    counted_at: Moment,
}

impl Quotas {
    fn quotas(&self) -> MutexGuard<'_, BTreeMap<String, Quota>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call against the quota with the longest path that it is below.
    pub(super) fn check(&self, full_path: &str, path: &str, now: Moment) -> Result<(), Fault> {
        if EXEMPT.contains(&path) {
            return Ok(());
        }
        let mut quotas = self.quotas();
        let fitting = quotas.values_mut().filter(|quota| full_path.starts_with(&quota.path));
        let Some(quota) = fitting.max_by_key(|quota| quota.path.len()) else { return Ok(()) };
        let gained = since(quota.counted_at, now).as_secs_f64() / quota.interval.as_secs_f64();
        quota.left = (quota.left + gained * quota.rate).min(quota.rate.max(1.0));
        quota.counted_at = now;
        if quota.left < 1.0 {
            let text = format!("request path \"{path}\": rate limit quota exceeded");
            return Err(Fault::new(429, text));
        }
        quota.left -= 1.0;
        Ok(())
    }
}

/// `sys/quotas/rate-limit/…`
pub(super) fn handle(ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
    let quotas = &ask.core.quotas;
    match (ask.verb(), name) {
        (Verb::List, "") => Reply::keys(quotas.quotas().keys().cloned()),
        (_, "") => Err(Fault::unsupported()),
        (Verb::Delete, _) => {
            quotas.quotas().remove(name);
            Ok(Reply::Empty)
        }
        (Verb::Read, _) => describe(quotas, name),
        (Verb::Write, _) => {
            let quota = read(ask)?;
            quotas.quotas().insert(name.to_owned(), quota);
            Ok(Reply::Empty)
        }
        _ => Err(Fault::unsupported()),
    }
}

fn read(ask: &Ask<'_>) -> Result<Quota, Fault> {
    let rate = ask.call.body.get("rate");
    let rate = rate.and_then(|rate| rate.as_f64().or_else(|| rate.as_str()?.parse().ok()));
    let rate =
        rate.filter(|rate| *rate > 0.0).ok_or_else(|| Fault::new(400, "'rate' is invalid"))?;
    let mut path = ask.text("path").unwrap_or_default().to_owned();
    let mount = format!("{}/", path.trim_end_matches('/'));
    let is_known = || {
        let state = ask.core.state();
        state.namespaces.contains_key(&mount)
            || state.mounts.keys().any(|own| mount.starts_with(own))
    };
    if !path.is_empty() && !is_known() {
        return Err(Fault::new(400, format!("invalid mount path \"{path}\"")));
    }
    if ask.core.state().mounts.contains_key(&mount) {
        path = mount;
    }
    let interval = ask.duration("interval")?.filter(|interval| !interval.is_zero());
    let interval = interval.unwrap_or(Duration::from_secs(1));
    Ok(Quota { path, rate, interval, left: rate.max(1.0), counted_at: ask.now() })
}

fn describe(quotas: &Quotas, name: &str) -> Result<Reply, Fault> {
    let quotas = quotas.quotas();
    let quota = quotas.get(name).ok_or_else(Fault::no_value)?;
    let whole = quota.rate.fract() == 0.0;
    Ok(Reply::data(json!({
        "block_interval": 0,
        "inheritable": quota.path.is_empty(),
        "interval": quota.interval.as_secs(),
        "name": name,
        "path": quota.path,
        "rate": if whole { json!(quota.rate as u64) } else { json!(quota.rate) },
        "role": "",
        "type": "rate-limit",
    })))
}
