//! The auth method `approle`: a role has an id, and whoever also shows one of its secret ids may log in.
//!
//! Bounds on addresses are looked at when somebody logs in; all callers are on loopback.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use super::cidr;
use super::clock::rfc3339;
use super::core::{Core, token_key};
use super::engine::{Ask, Engine, Login};
use super::fields;
use super::reply::{Fault, Reply, random_uuid};
use super::routes::Verb;
use super::terms::TokenTerms;

/// One mount of the method.
#[derive(Default)]
pub(super) struct AppRole(Mutex<BTreeMap<String, Role>>);

#[derive(Clone, Default)]
struct Role {
    role_id: String,
    terms: TokenTerms,
    /// Shown only to who still calls the policies by their old name.
    old_policies: Option<Vec<String>>,
    needs_secret: bool,
    bound_cidrs: Vec<String>,
    /// Zero: any number.
    num_uses: i64,
    /// Zero: it never ends.
    ttl: Duration,
    secrets: BTreeMap<[u8; 32], SecretId>,
}

/// A secret id is nowhere; this is what is known of it.
#[derive(Clone)]
struct SecretId {
    accessor: String,
    num_uses: i64,
    ttl: Duration,
    created: SystemTime,
    updated: SystemTime,
    cidrs: Vec<String>,
    metadata: BTreeMap<String, String>,
}

impl Engine for AppRole {
    fn is_open(&self, path: &str) -> bool {
        path == "login"
    }

    fn exists(&self, _core: &Core, path: &str) -> bool {
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["role", name] => self.roles().contains_key(*name),
            _ => true,
        }
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            let parts: Vec<&str> = ask.path.trim_end_matches('/').split('/').collect();
            match (ask.verb(), parts.as_slice()) {
                (Verb::Read | Verb::Write, ["login"]) => self.login(&ask),
                (Verb::List, ["role"]) => Reply::keys(self.roles().keys().cloned()),
                (_, ["role", name]) => self.role(&ask, name),
                (Verb::Read | Verb::Write, ["role", name, "role-id"]) => self.role_id(&ask, name),
                (Verb::List, ["role", name, "secret-id"]) => self.accessors(&ask, name),
                (Verb::Write, ["role", name, "secret-id"]) => {
                    self.add_secret(&ask, name, &random_uuid()).await
                }
                (Verb::Write, ["role", name, "custom-secret-id"]) => {
                    let own = required(&ask, "secret_id")?.to_owned();
                    self.add_secret(&ask, name, &own).await
                }
                (Verb::Write, ["role", name, by @ ("secret-id" | "secret-id-accessor"), "lookup"]) => {
                    self.look_up(&ask, name, by)
                }
                (
                    Verb::Write | Verb::Delete,
                    ["role", name, by @ ("secret-id" | "secret-id-accessor"), "destroy"],
                ) => self.destroy(&ask, name, by),
                (Verb::Delete | Verb::Read | Verb::Write, ["role", name, field]) => {
                    self.field(&ask, name, field)
                }
                (Verb::Write, ["tidy", "secret-id"]) => {
                    let text = "Tidy operation successfully started. Any information from the operation will be printed to OpenBao's server logs.";
                    Ok(Reply::warning(202, text))
                }
                _ => Err(Fault::unsupported_path()),
            }
        }
        .boxed()
    }
}

