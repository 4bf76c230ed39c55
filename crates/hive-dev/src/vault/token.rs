//! `auth/token/…`: tokens that make tokens.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::core::{Core, token_key};
use super::engine::{Ask, Engine, Renewal};
use super::fields;
use super::policy::RESPONSE_WRAPPING;
use super::reply::{Fault, Reply};
use super::roles::{self, Roles};
use super::routes::Verb;
use super::setup::Capability;
use super::terms::{Span, bound_cidrs, cap_warning};
use super::tokens::{Frame, Token, TokenKey, sorted};

/// The mount of every namespace that needs no login, for it is where tokens come from.
#[derive(Default)]
pub(super) struct Tokens(Mutex<Roles<Role>>);

/// `auth/token/roles/<name>`
#[derive(Clone, Default)]
struct Role {
    allowed_policies: Vec<String>,
    orphan: bool,
    renewable: Option<bool>,
    period: Duration,
    explicit_max_ttl: Duration,
    no_default_policy: bool,
    bound_cidrs: Vec<String>,
    /// They were given by their old name, which is shown to who used that.
    has_old_cidrs: bool,
}

impl Engine for Tokens {
    fn needs_sudo(&self, path: &str) -> bool {
        path.starts_with("accessors") || path.starts_with("revoke-orphan")
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move { self.answer(&ask).await }.boxed()
    }
}

impl Tokens {
    async fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let (verb, path) = (ask.verb(), ask.path.trim_end_matches('/'));
        match (verb, path) {
            (Verb::Write, "create") => create(ask, None, false).await,
            (Verb::Write, "create-orphan") => create(ask, None, true).await,
            (Verb::Read | Verb::Write, "lookup") => lookup(ask),
            (Verb::Read | Verb::Write, "lookup-self") => lookup_self(ask),
            (Verb::Write, "lookup-accessor") => {
                let (_, token) = accessor(ask)?;
                Ok(Reply::data(token.facts(ask.core, "")))
            }
            (Verb::Write, "renew") => renew(ask),
            (Verb::Write, "renew-self") => renew_self(ask),
            (Verb::Write, "renew-accessor") => {
                let (key, _) = accessor(ask)?;
                renewed(ask, key, "")
            }
            (Verb::Write, "revoke") => revoke(ask).await,
            (Verb::Write, "revoke-self") => revoke_self(ask).await,
            (Verb::Write, "revoke-accessor") => revoke_accessor(ask).await,
            (Verb::Write, "revoke-orphan") => revoke_orphan(ask).await,
            (Verb::List, "accessors") => accessors(ask),
            (Verb::List, "roles") => self.roles().list(ask),
            (Verb::Write, "tidy") => Ok(Reply::warning(202, super::leases_api::TIDY)),
            _ => self.below(ask, path).await,
        }
    }

    async fn below(&self, ask: &Ask<'_>, path: &str) -> Result<Reply, Fault> {
        if let (Verb::Write, Some(name)) = (ask.verb(), path.strip_prefix("create/")) {
            let role = self.roles().find(name);
            let role = role.ok_or_else(|| Fault::new(400, format!("unknown role {name}")))?;
            return create(ask, Some(&role), role.orphan).await;
        }
        if let Some(name) = path.strip_prefix("roles/") {
            return self.roles().answer(ask, name);
        }
        const KNOWN: [&str; 13] = [
            "accessors",
            "create",
            "create-orphan",
            "lookup",
            "lookup-accessor",
            "lookup-self",
            "renew",
            "renew-accessor",
            "renew-self",
            "revoke",
            "revoke-accessor",
            "revoke-orphan",
            "revoke-self",
        ];
        Err(if KNOWN.contains(&path) { Fault::unsupported() } else { Fault::unsupported_path() })
    }

    fn roles(&self) -> MutexGuard<'_, Roles<Role>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl roles::Role for Role {
    fn write(&mut self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let remark = self.take(ask)?;
        Ok(remark.map_or(Reply::Empty, |text| Reply::warning(200, text)))
    }

    fn read(&self, name: &str) -> Reply {
        let mut facts = json!({
            "allowed_entity_aliases": null,
            "allowed_policies": self.allowed_policies,
            "allowed_policies_glob": [],
            "disallowed_policies": [],
            "disallowed_policies_glob": [],
            "explicit_max_ttl": self.explicit_max_ttl.as_secs(),
            "name": name,
            "orphan": self.orphan,
            "path_suffix": "",
            // The old name of `token_period`, for who used that.
            "period": 0,
            "renewable": self.renewable.unwrap_or(true),
            "token_explicit_max_ttl": self.explicit_max_ttl.as_secs(),
            "token_no_default_policy": self.no_default_policy,
            "token_period": self.period.as_secs(),
            "token_type": "default-service",
        });
        if !self.bound_cidrs.is_empty() {
            facts["token_bound_cidrs"] = json!(self.bound_cidrs);
            if self.has_old_cidrs {
                facts["bound_cidrs"] = json!(self.bound_cidrs);
            }
        }
        Reply::data(facts)
    }
}

