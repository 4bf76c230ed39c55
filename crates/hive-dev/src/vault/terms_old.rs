//! The names that the fields of a token had before all of them began with `token_`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::engine::Ask;
use super::reply::Fault;
use super::terms::{TokenTerms, bound_cidrs};
use super::tokens::sorted;

const NAMES: [&str; 5] = ["bound_cidrs", "max_ttl", "period", "policies", "ttl"];

/// Those that were used last: a role shows them beside the new ones.
#[derive(Clone, Debug, Default)]
pub(super) struct OldTerms(BTreeSet<&'static str>);

impl OldTerms {
    /// Takes over what the body says by an old name and not by the new one, after that has been read.
    pub(super) fn read(&mut self, ask: &Ask<'_>, terms: &mut TokenTerms) -> Result<(), Fault> {
        for name in NAMES {
            let (is_new, is_old) = (given(ask, &format!("token_{name}")), given(ask, name));
            match (is_new, is_old) {
                (false, false) => {}
                (true, false) => drop(self.0.remove(name)),
                (true, true) => drop(self.0.insert(name)),
                (false, true) => {
                    take(ask, name, terms)?;
                    self.0.insert(name);
                }
            }
        }
        Ok(())
    }

    /// As if this name had been used.
    pub(super) fn note(&mut self, name: &'static str) {
        self.0.insert(name);
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

fn given(ask: &Ask<'_>, member: &str) -> bool {
    ask.call.body.get(member).is_some_and(|value| !value.is_null())
}

fn take(ask: &Ask<'_>, name: &str, terms: &mut TokenTerms) -> Result<(), Fault> {
    let duration = || Ok::<_, Fault>(ask.duration(name)?.unwrap_or_default());
    match name {
        "bound_cidrs" => terms.bound_cidrs = bound_cidrs(ask, name)?.unwrap_or_default(),
        "max_ttl" => terms.max_ttl = duration()?,
        "period" => terms.period = duration()?,
        "ttl" => terms.ttl = duration()?,
        _ => {
            let policies = ask.strings(name).unwrap_or_default();
            terms.policies = sorted(policies.iter().map(|one| one.to_lowercase()).collect());
        }
    }
    Ok(())
}
