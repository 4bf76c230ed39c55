//! Secret ids: what is asked of a new one, and what a use of one gives.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::Role;
use crate::vault::cidr;
use crate::vault::clock::rfc3339;
use crate::vault::core::token_key;
use crate::vault::engine::Ask;
use crate::vault::fields;
use crate::vault::reply::{Fault, random_uuid};

/// A secret id is nowhere; this is what is known of it.
#[derive(Clone)]
pub(super) struct SecretId {
    pub(super) accessor: String,
    /// Zero: any number.
    pub(super) num_uses: i64,
    pub(super) ttl: Duration,
    created: SystemTime,
    updated: SystemTime,
    /// From where it may be shown; empty: from everywhere.
    cidrs: Vec<String>,
    carries: Carried,
}

/// What goes from a secret id to the token that it is exchanged for.
#[derive(Clone, Default)]
pub(super) struct Carried {
    pub(super) metadata: BTreeMap<String, String>,
    /// From where the token may be used; empty: as the role says.
    pub(super) token_cidrs: Vec<String>,
}

impl Role {
    pub(super) fn new_secret(&self, ask: &Ask<'_>) -> Result<SecretId, Fault> {
        let refused = |text: &str| Err(Fault::new(400, text));
        if !self.needs_secret {
            return refused("bind_secret_id is not set on the role");
        }
        let num_uses = match ask.number("num_uses")? {
            None => self.num_uses,
            Some(uses) if uses < 0 => return refused("num_uses cannot be negative"),
            Some(uses) if self.num_uses > 0 && (uses == 0 || uses > self.num_uses) => {
                return refused("num_uses cannot be higher than the role's secret_id_num_uses");
            }
            Some(uses) => uses,
        };
        let ttl = match ask.duration("ttl")? {
            None => self.ttl,
            Some(ttl) if !self.ttl.is_zero() && (ttl.is_zero() || ttl > self.ttl) => {
                return refused("ttl cannot be longer than the role's secret_id_ttl");
            }
            Some(ttl) => ttl,
        };
        let now = ask.wall();
        let cidrs = ask.strings("cidr_list").unwrap_or_default();
        check_blocks(&cidrs, "CIDR")?;
        check_inside(&cidrs, &self.bound_cidrs)?;
        let token_cidrs = ask.strings("token_bound_cidrs").unwrap_or_default();
        check_blocks(&token_cidrs, "token CIDR")?;
        check_inside(&token_cidrs, &self.terms.bound_cidrs)?;
        let carries = Carried { metadata: metadata(&ask.call.body)?, token_cidrs };
        let accessor = random_uuid();
        Ok(SecretId { accessor, num_uses, ttl, created: now, updated: now, cidrs, carries })
    }

    /// What a secret id carries, if it is good; this was one of its uses.
    pub(super) fn use_secret(
        &mut self,
        id: &str,
        now: SystemTime,
    ) -> Option<Result<Carried, Fault>> {
        self.forget_old(now);
        let key = token_key(id);
        let secret = self.secrets.get_mut(&key)?;
        secret.updated = now;
        let is_inside = secret.cidrs.is_empty() || cidr::admit(&secret.cidrs);
        let carries = secret.carries.clone();
        let refusal = match secret.num_uses {
            0 => outside_of_endless(),
            _ => outside("secret ID"),
        };
        match secret.num_uses {
            0 => {}
            1 => drop(self.secrets.remove(&key)),
            _ => secret.num_uses -= 1,
        }
        Some(if is_inside { Ok(carries) } else { Err(Fault::new(400, refusal)) })
    }

    pub(super) fn forget_old(&mut self, now: SystemTime) {
        self.secrets.retain(|_, secret| secret.expires().is_none_or(|end| now < end));
    }
}

impl SecretId {
    fn expires(&self) -> Option<SystemTime> {
        (!self.ttl.is_zero()).then(|| self.created + self.ttl)
    }

    pub(super) fn shown(&self) -> Value {
        let never = "0001-01-01T00:00:00Z".to_owned();
        json!({
            "cidr_list": self.cidrs,
            "creation_time": rfc3339(self.created),
            "expiration_time": self.expires().map_or(never, rfc3339),
            "last_updated_time": rfc3339(self.updated),
            "metadata": self.carries.metadata,
            "secret_id_accessor": self.accessor,
            "secret_id_num_uses": self.num_uses,
            "secret_id_ttl": self.ttl.as_secs(),
            "token_bound_cidrs": self.carries.token_cidrs,
        })
    }
}

/// It is an object, written as text.
fn metadata(body: &Map<String, Value>) -> Result<BTreeMap<String, String>, Fault> {
    let Some(given) = body.get("metadata").filter(|given| !given.is_null()) else {
        return Ok(BTreeMap::new());
    };
    let Some(text) = given.as_str() else {
        let text = "Field validation failed: error converting input for field \"metadata\": '' expected type 'string', got unconvertible type 'map[string]interface {}'";
        return Err(Fault::new(400, text));
    };
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pairs: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    let text = "failed to parse metadata: failed to parse the input: invalid <key,value> format";
    let pairs = pairs.ok_or_else(|| Fault::new(400, text))?;
    Ok(pairs.iter().map(|(name, value)| (name.clone(), fields::shown(value))).collect())
}

pub(super) fn check_blocks(blocks: &[String], what: &str) -> Result<(), Fault> {
    let Some(wrong) = blocks.iter().find(|block| !cidr::is_block(block)) else { return Ok(()) };
    let text = format!("failed to validate {what} blocks: invalid CIDR address: {wrong}");
    Err(Fault::listed(500, &text))
}

/// A secret id is bound more tightly than its role, or as tightly. A role without bounds allows any.
fn check_inside(blocks: &[String], of_role: &[String]) -> Result<(), Fault> {
    let is_inside = |block: &String| of_role.iter().any(|outer| cidr::is_within(block, outer));
    if of_role.is_empty() || blocks.iter().all(is_inside) {
        return Ok(());
    }
    let listed = |blocks: &[String]| {
        blocks.iter().map(|block| format!("{block:?}")).collect::<Vec<_>>().join(" ")
    };
    // The real server puts an error that is none at the end.
    let text = format!(
        "failed to verify subset relationship between CIDR blocks on the role [{}] and CIDR blocks on the secret ID [{}]: %!w(<nil>)",
        listed(of_role),
        listed(blocks)
    );
    Err(Fault::listed(500, &text))
}

/// The real server puts an error that is none at the end.
pub(super) fn outside(of: &str) -> String {
    let caller = cidr::CALLER;
    format!("source address \"{caller}\" unauthorized by CIDR restrictions on the {of}: %!w(<nil>)")
}

/// Its other words, for a secret id that may be used any number of times.
fn outside_of_endless() -> String {
    let caller = cidr::CALLER;
    format!("source address \"{caller}\" unauthorized through CIDR restrictions on the secret ID")
}