impl Role {
    /// Takes over what the body says. The answer is a remark, if there is one.
    fn take(&mut self, ask: &Ask<'_>) -> Result<Option<&'static str>, Fault> {
        let either = |new: &str, old: &str| Ok(ask.duration(new)?.or(ask.duration(old)?));
        self.allowed_policies =
            ask.strings("allowed_policies").unwrap_or_else(|| self.allowed_policies.clone());
        self.orphan = ask.flag("orphan").unwrap_or(self.orphan);
        self.renewable = ask.flag("renewable").or(self.renewable);
        self.period = either("token_period", "period")?.unwrap_or(self.period);
        self.explicit_max_ttl =
            either("token_explicit_max_ttl", "explicit_max_ttl")?.unwrap_or(self.explicit_max_ttl);
        self.no_default_policy =
            ask.flag("token_no_default_policy").unwrap_or(self.no_default_policy);
        self.bind(ask)
    }

    fn bind(&mut self, ask: &Ask<'_>) -> Result<Option<&'static str>, Fault> {
        let blocks = |member: &str, what: &str| {
            let of_role = |fault: Fault| {
                let why = fault.errors.concat();
                Fault::new(fault.status, format!("error parsing {what}: {why}"))
            };
            bound_cidrs(ask, member).map_err(of_role)
        };
        let new = blocks("token_bound_cidrs", "role fields")?;
        let old = blocks("bound_cidrs", "bound_cidrs")?;
        let are_both = new.is_some() && old.is_some();
        if new.is_some() || old.is_some() {
            self.has_old_cidrs = new.is_none();
            self.bound_cidrs = new.or(old).unwrap_or_default();
        }
        Ok(are_both.then_some(OLD_CIDRS))
    }
}

const OLD_CIDRS: &str = "Both 'token_bound_cidrs' and deprecated 'bound_cidrs' value supplied, ignoring the deprecated value";

fn refused(text: &str) -> Fault {
    Fault::new(400, text)
}

async fn create(ask: &Ask<'_>, role: Option<&Role>, orphan: bool) -> Result<Reply, Fault> {
    let caller = ask.caller()?;
    if caller.token.is_batch {
        return Err(refused("batch tokens cannot create more tokens"));
    }
    let kind = ask.text("type").unwrap_or_default();
    if !["", "batch", "default", "service"].contains(&kind) {
        return Err(refused("invalid 'token_type' value"));
    }
    let is_sudo = is_sudo(ask);
    let policies = policies(ask, role, is_sudo)?;
    let wants_orphan = ask.flag("no_parent") == Some(true);
    if wants_orphan && !is_sudo {
        return Err(refused("root or sudo privileges required to create orphan token"));
    }
    let is_orphan = orphan || (wants_orphan && role.is_none());
    let span = Span::endless(&ask.core.clock);
    let mut token = Token::plain(&ask.call.namespace, &ask.call.path, policies, span);
    token.parent = (!is_orphan).then_some(caller.key);
    token.is_batch = kind == "batch";
    describe(ask, role, is_sudo, &mut token)?;
    let warning = set_span(ask, &mut token)?;
    let mut warnings = unknown_policies(ask.core, &token);
    warnings.extend(warning);
    finish(ask, token, is_sudo, warnings).await
}

fn describe(
    ask: &Ask<'_>,
    role: Option<&Role>,
    is_sudo: bool,
    token: &mut Token,
) -> Result<(), Fault> {
    token.num_uses = ask.number("num_uses")?.unwrap_or_default();
    token.period = positive(ask, "period")?.unwrap_or_default();
    token.explicit_max_ttl = positive(ask, "explicit_max_ttl")?.unwrap_or_default();
    token.meta = fields::pairs(&ask.call.body, "meta").unwrap_or_default().into_iter().collect();
    if let Some(name) = ask.text("display_name").filter(|name| !name.is_empty()) {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
        token.display_name = format!("token-{}", name.chars().map(plain).collect::<String>());
    }
    if token.num_uses < 0 {
        return Err(refused("number of uses cannot be negative"));
    }
    if !token.period.is_zero() && !is_sudo {
        return Err(refused("root or sudo privileges required to create periodic token"));
    }
    if token.is_batch {
        check_batch(token)?;
    }
    if let Some(role) = role {
        let own = |given: Duration, own: Duration| if own.is_zero() { given } else { own };
        token.period = own(token.period, role.period);
        token.explicit_max_ttl = own(token.explicit_max_ttl, role.explicit_max_ttl);
        token.bound_cidrs.clone_from(&role.bound_cidrs);
    }
    let renewable = role.and_then(|role| role.renewable).unwrap_or(true);
    token.renewable = !token.is_batch && renewable && ask.flag("renewable").unwrap_or(true);
    Ok(())
}

fn check_batch(token: &Token) -> Result<(), Fault> {
    let set = [
        ("num_uses", token.num_uses != 0),
        ("period", !token.period.is_zero()),
        ("explicit_max_ttl", !token.explicit_max_ttl.is_zero()),
    ];
    if let Some((name, _)) = set.iter().find(|(_, set)| *set) {
        return Err(Fault::new(400, format!("batch tokens cannot have \"{name}\" set")));
    }
    if token.is_root() {
        return Err(refused("batch tokens cannot be root tokens"));
    }
    Ok(())
}

/// A duration that is not negative.
fn positive(ask: &Ask<'_>, member: &str) -> Result<Option<Duration>, Fault> {
    let text = ask.text(member).unwrap_or_default();
    if text.starts_with('-') && super::clock::parse_duration(&json!(text[1..])).is_some() {
        return Err(Fault::new(400, format!("{member} must be positive")));
    }
    ask.duration(member).map_err(|_| Fault::new(400, format!("time: invalid duration \"{text}\"")))
}

fn is_sudo(ask: &Ask<'_>) -> bool {
    let path = format!("{}{}", ask.call.namespace, ask.call.path);
    ask.caller.is_some_and(|caller| {
        let granted = ask.core.granted(&caller.token, &path);
        caller.token.is_root() || granted.contains(&Capability::Sudo)
    })
}

fn policies(ask: &Ask<'_>, role: Option<&Role>, is_sudo: bool) -> Result<Vec<String>, Fault> {
    let own = &ask.caller()?.token.policies;
    // Commas do not part them here: the field is a list.
    let given = match ask.call.body.get("policies") {
        Some(Value::String(one)) => vec![one.to_lowercase()],
        _ => ask.strings("policies").unwrap_or_default(),
    };
    let mut wanted: Vec<_> = given.iter().map(|name| name.to_lowercase()).collect();
    if wanted.iter().any(|name| name == RESPONSE_WRAPPING) {
        return Err(refused("cannot assign policy \"response-wrapping\""));
    }
    let no_default = ask.flag("no_default_policy") == Some(true)
        || role.is_some_and(|role| role.no_default_policy);
    if let Some(role) = role.filter(|role| !role.allowed_policies.is_empty()) {
        if wanted.is_empty() {
            wanted.clone_from(&role.allowed_policies);
        }
        let allowed = |name: &&String| !role.allowed_policies.contains(name) && *name != "default";
        if wanted.iter().any(|name| allowed(&name)) {
            let listed = |names: &[String]| {
                let names = sorted(names.iter().cloned().chain(["default".to_owned()]).collect());
                names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ")
            };
            let (wanted, allowed) = (listed(&wanted), listed(&role.allowed_policies));
            let text = format!(
                "token policies ([{wanted}]) must be subset of the role's allowed policies ([{allowed}]) or glob policies ([])"
            );
            return Err(Fault::new(400, text));
        }
    } else if wanted.is_empty() {
        wanted.clone_from(own);
    } else if !is_sudo && wanted.iter().any(|name| name != "default" && !own.contains(name)) {
        return Err(refused("child policies must be subset of parent"));
    }
    let is_root = wanted.iter().any(|name| name == "root");
    if is_root && !own.iter().any(|name| name == "root") {
        return Err(refused("root tokens may not be created without parent token being root"));
    }
    if !no_default && !is_root {
        wanted.push("default".to_owned());
    }
    Ok(sorted(wanted))
}

fn set_span(ask: &Ask<'_>, token: &mut Token) -> Result<Option<String>, Fault> {
    let (default_ttl, max_ttl) = ask.mount.limits();
    let asked = positive(ask, "ttl")?.filter(|ttl| !ttl.is_zero());
    let clock = &ask.core.clock;
    let explicit = Some(token.explicit_max_ttl).filter(|explicit| !explicit.is_zero());
    if token.is_root() && asked.is_none() && explicit.is_none() && token.period.is_zero() {
        // What never ends is bound to no place either, so that nobody locks himself out.
        token.renewable = false;
        token.bound_cidrs.clear();
        return Ok(None);
    }
    if !token.period.is_zero() {
        token.span = Span::new(clock, token.period, explicit);
        return Ok(None);
    }
    let max_ttl = explicit.map_or(max_ttl, |explicit| max_ttl.min(explicit));
    token.span = Span::new(clock, asked.unwrap_or(default_ttl), Some(max_ttl));
    Ok(asked.and_then(|asked| cap_warning(asked, token.span.ttl)))
}

fn unknown_policies(core: &Core, token: &Token) -> Vec<String> {
    let state = core.state();
    let known = |name: &str| name == "root" || state.policies.get(&token.namespace, name).is_some();
    let unknown = token.policies.iter().filter(|name| !known(name));
    unknown.map(|name| format!("Policy \"{name}\" does not exist")).collect()
}

async fn finish(
    ask: &Ask<'_>,
    token: Token,
    is_sudo: bool,
    mut warnings: Vec<String>,
) -> Result<Reply, Fault> {
    let ttl = token.span.ttl;
    let Some(id) = ask.text("id").filter(|id| !id.is_empty()) else {
        let (secret, token) = ask.core.put_token(token).await?;
        return Ok(Reply::auth(token.auth(&secret, ttl), warnings));
    };
    if !is_sudo {
        return Err(refused("root or sudo privileges required to specify token id"));
    }
    if id.starts_with("s.") {
        return Err(refused("custom token ID cannot have the 's.' prefix"));
    }
    if id.contains('.') {
        return Err(refused("custom token ID cannot have a '.' in the value"));
    }
    if ask.core.token(&token_key(id)).is_some() {
        return Err(refused("cannot create a token with a duplicate ID"));
    }
    let auth = token.auth(id, ttl);
    ask.core.put_token_as(id, token).await?;
    warnings.push("Supplying a custom ID for the token uses the weaker SHA1 hashing instead of the more secure SHA2-256 HMAC for token obfuscation. SHA1 hashed tokens on the wire leads to less secure lookups.".to_owned());
    Ok(Reply::auth(auth, warnings))
}

fn lookup_self(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let caller = ask.caller()?;
    Ok(Reply::data(caller.token.facts(ask.core, caller.secret.expose_secret())))
}

fn lookup(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let Some(secret) = given_token(ask) else { return lookup_self(ask) };
    let token = ask.core.token(&token_key(secret)).filter(|token| token.wrapped.is_none());
    let token = token.ok_or_else(|| Fault::new(403, "bad token"))?;
    Ok(Reply::data(token.facts(ask.core, secret)))
}

fn given_token<'a>(ask: &'a Ask<'_>) -> Option<&'a str> {
    ask.text("token").filter(|token| !token.is_empty())
}

fn accessor(ask: &Ask<'_>) -> Result<(TokenKey, Token), Fault> {
    let accessor = ask.text("accessor").filter(|accessor| !accessor.is_empty());
    let accessor = accessor.ok_or_else(|| Fault::listed(400, "missing accessor"))?;
    ask.core.by_accessor(accessor).ok_or_else(|| Fault::listed(400, "invalid accessor"))
}

fn renew(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let secret = given_token(ask).ok_or_else(|| refused("missing token ID"))?;
    renewed(ask, token_key(secret), secret)
}

fn renew_self(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let caller = ask.caller()?;
    renewed(ask, caller.key, caller.secret.expose_secret())
}

fn renewed(ask: &Ask<'_>, key: TokenKey, secret: &str) -> Result<Reply, Fault> {
    let asked = ask.duration("increment").map_err(Fault::of_field)?;
    let token = ask.core.token(&key).ok_or_else(|| refused("token not found"))?;
    if token.is_batch {
        return Err(refused("batch tokens cannot be renewed"));
    }
    if !token.renewable {
        return Err(refused("lease is not renewable"));
    }
    let frame = match ask.core.mount(&token.namespace, &token.path) {
        None => None,
        Some((mount, _)) => match mount.engine.renew_login(ask, &token)? {
            Renewal::AsIssued => None,
            Renewal::Nothing => return Ok(Reply::Empty),
            Renewal::On(terms) => Some(Frame::of(&mount, &terms, token.explicit_max_ttl)),
        },
    };
    let renewed = ask.core.renew_token(&key, asked, frame.as_ref());
    let (token, granted, warning) = renewed.ok_or_else(|| refused("token not found"))?;
    Ok(Reply::auth(token.auth(secret, granted), warning.into_iter().collect()))
}

async fn end(ask: &Ask<'_>, key: TokenKey) -> Result<Reply, Fault> {
    if ask.core.token(&key).is_some_and(|token| token.is_batch) {
        return Err(refused("batch tokens cannot be revoked"));
    }
    if ask.core.revoke_token(key, "token_revoked").await.is_err() {
        tracing::error!("a token's revocation was cut short; its leases end when they expire");
    }
    Ok(Reply::Empty)
}

async fn revoke(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let secret = given_token(ask).ok_or_else(|| refused("missing token ID"))?;
    end(ask, token_key(secret)).await
}

async fn revoke_self(ask: &Ask<'_>) -> Result<Reply, Fault> {
    end(ask, ask.caller()?.key).await
}

async fn revoke_accessor(ask: &Ask<'_>) -> Result<Reply, Fault> {
    match accessor(ask) {
        Ok((key, _)) => end(ask, key).await,
        Err(_) if ask.text("accessor").is_some_and(|accessor| !accessor.is_empty()) => {
            Ok(Reply::warning(200, "No token found with this accessor"))
        }
        Err(fault) => Err(fault),
    }
}

async fn revoke_orphan(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let secret = given_token(ask).ok_or_else(|| refused("missing token ID"))?;
    let key = token_key(secret);
    ask.core.token(&key).ok_or_else(|| refused("token to revoke not found"))?;
    ask.core.orphan_children(&key);
    end(ask, key).await
}

fn accessors(ask: &Ask<'_>) -> Result<Reply, Fault> {
    let state = ask.core.state();
    let own = state
        .tokens
        .values()
        .filter(|token| token.namespace == ask.call.namespace && !token.accessor.is_empty());
    let accessors: Vec<_> = own.map(|token| token.accessor.clone()).collect();
    drop(state);
    Reply::keys(accessors)
}

/// The token that a test or an operator begins with.
pub(super) async fn add_root(core: &Core, secret: &str) -> Result<(), Fault> {
    let span = Span::endless(&core.clock);
    let token = Token::plain("", "auth/token/create", vec!["root".to_owned()], span);
    core.put_token_as(secret, token).await
}
