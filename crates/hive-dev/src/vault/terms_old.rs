//! The names that the fields of a token had before all of them began with `token_`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::engine::Ask;
use super::reply::Fault;
use super::terms::{TokenTerms, bound_cidrs};
use super::tokens::sorted;

/// Those that AppRole knows.
pub(super) const TWO: &[&str] = &["period", "policies"];
/// Those that the auth method `cert` knows.
pub(super) const FIVE: &[&str] = &["bound_cidrs", "max_ttl", "period", "policies", "ttl"];
/// Those that the others know.
pub(super) const ALL: &[&str] =
    &["bound_cidrs", "max_ttl", "num_uses", "period", "policies", "ttl"];

/// Those that were used last: a role shows them beside the new ones.
#[derive(Clone, Debug, Default)]
pub(super) struct OldTerms(BTreeSet<&'static str>);

impl OldTerms {
    /// Notes which of these names the body uses. The answer is those that it uses without the new name: they count.
    pub(super) fn given(&mut self, ask: &Ask<'_>, names: &[&'static str]) -> Vec<&'static str> {
        let is_given = |member: &str| ask.call.body.get(member).is_some_and(|v| !v.is_null());
        let mut counting = Vec::new();
        for name in names {
            let (is_new, is_old) = (is_given(&format!("token_{name}")), is_given(name));
            if is_old {
                self.0.insert(name);
            } else if is_new {
                self.0.remove(name);
            }
            if is_old && !is_new {
                counting.push(*name);
            }
        }
        counting
    }

    /// As if this name had been used.
    pub(super) fn note(&mut self, name: &'static str) {
        self.0.insert(name);
    }

    /// As if this name had never been used.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Adds them to what a role shows, after the new ones.
    pub(super) fn describe(&self, data: &mut Map<String, Value>) {
        for name in &self.0 {
            let shown = data.get(&format!("token_{name}")).cloned().unwrap_or_default();
            if shown != json!(0) && shown != json!([]) {
                data.insert((*name).to_owned(), shown);
            }
        }
    }
}

/// Takes over what the body says by this old name.
pub(super) fn take(ask: &Ask<'_>, name: &str, terms: &mut TokenTerms) -> Result<(), Fault> {
    let duration = || Ok::<_, Fault>(ask.duration(name)?.unwrap_or_default());
    match name {
        "bound_cidrs" => terms.bound_cidrs = bound_cidrs(ask, name)?.unwrap_or_default(),
        "max_ttl" => terms.max_ttl = duration()?,
        "num_uses" => terms.num_uses = ask.number(name)?.unwrap_or_default(),
        "period" => terms.period = duration()?,
        "ttl" => terms.ttl = duration()?,
        _ => {
            let policies = ask.strings(name).unwrap_or_default();
            terms.policies = sorted(policies.iter().map(|one| one.to_lowercase()).collect());
        }
    }
    Ok(())
}
