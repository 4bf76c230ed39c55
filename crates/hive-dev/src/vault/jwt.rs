//! The auth method `jwt`: who can show a JWT of the right authority, for us, with the right claims, may log in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Map, Value, json};

use super::clock::go_duration;
use super::engine::{Ask, Engine, Login, Renewal};
use super::fields;
use super::jwt_claims::{Claims, Demands, Leeway, audiences, check, check_bound, find};
use super::jwt_keys::Keys;
use super::reply::{Fault, Reply};
use super::roles::{self, Roles};
use super::routes::Verb;
use super::setup::JwtRole;
use super::terms::TokenTerms;
use super::terms_old;
use super::tokens::{Token, object};

/// One mount of the method.
#[derive(Default)]
pub(super) struct Jwt(Mutex<State>);

#[derive(Default)]
struct State {
    config: Option<Arc<Config>>,
    roles: Roles<Role>,
}

struct Config {
    keys: Keys,
    issuer: String,
    algorithms: Vec<String>,
    default_role: String,
    jwks_url: String,
    pems: Vec<String>,
}

#[derive(Clone, Default)]
struct Role {
    audiences: Vec<String>,
    subject: String,
    claims: Option<Claims>,
    globs: bool,
    mappings: BTreeMap<String, String>,
    user_claim: String,
    groups_claim: String,
    leeway: Leeway,
    terms: TokenTerms,
}

impl Engine for Jwt {
    fn is_open(&self, path: &str) -> bool {
        path == "login"
    }

    fn renew_login(&self, _ask: &Ask<'_>, token: &Token) -> Result<Renewal, Fault> {
        let name = token.role.as_deref().unwrap_or_default();
        Renewal::of(self.state().roles.find(name).map(|role| role.terms), name)
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            match (ask.verb(), ask.path.trim_end_matches('/')) {
                (Verb::Write, "login") => self.login(&ask).await,
                (_, "login") => Err(Fault::new(405, "unsupported operation")),
                (Verb::Read, "config") => {
                    self.config().as_deref().ok_or_else(Fault::no_value).map(shown)
                }
                (Verb::Write, "config") => self.configure(&ask).await,
                (_, "config") => Err(Fault::unsupported()),
                (Verb::List, "role") => self.state().roles.list(&ask),
                _ => match ask.below("role/") {
                    Some(name) => self.state().roles.answer(&ask, name),
                    None => Err(Fault::unsupported_path()),
                },
            }
        }
        .boxed()
    }
}