impl AppRole {
    fn roles(&self) -> MutexGuard<'_, BTreeMap<String, Role>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn role(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        match ask.verb() {
            Verb::Delete => {
                self.roles().remove(name);
                Ok(Reply::Empty)
            }
            Verb::Read => {
                let role = self.roles().get(name).cloned().ok_or_else(Fault::no_value)?;
                Ok(Reply::data(role.shown()))
            }
            Verb::Write => {
                let own = self.roles().get(name).cloned();
                let mut role = own.unwrap_or_else(Role::new);
                role.read(ask)?;
                self.put(name, role)
            }
            _ => Err(Fault::unsupported()),
        }
    }

    /// No two roles have one id.
    fn put(&self, name: &str, role: Role) -> Result<Reply, Fault> {
        let mut roles = self.roles();
        let taken = |(other, own): (&String, &Role)| other != name && own.role_id == role.role_id;
        if roles.iter().any(taken) {
            return Err(Fault::listed(500, "role_id already in use"));
        }
        roles.insert(name.to_owned(), role);
        Ok(Reply::Empty)
    }

    fn role_id(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let mut role = self.roles().get(name).cloned().ok_or_else(Fault::no_value)?;
        if ask.verb() == Verb::Read {
            return Ok(Reply::data(json!({ "role_id": role.role_id })));
        }
        role.role_id = required(ask, "role_id")?.to_owned();
        self.put(name, role)
    }

    /// One member of a role by itself: `token-ttl`, `secret-id-num-uses`.
    fn field(&self, ask: &Ask<'_>, name: &str, field: &str) -> Result<Reply, Fault> {
        let known = [
            "bound-cidr-list",
            "policies",
            "period",
            "secret-id-bound-cidrs",
            "secret-id-num-uses",
            "secret-id-ttl",
            "token-bound-cidrs",
            "token-max-ttl",
            "token-num-uses",
            "token-period",
            "token-policies",
            "token-ttl",
        ];
        let member = match field {
            "policies" => "token_policies".to_owned(),
            "period" => "token_period".to_owned(),
            other => other.replace('-', "_"),
        };
        if !known.contains(&field) {
            return Err(Fault::unsupported_path());
        }
        let mut role = self.roles().get(name).cloned().ok_or_else(Fault::no_value)?;
        if ask.verb() == Verb::Read {
            let value = role.shown()[member.as_str()].clone();
            return Ok(Reply::data(json!({ member: value })));
        }
        if ask.verb() == Verb::Delete {
            role.reset(&member);
            return self.put(name, role);
        }
        role.read(ask)?;
        self.put(name, role)
    }

    fn accessors(&self, ask: &Ask<'_>, name: &str) -> Result<Reply, Fault> {
        let (mut roles, now) = (self.roles(), ask.wall());
        let role = roles.get_mut(name).ok_or_else(|| no_role(400, name))?;
        role.forget_old(now);
        Reply::keys(role.secrets.values().map(|secret| secret.accessor.clone()))
    }

    async fn add_secret(&self, ask: &Ask<'_>, name: &str, id: &str) -> Result<Reply, Fault> {
        let made = {
            let mut roles = self.roles();
            let role = roles.get_mut(name).ok_or_else(|| no_role(404, name))?;
            let secret = role.new_secret(ask)?;
            let key = token_key(id);
            role.forget_old(ask.wall());
            if role.secrets.contains_key(&key) {
                let text = "failed to store secret_id: SecretID is already registered";
                return Err(Fault::listed(500, text));
            }
            role.secrets.insert(key, secret.clone());
            secret
        };
        ask.witness("secret-id", id).await?;
        Ok(Reply::data(json!({
            "secret_id": id,
            "secret_id_accessor": made.accessor,
            "secret_id_num_uses": made.num_uses,
            "secret_id_ttl": made.ttl.as_secs(),
        })))
    }

    fn look_up(&self, ask: &Ask<'_>, name: &str, by: &str) -> Result<Reply, Fault> {
        let member = by.replace('-', "_");
        let asked = required(ask, &member)?;
        let mut roles = self.roles();
        let role = roles.get_mut(name).ok_or_else(|| no_role(400, name))?;
        role.forget_old(ask.wall());
        let found = role.find(by, asked).and_then(|key| role.secrets.get(&key));
        match found {
            Some(secret) => Ok(Reply::data(secret.shown())),
            None if by == "secret-id" => Ok(Reply::Empty),
            None => {
                let text = no_accessor(asked);
                Err(Fault { data: Some(json!({ "error": text })), ..Fault::new(404, "") })
            }
        }
    }

    fn destroy(&self, ask: &Ask<'_>, name: &str, by: &str) -> Result<Reply, Fault> {
        let member = by.replace('-', "_");
        let asked = required(ask, &member)?;
        let mut roles = self.roles();
        let role = roles.get_mut(name).ok_or_else(|| no_role(400, name))?;
        match role.find(by, asked) {
            Some(key) => {
                role.secrets.remove(&key);
                Ok(Reply::Empty)
            }
            None if by == "secret-id" => Ok(Reply::Empty),
            None => Err(Fault::listed(500, &no_accessor(asked))),
        }
    }

    fn login(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let given = |member: &str| ask.text(member).filter(|text| !text.is_empty());
        let role_id = given("role_id").ok_or_else(|| Fault::new(500, "missing role_id"))?;
        let refused = || Fault::new(400, "invalid role or secret ID");
        let mut roles = self.roles();
        let found = roles.iter_mut().find(|(_, role)| role.role_id == role_id);
        let (name, role) = found.ok_or_else(refused)?;
        ask.note(|entry| entry.role = Some(name.clone()));
        if !role.bound_cidrs.is_empty() && !cidr::admit(&role.bound_cidrs) {
            return Err(Fault::new(400, outside("role")));
        }
        let mut metadata = BTreeMap::new();
        if role.needs_secret {
            let secret = given("secret_id").ok_or_else(|| Fault::new(400, "missing secret_id"))?;
            metadata = role.use_secret(secret, ask.wall()).ok_or_else(refused)??;
        }
        metadata.insert("role_name".to_owned(), name.clone());
        Ok(Reply::login(Login {
            display_name: String::new(),
            alias: role.role_id.clone(),
            metadata,
            terms: role.terms.clone(),
            spiffe_id: None,
            role: name.clone(),
        }))
    }
}

