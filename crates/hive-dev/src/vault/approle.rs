//! The auth method `approle`: a role has an id, and whoever also shows one of its secret ids may log in.
//!
//! Bounds on addresses are looked at when somebody logs in; all callers are on loopback.

mod secrets;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use self::secrets::{Carried, SecretId, check_blocks, outside};
use super::cidr;
use super::clock::go_duration;
use super::core::{Core, Token, token_key};
use super::engine::{Ask, Engine, Login, Renewal};
use super::reply::{Envelope, Fault, Reply, random_uuid};
use super::roles::page;
use super::routes::Verb;
use super::terms::TokenTerms;
use super::terms_old;

const CAPPED: &str = "token_max_ttl is greater than the backend mount's maximum TTL value; issued tokens' max TTL value will be truncated";

/// One mount of the method.
#[derive(Default)]
pub(super) struct AppRole(Mutex<BTreeMap<String, Role>>);

#[derive(Clone, Default)]
struct Role {
    role_id: String,
    terms: TokenTerms,
    needs_secret: bool,
    bound_cidrs: Vec<String>,
    /// Zero: any number.
    num_uses: i64,
    /// Zero: it never ends.
    ttl: Duration,
    secrets: BTreeMap<[u8; 32], SecretId>,
}

impl Engine for AppRole {
    fn is_open(&self, path: &str) -> bool {
        path == "login"
    }

    fn renew_login(&self, _ask: &Ask<'_>, token: &Token) -> Result<Renewal, Fault> {
        let name = token.role.as_deref().unwrap_or_default();
        let terms = self.roles().get(name).map(|role| role.terms.clone());
        Renewal::of(terms, &format!("{name:?}"))
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
                (Verb::List, ["role"]) => page(&ask, self.roles().keys()),
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
                let warnings = remarks(ask, &role);
                let done = self.put(name, role)?;
                if warnings.is_empty() {
                    return Ok(done);
                }
                Ok(Reply::Body(Box::new(Envelope { warnings, ..Envelope::new() })))
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
            let shown = role.shown();
            let mut data = json!({ member.as_str(): shown[member.as_str()] });
            if let (Some(old), true) = (shown.get(field), ["period", "policies"].contains(&field)) {
                data[field] = old.clone();
            }
            return Ok(Reply::data(data));
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
        let Carried { mut metadata, token_cidrs } = if role.needs_secret {
            let secret = given("secret_id").ok_or_else(|| Fault::new(400, "missing secret_id"))?;
            role.use_secret(secret, ask.wall()).ok_or_else(refused)??
        } else {
            Carried::default()
        };
        let mut terms = role.terms.clone();
        if !token_cidrs.is_empty() {
            terms.bound_cidrs = cidr::without_needless_lengths(&token_cidrs);
        }
        metadata.insert("role_name".to_owned(), name.clone());
        Ok(Reply::login(Login {
            display_name: String::new(),
            alias: role.role_id.clone(),
            metadata,
            terms,
            spiffe_id: None,
            role: name.clone(),
            certificate: None,
        }))
    }
}

impl Role {
    fn new() -> Self {
        Self { role_id: random_uuid(), needs_secret: true, ..Self::default() }
    }

    fn read(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        self.terms.read(ask, terms_old::TWO)?;
        let most = ask.mount.limits().1;
        if self.terms.period > most {
            let (given, most) = (go_duration(self.terms.period), go_duration(most));
            let text = format!(
                "period of {given:?} is greater than the backend's maximum lease TTL of {most:?}"
            );
            return Err(Fault::new(400, text));
        }
        if let Some(id) = ask.text("role_id").filter(|id| !id.is_empty()) {
            self.role_id = id.to_owned();
        }
        self.needs_secret = ask.flag("bind_secret_id").unwrap_or(self.needs_secret);
        let blocks =
            ask.strings("secret_id_bound_cidrs").or_else(|| ask.strings("bound_cidr_list"));
        self.bound_cidrs = blocks.unwrap_or_else(|| self.bound_cidrs.clone());
        check_blocks(&self.bound_cidrs, "CIDR")?;
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
        Value::Object(data)
    }

    fn find(&self, by: &str, asked: &str) -> Option<[u8; 32]> {
        let key = token_key(asked);
        if by == "secret-id" {
            return self.secrets.contains_key(&key).then_some(key);
        }
        let mut own = self.secrets.iter();
        own.find(|(_, secret)| secret.accessor == asked).map(|(key, _)| *key)
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
}

/// What is not as the role says.
fn remarks(ask: &Ask<'_>, role: &Role) -> Vec<String> {
    let kind = ask.text("token_type").and_then(|kind| kind.strip_prefix("default-"));
    let kind =
        kind.map(|kind| format!("default-{kind} has no useful meaning; adjusting to {kind}"));
    let is_capped = role.terms.max_ttl > ask.mount.limits().1;
    kind.into_iter().chain(is_capped.then(|| CAPPED.to_owned())).collect()
}

fn required<'a>(ask: &'a Ask<'_>, member: &str) -> Result<&'a str, Fault> {
    let given = ask.text(member).filter(|text| !text.is_empty());
    given.ok_or_else(|| Fault::new(400, format!("missing {member}")))
}

fn no_role(status: u16, name: &str) -> Fault {
    Fault::new(status, format!("role {name:?} does not exist"))
}

fn no_accessor(asked: &str) -> String {
    format!("failed to find accessor entry for secret_id_accessor: {asked:?}")
}