impl Jwt {
    /// As a setup describes it: the keys are fetched when they are needed first.
    pub(super) fn of(jwks_url: String, roles: BTreeMap<String, JwtRole>) -> Self {
        let config = Config {
            keys: Keys::url(&jwks_url),
            issuer: String::new(),
            algorithms: Vec::new(),
            default_role: String::new(),
            jwks_url,
            pems: Vec::new(),
        };
        let roles = roles.into_iter().map(|(name, role)| (name, Role::of(role))).collect();
        Self(Mutex::new(State { config: Some(Arc::new(config)), roles }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> Option<Arc<Config>> {
        self.state().config.clone()
    }

    /// Writing it, even as it was, forgets the keys that were fetched.
    async fn configure(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let url = ask.text("jwks_url").unwrap_or_default();
        let pems = ask.strings("jwt_validation_pubkeys").unwrap_or_default();
        let other = ["jwks_pairs", "oidc_discovery_url", "provider_config"];
        let is_set = |name: &&str| {
            ask.call.body.get(*name).is_some_and(|v| !v.is_null() && v != "" && *v != json!({}))
        };
        if let Some(name) = other.iter().find(|name| is_set(name)) {
            let text = format!("'{name}' is not served by the development vault: use 'jwks_url'");
            return Err(Fault::new(400, text));
        }
        if url.is_empty() == pems.is_empty() {
            let text = "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs', 'oidc_discovery_url', or 'provider_config' must be set";
            return Err(Fault::new(400, text));
        }
        let keys = if url.is_empty() { Keys::fixed(&pems) } else { Some(Keys::url(url)) };
        let text = "error parsing public key: data does not contain any valid public keys";
        let keys = keys.ok_or_else(|| Fault::new(400, text))?;
        if !keys.check().await {
            return Err(Fault::new(400, "error checking jwks URL"));
        }
        let config = Config {
            keys,
            issuer: ask.text("bound_issuer").unwrap_or_default().to_owned(),
            algorithms: ask.strings("jwt_supported_algs").unwrap_or_default(),
            default_role: ask.text("default_role").unwrap_or_default().to_owned(),
            jwks_url: url.to_owned(),
            pems,
        };
        self.state().config = Some(Arc::new(config));
        Ok(Reply::Empty)
    }

    async fn login(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let refused = |text: String| Fault::new(400, text);
        let config = self.config();
        let config = config.ok_or_else(|| refused("could not load configuration".to_owned()))?;
        let name = ask.text("role").filter(|name| !name.is_empty()).unwrap_or(&config.default_role);
        if name.is_empty() {
            return Err(refused("missing role".to_owned()));
        }
        ask.note(|entry| entry.role = Some(name.to_owned()));
        let jwt = ask.text("jwt").filter(|jwt| !jwt.is_empty());
        let role = self.state().roles.find(name);
        let role = role.ok_or_else(|| refused(format!("role {name:?} could not be found")))?;
        let jwt = jwt.ok_or_else(|| refused("missing token".to_owned()))?;
        if !role.terms.admits_caller() {
            return Err(Fault::no_token());
        }
        let (claims, algorithm) = config.keys.verify(jwt).await.map_err(|why| {
            refused(format!("error validating token: error verifying token signature: {why}"))
        })?;
        let subject = claims.get("sub").and_then(Value::as_str).map(str::to_owned);
        ask.note(|entry| entry.spiffe_id.clone_from(&subject));
        check(&claims, &algorithm, &role.demands(&config), ask.wall())
            .map_err(|why| refused(format!("error validating token: {why}")))?;
        role.vouch(name, &claims, subject).map(Reply::login)
    }
}

impl roles::Role for Role {
    fn write(&mut self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        self.take(ask)?;
        Ok(Reply::Empty)
    }

    fn read(&self, _name: &str) -> Reply {
        let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
        let mappings = if self.mappings.is_empty() { Value::Null } else { json!(self.mappings) };
        let mut facts = object(json!({
            "allowed_redirect_uris": null,
            "bound_audiences": list(&self.audiences),
            "bound_claims": self.claims,
            "bound_claims_type": if self.globs { "glob" } else { "string" },
            "bound_subject": self.subject,
            "callback_mode": "client",
            "claim_mappings": mappings,
            "clock_skew_leeway": self.leeway.skew,
            "expiration_leeway": self.leeway.expiration,
            "groups_claim": self.groups_claim,
            "max_age": 0,
            "not_before_leeway": self.leeway.not_before,
            "oauth2_metadata": null,
            "oidc_disable_confirmation": false,
            "oidc_scopes": null,
            "role_type": "jwt",
            "token_policies_template_claims": false,
            "user_claim": self.user_claim,
            "user_claim_json_pointer": false,
            "verbose_oidc_logging": false,
        }));
        self.terms.describe(&mut facts);
        Reply::data(Value::Object(facts))
    }
}

impl Role {
    fn of(role: JwtRole) -> Self {
        let seconds = std::time::Duration::from_secs;
        let claims = json!({ "sub": role.bound_claims_sub_glob });
        Self {
            audiences: role.bound_audiences,
            claims: Some(object(claims)),
            globs: true,
            user_claim: "sub".to_owned(),
            terms: TokenTerms {
                policies: role.token_policies,
                ttl: seconds(role.token_ttl_s),
                max_ttl: seconds(role.token_max_ttl_s),
                ..TokenTerms::default()
            },
            ..Self::default()
        }
    }

    fn take(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        let refused = |text: &str| Err(Fault::new(400, text));
        match ask.text("role_type") {
            Some("jwt") => {}
            None | Some("" | "oidc") => {
                return refused(
                    "'allowed_redirect_uris' must be set if 'role_type' is 'oidc' or unspecified.",
                );
            }
            Some(odd) => return refused(&format!("invalid 'role_type': {odd}")),
        }
        self.terms.read(ask, terms_old::ALL)?;
        let most = ask.mount.limits().1;
        if self.terms.period > most {
            let (given, most) = (go_duration(self.terms.period), go_duration(most));
            return refused(&format!(
                "'period' of '{given:?}' is greater than the backend's maximum lease TTL of '{most:?}'"
            ));
        }
        self.audiences = ask.strings("bound_audiences").unwrap_or_else(|| self.audiences.clone());
        let own = |member: &str, old: &str| ask.text(member).unwrap_or(old).to_owned();
        self.subject = own("bound_subject", &self.subject);
        self.user_claim = own("user_claim", &self.user_claim);
        self.groups_claim = own("groups_claim", &self.groups_claim);
        self.globs = match ask.text("bound_claims_type") {
            None => self.globs,
            Some("string") => false,
            Some("glob") => true,
            Some(odd) => return refused(&format!("invalid 'bound_claims_type': {odd}")),
        };
        if let Some(claims) = ask.call.body.get("bound_claims").filter(|claims| !claims.is_null()) {
            self.claims = Some(object(claims.clone()));
        }
        if let Some(mappings) = fields::pairs(&ask.call.body, "claim_mappings") {
            self.mappings = mappings.into_iter().collect();
        }
        let leeway = |member: &str, old: i64| {
            Ok::<_, Fault>(
                ask.number(member)
                    .or_else(|_| {
                        Ok(ask.duration(member)?.and_then(|own| i64::try_from(own.as_secs()).ok()))
                    })?
                    .unwrap_or(old),
            )
        };
        self.leeway = Leeway {
            skew: leeway("clock_skew_leeway", self.leeway.skew)?,
            expiration: leeway("expiration_leeway", self.leeway.expiration)?,
            not_before: leeway("not_before_leeway", self.leeway.not_before)?,
        };
        self.check()
    }

    fn check(&self) -> Result<(), Fault> {
        if self.user_claim.is_empty() {
            return Err(Fault::new(400, "a user claim must be defined on the role"));
        }
        let is_bound = !self.audiences.is_empty()
            || !self.subject.is_empty()
            || self.claims.as_ref().is_some_and(|claims| !claims.is_empty());
        if !is_bound {
            let text = "must have at least one bound constraint when creating/updating a role";
            return Err(Fault::new(400, text));
        }
        Ok(())
    }

    fn demands<'a>(&'a self, config: &'a Config) -> Demands<'a> {
        Demands {
            issuer: &config.issuer,
            subject: &self.subject,
            audiences: &self.audiences,
            algorithms: &config.algorithms,
            leeway: self.leeway,
        }
    }

    fn vouch(&self, name: &str, claims: &Claims, subject: Option<String>) -> Result<Login, Fault> {
        let refused = |text: String| Fault::new(400, text);
        if self.audiences.is_empty() && !audiences(claims).is_empty() {
            let text = "audience claim found in JWT but no audiences bound to the role";
            return Err(refused(text.to_owned()));
        }
        let claim = &self.user_claim;
        let user = find(claims, claim)
            .ok_or_else(|| refused(format!("claim {claim:?} not found in token")))?;
        let text = || format!("claim {claim:?} could not be converted to string");
        let user = user.as_str().ok_or_else(|| refused(text()))?;
        let mut metadata = BTreeMap::from([("role".to_owned(), name.to_owned())]);
        for (claim, key) in &self.mappings {
            let Some(value) = find(claims, claim) else { continue };
            let text = || format!("error converting claim '{claim}' to string");
            let value = value.as_str().ok_or_else(|| refused(text()))?;
            metadata.insert(key.clone(), value.to_owned());
        }
        if let Some(bound) = &self.claims {
            check_bound(bound, self.globs, claims)
                .map_err(|why| refused(format!("error validating claims: {why}")))?;
        }
        Ok(Login {
            display_name: user.to_owned(),
            alias: user.to_owned(),
            metadata,
            terms: self.terms.clone(),
            spiffe_id: subject,
            role: name.to_owned(),
            certificate: None,
        })
    }
}

fn shown(config: &Config) -> Reply {
    let nothing: Map<String, Value> = Map::new();
    Reply::data(json!({
        "bound_issuer": config.issuer,
        "default_role": config.default_role,
        "jwks_ca_pem": "",
        "jwks_url": config.jwks_url,
        "jwt_supported_algs": config.algorithms,
        "jwt_validation_pubkeys": config.pems,
        "namespace_in_state": true,
        "oidc_client_id": "",
        "oidc_discovery_ca_pem": "",
        "oidc_discovery_url": "",
        "oidc_response_mode": "",
        "oidc_response_types": [],
        "override_allowed_server_names": [],
        "provider_config": nothing,
        "status": "valid",
    }))
}