impl Role {
    fn new() -> Self {
        Self { role_id: random_uuid(), needs_secret: true, ..Self::default() }
    }

    fn read(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        self.terms.read(ask)?;
        if ask.strings("token_policies").is_some() {
            self.old_policies = None;
        } else if let Some(policies) = ask.strings("policies") {
            self.old_policies = Some(policies);
        }
        if let Some(id) = ask.text("role_id").filter(|id| !id.is_empty()) {
            self.role_id = id.to_owned();
        }
        self.needs_secret = ask.flag("bind_secret_id").unwrap_or(self.needs_secret);
        self.bound_cidrs =
            ask.strings("secret_id_bound_cidrs").unwrap_or_else(|| self.bound_cidrs.clone());
        check_blocks(&self.bound_cidrs)?;
        self.num_uses = ask.number("secret_id_num_uses")?.unwrap_or(self.num_uses);
        self.ttl = ask.duration("secret_id_ttl")?.unwrap_or(self.ttl);
        if self.num_uses < 0 {
            return Err(Fault::new(400, "secret_id_num_uses cannot be negative"));
        }
        if !self.needs_secret && self.bound_cidrs.is_empty() && self.terms.bound_cidrs.is_empty() {
            let text = "at least one constraint should be enabled on the role";
            return Err(Fault::listed(500, text));
        }
        Ok(())
    }

    fn shown(&self) -> Value {
        let mut data = Map::new();
        self.terms.describe(&mut data);
        let cidrs = if self.bound_cidrs.is_empty() { Value::Null } else { json!(self.bound_cidrs) };
        let own = json!({
            "bind_secret_id": self.needs_secret,
            "local_secret_ids": false,
            "secret_id_bound_cidrs": cidrs,
            "secret_id_num_uses": self.num_uses,
            "secret_id_ttl": self.ttl.as_secs(),
        });
        data.extend(own.as_object().cloned().unwrap_or_default());
        if let Some(policies) = &self.old_policies {
            data.insert("policies".to_owned(), json!(policies));
        }
        Value::Object(data)
    }

