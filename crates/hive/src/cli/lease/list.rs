//! `hive lease list`: what Vault says, joined with what processes on this machine say.

use super::holdings::{self, Holding};
use crate::cli::stack::Failure;
use crate::cli::vault::{self, Session};
use hive_runtime::errors::chain;
use hive_security::vault::VaultError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// More than a person reads. What was left out is said.
const LISTED_MAX: usize = 1_000;

/// One lease, or one credential that has none.
#[derive(Debug, Default, Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_id: Option<String>,
    /// Seconds; of what has no lease nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_s: Option<u64>,
    /// Whether Vault said so just now; else it is what its holder knows.
    confirmed: bool,
    holders: Vec<Holder>,
}

#[derive(Debug, Serialize)]
struct Holder {
    pid: u32,
    program: String,
    credential: String,
    path: String,
    role: String,
    state: String,
}

pub(super) async fn list(
    options: &vault::Borrower,
    prefix: Option<String>,
    json: bool,
) -> Result<(), Failure> {
    let mut rows = held_here(&holdings::all());
    if options.role().is_some() || prefix.is_some() {
        let session = options.session().await?;
        let joined = join(&session, prefix.as_deref(), &mut rows).await;
        session.end(joined).await?;
    }
    let text = if json { to_json(&rows) } else { to_text(&rows) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .map_err(|error| Failure::error(format!("standard output: {error}")))
}

fn held_here(holdings: &[Holding]) -> Vec<Row> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for holding in holdings {
        for held in &holding.credentials {
            let key =
                held.lease_id.clone().unwrap_or_else(|| format!("{} {}", holding.pid, held.name));
            let row = rows.entry(key).or_default();
            row.lease_id.clone_from(&held.lease_id);
            row.left_s = held.expires_at.map(|end| end.saturating_sub(now));
            row.holders.push(Holder {
                pid: holding.pid,
                program: holding.program.clone(),
                credential: held.name.clone(),
                path: held.path.clone(),
                role: holding.role.clone(),
                state: holding.state.clone(),
            });
        }
    }
    rows.into_values().collect()
}

async fn join(session: &Session, prefix: Option<&str>, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (vault, token) = (&session.vault, &session.login.token);
    if let Some(prefix) = prefix {
        let prefix = prefix.trim_end_matches('/');
        let listed = match vault.list_leases(token, prefix).await {
            Ok(listed) => listed,
            // Vault's way to say that a list is empty.
            Err(VaultError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(vault::failed(&error)),
        };
        let folders = listed.iter().filter(|name| name.ends_with('/'));
        folders.for_each(|folder| eprintln!("hive: there is more below {prefix}/{folder}"));
        let ids: Vec<_> = listed.iter().filter(|name| !name.ends_with('/')).collect();
        if ids.len() > LISTED_MAX {
            eprintln!("hive: the first {LISTED_MAX} of {} leases are listed", ids.len());
        }
        for id in ids.into_iter().take(LISTED_MAX).map(|name| format!("{prefix}/{name}")) {
            if !rows.iter().any(|row| row.lease_id.as_ref() == Some(&id)) {
                rows.push(Row { lease_id: Some(id), ..Row::default() });
            }
        }
    }
    let mut gone = Vec::new();
    for (at, row) in rows.iter_mut().enumerate() {
        let Some(id) = &row.lease_id else { continue };
        match vault.lookup_lease(token, id).await {
            Ok(lease) => (row.left_s, row.confirmed) = (Some(lease.ttl.as_secs()), true),
            // It ended since it was listed.
            Err(VaultError::LeaseGone { .. }) if row.holders.is_empty() => gone.push(at),
            Err(VaultError::LeaseGone { .. }) => (row.left_s, row.confirmed) = (Some(0), true),
            Err(error @ VaultError::Denied { .. }) => {
                eprintln!("hive: Vault does not say how much time is left: {}", chain(&error));
                break;
            }
            Err(error) => return Err(vault::failed(&error)),
        }
    }
    gone.into_iter().rev().for_each(|at| drop(rows.remove(at)));
    Ok(())
}

fn to_json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).unwrap_or_default() + "\n"
}

fn to_text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no leases\n".to_owned();
    }
    let mut text = String::new();
    for row in rows {
        let left = row.left_s.map(|left| shown(Duration::from_secs(left)));
        let left = left.unwrap_or_else(|| "-".to_owned());
        let source =
            if row.confirmed || row.lease_id.is_none() { "" } else { " (as its holder knows)" };
        let what = row.lease_id.as_deref().unwrap_or("no lease");
        text.push_str(&format!("{left:>8}  {what}{source}\n"));
        for holder in &row.holders {
            let Holder { pid, program, credential, path, role, state } = holder;
            text.push_str(&format!(
                "          {program} ({pid}): {credential} = {path}, role {role}, {state}\n"
            ));
        }
    }
    text
}

/// `1h02m`, `3m20s` or `45s`.
pub(super) fn shown(left: Duration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_is_left_is_shown_as_people_say_it() {
        let seen = [5, 200, 3_720].map(|seconds| shown(Duration::from_secs(seconds)));
        assert_eq!(seen, ["5s", "3m20s", "1h02m"]);
    }
}