    fn new_secret(&self, ask: &Ask<'_>) -> Result<SecretId, Fault> {
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
        let (now, cidrs) = (ask.wall(), ask.strings("cidr_list").unwrap_or_default());
        check_blocks(&cidrs)?;
        Ok(SecretId {
            accessor: random_uuid(),
            num_uses,
            ttl,
            created: now,
            updated: now,
            cidrs,
            metadata: metadata(&ask.call.body)?,
        })
    }

    fn find(&self, by: &str, asked: &str) -> Option<[u8; 32]> {
        let key = token_key(asked);
        if by == "secret-id" {
            return self.secrets.contains_key(&key).then_some(key);
        }
        let mut own = self.secrets.iter();
        own.find(|(_, secret)| secret.accessor == asked).map(|(key, _)| *key)
    }

    /// What a secret id carries, if it is good; this was one of its uses.
    fn use_secret(
        &mut self,
        id: &str,
        now: SystemTime,
    ) -> Option<Result<BTreeMap<String, String>, Fault>> {
        self.forget_old(now);
        let key = token_key(id);
        let secret = self.secrets.get_mut(&key)?;
        secret.updated = now;
        let is_inside = secret.cidrs.is_empty() || cidr::admit(&secret.cidrs);
        let metadata = secret.metadata.clone();
        match secret.num_uses {
            0 => {}
            1 => drop(self.secrets.remove(&key)),
            _ => secret.num_uses -= 1,
        }
        Some(if is_inside { Ok(metadata) } else { Err(Fault::new(400, outside("secret ID"))) })
    }

    /// As if nobody had ever set it.
    fn reset(&mut self, member: &str) {
        let new = Self::new();
        match member {
            "bind_secret_id" => self.needs_secret = new.needs_secret,
            "secret_id_bound_cidrs" | "bound_cidr_list" => self.bound_cidrs = new.bound_cidrs,
            "secret_id_num_uses" => self.num_uses = new.num_uses,
            "secret_id_ttl" => self.ttl = new.ttl,
            other => self.terms.reset(other),
        }
    }

    fn forget_old(&mut self, now: SystemTime) {
        self.secrets.retain(|_, secret| secret.expires().is_none_or(|end| now < end));
    }
}

impl SecretId {
    fn expires(&self) -> Option<SystemTime> {
        (!self.ttl.is_zero()).then(|| self.created + self.ttl)
    }

    fn shown(&self) -> Value {
        let never = "0001-01-01T00:00:00Z".to_owned();
        json!({
            "cidr_list": self.cidrs,
            "creation_time": rfc3339(self.created),
            "expiration_time": self.expires().map_or(never, rfc3339),
            "last_updated_time": rfc3339(self.updated),
            "metadata": self.metadata,
            "secret_id_accessor": self.accessor,
            "secret_id_num_uses": self.num_uses,
            "secret_id_ttl": self.ttl.as_secs(),
            "token_bound_cidrs": [],
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

fn required<'a>(ask: &'a Ask<'_>, member: &str) -> Result<&'a str, Fault> {
    let given = ask.text(member).filter(|text| !text.is_empty());
    given.ok_or_else(|| Fault::new(400, format!("missing {member}")))
}

fn no_role(status: u16, name: &str) -> Fault {
    Fault::new(status, format!("role {name:?} does not exist"))
}

fn check_blocks(blocks: &[String]) -> Result<(), Fault> {
    let Some(wrong) = blocks.iter().find(|block| !cidr::is_block(block)) else { return Ok(()) };
    let text = format!("failed to validate CIDR blocks: invalid CIDR address: {wrong}");
    Err(Fault::listed(500, &text))
}

/// The real server puts an error that is none at the end.
fn outside(of: &str) -> String {
    let caller = cidr::CALLER;
    format!("source address \"{caller}\" unauthorized by CIDR restrictions on the {of}: %!w(<nil>)")
}

fn no_accessor(asked: &str) -> String {
    format!("failed to find accessor entry for secret_id_accessor: {asked:?}")
}
