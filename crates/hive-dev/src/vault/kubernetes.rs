//! The auth method `kubernetes`: whoever a Kubernetes API server vouches for may log in.
//!
//! Not here: keys of its own to verify tokens with (`pem_keys`), and selectors of namespaces by their labels.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use futures_util::future::{BoxFuture, FutureExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

use super::clock::go_duration;
use super::core::{Core, Token};
use super::engine::{Ask, Engine, Login, Renewal};
use super::jwt_claims::glob;
use super::reply::{Fault, Reply};
use super::roles::{self, Roles};
use super::routes::Verb;
use super::terms::TokenTerms;
use super::terms_old;
use crate::calls;

/// One question to the API server.
const REVIEW_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_MAX_BYTES: usize = 1 << 20;
const CAPPED: &str = "max_ttl is greater than the system or backend mount's maximum TTL value; issued tokens' max TTL value will be truncated";

/// One mount of the method.
#[derive(Default)]
pub(super) struct Kubernetes(Mutex<State>);

#[derive(Default)]
struct State {
    config: Option<Arc<Config>>,
    roles: Roles<Role>,
}

struct Config {
    host: String,
    ca: String,
    reviewer: String,
    no_local: bool,
    client: reqwest::Client,
}

#[derive(Clone, Default)]
struct Role {
    names: Vec<String>,
    namespaces: Vec<String>,
    audience: String,
    by_name: bool,
    terms: TokenTerms,
}

/// Who a token says it is for.
#[derive(Debug, PartialEq)]
struct Account {
    name: String,
    namespace: String,
    uid: String,
}

impl Engine for Kubernetes {
    fn is_open(&self, path: &str) -> bool {
        path == "login"
    }

    fn renew_login(&self, _ask: &Ask<'_>, token: &Token) -> Result<Renewal, Fault> {
        let name = token.role.as_deref().unwrap_or_default();
        Renewal::of(self.state().roles.find(name).map(|role| role.terms), name)
    }

    fn exists(&self, _core: &Core, path: &str) -> bool {
        path.strip_prefix("role/").is_none_or(|name| self.state().roles.find(name).is_some())
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        async move {
            match (ask.verb(), ask.path.trim_end_matches('/')) {
                (Verb::Write, "login") => self.login(&ask).await,
                (Verb::Read, "config") => {
                    let config = self.state().config.clone().ok_or_else(Fault::no_value)?;
                    Ok(Reply::data(config.shown()))
                }
                (Verb::Write, "config") => {
                    let config = Config::read(&ask)?;
                    self.state().config = Some(Arc::new(config));
                    Ok(Reply::Empty)
                }
                (Verb::List, "role") => self.state().roles.list(&ask),
                (_, "login") => Err(Fault::new(405, "unsupported operation")),
                (_, "config") => Err(Fault::unsupported()),
                _ => match ask.below("role/") {
                    Some(name) => self.state().roles.answer(&ask, name),
                    None => Err(Fault::unsupported_path()),
                },
            }
        }
        .boxed()
    }
}

impl Kubernetes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn login(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let given = |member: &str| {
            let text = ask.text(member).filter(|text| !text.is_empty());
            text.ok_or_else(|| Fault::new(400, format!("missing {member}")))
        };
        let (name, jwt) = (given("role")?, given("jwt")?);
        ask.note(|entry| entry.role = Some(name.to_owned()));
        let (role, config) = {
            let state = self.state();
            (state.roles.find(name), state.config.clone())
        };
        let unknown = || Fault::new(400, format!("invalid role name {name:?}"));
        let role = role.ok_or_else(unknown)?;
        if !role.terms.admits_caller() {
            return Err(Fault::no_token());
        }
        let no_config = || Fault::new(500, "could not load backend configuration");
        let config = config.ok_or_else(no_config)?;
        let claims = claims(jwt).ok_or_else(|| Fault::new(500, "the JWT cannot be parsed"))?;
        let account = role.admit(&claims)?;
        let audiences =
            if role.audience.is_empty() { audiences(&claims) } else { vec![role.audience.clone()] };
        let reviewed = config.review(jwt, &audiences).await;
        match reviewed {
            Ok(reviewed) if reviewed == account => Ok(role.vouch(name, account)),
            Ok(_) => Err(Fault::no_token()),
            Err(why) => {
                tracing::warn!(why, "a login with a Kubernetes token was refused");
                Err(Fault::no_token())
            }
        }
    }
}

impl Config {
    fn read(ask: &Ask<'_>) -> Result<Self, Fault> {
        let refused = |text: &str| Fault::new(400, text);
        let text = |member: &str| ask.text(member).unwrap_or_default().to_owned();
        let (host, ca, reviewer) =
            (text("kubernetes_host"), text("kubernetes_ca_cert"), text("token_reviewer_jwt"));
        let no_local = ask.flag("disable_local_ca_jwt").unwrap_or(false);
        if host.is_empty() {
            return Err(refused("no host provided"));
        }
        if no_local && ca.is_empty() {
            return Err(refused(
                "kubernetes_ca_cert must be given when disable_local_ca_jwt is true",
            ));
        }
        if ca.is_empty() {
            return Err(refused(
                "open /var/run/secrets/kubernetes.io/serviceaccount/ca.crt: no such file or directory",
            ));
        }
        if ask.strings("pem_keys").is_some_and(|keys| !keys.is_empty()) {
            return Err(refused("'pem_keys' is not served by the development vault"));
        }
        let client = client(&ca).ok_or_else(|| refused("kubernetes_ca_cert cannot be parsed"))?;
        Ok(Self { host, ca, reviewer, no_local, client })
    }

    fn shown(&self) -> Value {
        json!({
            "disable_iss_validation": true,
            "disable_local_ca_jwt": self.no_local,
            "issuer": "",
            "kubernetes_ca_cert": self.ca,
            "kubernetes_host": self.host,
            "pem_keys": [],
            "token_reviewer_jwt_set": !self.reviewer.is_empty(),
        })
    }

    /// Asks the API server whose token this is.
    async fn review(&self, jwt: &str, audiences: &[String]) -> Result<Account, &'static str> {
        let url = format!(
            "{}/apis/authentication.k8s.io/v1/tokenreviews",
            self.host.trim_end_matches('/')
        );
        let question = json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {},
            "spec": { "token": jwt, "audiences": audiences },
            "status": {},
        });
        let bearer = if self.reviewer.is_empty() { jwt } else { &self.reviewer };
        let asked = self.client.post(url).bearer_auth(bearer).json(&question).send().await;
        let answer = asked.map_err(|_| "the API server cannot be reached")?;
        if !answer.status().is_success() {
            return Err("the API server refused the review");
        }
        let body = answer.bytes().await.map_err(|_| "the API server's answer was cut short")?;
        if body.len() > ANSWER_MAX_BYTES {
            return Err("the API server's answer is too long");
        }
        let answer: Value =
            serde_json::from_slice(&body).map_err(|_| "the API server's answer is not JSON")?;
        reviewed(&answer["status"], audiences)
    }
}

fn reviewed(status: &Value, audiences: &[String]) -> Result<Account, &'static str> {
    if status["authenticated"] != true {
        return Err("the service account's token is not valid");
    }
    let own = status["audiences"].as_array().cloned().unwrap_or_default();
    let is_wanted = |own: &Value| audiences.iter().any(|wanted| own == wanted);
    if !audiences.is_empty() && !own.iter().any(is_wanted) {
        return Err("the token is for another audience");
    }
    let username = status["user"]["username"].as_str().unwrap_or_default();
    match username.split(':').collect::<Vec<_>>().as_slice() {
        ["system", "serviceaccount", namespace, name] => Ok(Account {
            name: (*name).to_owned(),
            namespace: (*namespace).to_owned(),
            uid: status["user"]["uid"].as_str().unwrap_or_default().to_owned(),
        }),
        _ => Err("the token is not a service account's"),
    }
}

impl roles::Role for Role {
    fn write(&mut self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        self.take(ask)?;
        if self.terms.max_ttl > ask.mount.limits().1 {
            return Ok(Reply::warning(200, CAPPED));
        }
        Ok(Reply::Empty)
    }

    fn read(&self, _name: &str) -> Reply {
        Reply::data(self.shown())
    }
}

impl Role {
    fn take(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        let refused = |text: &str| Err(Fault::new(400, text));
        self.terms.read(ask, terms_old::ALL)?;
        let most = ask.mount.limits().1;
        if self.terms.period > most {
            let (given, most) = (go_duration(self.terms.period), go_duration(most));
            return refused(&format!(
                "token period of '{given:?}' is greater than the backend's maximum lease TTL of '{most:?}'"
            ));
        }
        if !self.terms.max_ttl.is_zero() && self.terms.ttl > self.terms.max_ttl {
            return refused("token ttl should not be greater than token max ttl");
        }
        let list =
            |member: &str, own: &[String]| ask.strings(member).unwrap_or_else(|| own.to_vec());
        self.names = list("bound_service_account_names", &self.names);
        self.namespaces = list("bound_service_account_namespaces", &self.namespaces);
        if self.names.is_empty() {
            return refused("\"bound_service_account_names\" can not be empty");
        }
        let is_mixed = |list: &[String]| list.len() > 1 && list.iter().any(|one| one == "*");
        if is_mixed(&self.names) || is_mixed(&self.namespaces) {
            return refused("can not mix \"*\" with values");
        }
        if self.namespaces.is_empty() {
            return refused(
                "\"bound_service_account_namespaces\" can not be empty if \"bound_service_account_namespace_selector\" is not set",
            );
        }
        self.audience = ask.text("audience").unwrap_or(&self.audience).to_owned();
        self.by_name = match ask.text("alias_name_source") {
            None => self.by_name,
            Some("" | "serviceaccount_uid") => false,
            Some("serviceaccount_name") => true,
            Some(odd) => {
                return refused(&format!(
                    "invalid alias_name_source {odd:?}, must be one of: serviceaccount_uid, serviceaccount_name"
                ));
            }
        };
        Ok(())
    }

    fn shown(&self) -> Value {
        let source = if self.by_name { "serviceaccount_name" } else { "serviceaccount_uid" };
        let mut data = Map::new();
        self.terms.describe(&mut data);
        let own = json!({
            "alias_name_source": source,
            "bound_service_account_names": self.names,
            "bound_service_account_namespace_selector": "",
            "bound_service_account_namespaces": self.namespaces,
        });
        data.extend(own.as_object().cloned().unwrap_or_default());
        if !self.audience.is_empty() {
            data.insert("audience".to_owned(), json!(self.audience));
        }
        Value::Object(data)
    }

    /// Whether the role is for whom the token says it is for; the API server is asked after that.
    fn admit(&self, claims: &Value) -> Result<Account, Fault> {
        let account = account(claims);
        let account = account.ok_or_else(|| Fault::new(500, "could not parse UID from claims"))?;
        let has =
            |patterns: &[String], own: &str| patterns.iter().any(|own_one| glob(own_one, own));
        if !has(&self.namespaces, &account.namespace) {
            return Err(Fault::new(403, "namespace not authorized"));
        }
        if !has(&self.names, &account.name) {
            return Err(Fault::new(403, "service account name not authorized"));
        }
        if !self.audience.is_empty() && !audiences(claims).contains(&self.audience) {
            return Err(Fault::new(
                403,
                "invalid audience (aud) claim: audience claim does not match any expected audience",
            ));
        }
        Ok(account)
    }

    fn vouch(&self, role: &str, account: Account) -> Reply {
        let Account { name, namespace, uid } = account;
        let alias = if self.by_name { format!("{namespace}/{name}") } else { uid.clone() };
        let metadata = [
            ("role", role.to_owned()),
            ("service_account_name", name.clone()),
            ("service_account_namespace", namespace.clone()),
            ("service_account_secret_name", String::new()),
            ("service_account_uid", uid),
        ];
        let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value));
        Reply::login(Login {
            display_name: format!("{namespace}-{name}"),
            alias,
            metadata: metadata.collect(),
            terms: self.terms.clone(),
            spiffe_id: None,
            role: role.to_owned(),
            certificate: None,
        })
    }
}

/// What a token claims. Nobody has verified it: that is for the API server.
fn claims(jwt: &str) -> Option<Value> {
    let body = jwt.split('.').nth(1).filter(|_| jwt.split('.').count() == 3)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

fn account(claims: &Value) -> Option<Account> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let own = &claims["kubernetes.io"];
    if own.is_object() {
        return Some(Account {
            name: text(&own["serviceaccount"]["name"])?,
            namespace: text(&own["namespace"])?,
            uid: text(&own["serviceaccount"]["uid"])?,
        });
    }
    // Tokens that were stored as secrets say it so.
    let old = |member: &str| text(&claims[format!("kubernetes.io/serviceaccount/{member}")]);
    Some(Account {
        name: old("service-account.name")?,
        namespace: old("namespace")?,
        uid: old("service-account.uid")?,
    })
}

fn audiences(claims: &Value) -> Vec<String> {
    match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn client(ca: &str) -> Option<reqwest::Client> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    if roots.is_empty() {
        return None;
    }
    let client = calls::client(roots)?.redirect(reqwest::redirect::Policy::none());
    client.timeout(REVIEW_DEADLINE).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(username: &str) -> Value {
        json!({
            "authenticated": true,
            "audiences": ["vault"],
            "user": { "username": username, "uid": "u1" },
        })
    }

    #[test]
    fn only_a_service_account_for_the_right_audience_passes_the_review() {
        let wanted = ["vault".to_owned()];
        let good = status("system:serviceaccount:shop:cart");
        let account = reviewed(&good, &wanted).unwrap();
        assert_eq!((account.name.as_str(), account.namespace.as_str()), ("cart", "shop"));
        assert!(reviewed(&good, &["other".to_owned()]).is_err());
        assert!(reviewed(&status("alice"), &wanted).is_err());
        assert!(reviewed(&json!({ "authenticated": false }), &wanted).is_err());
    }

    #[test]
    fn a_role_admits_whom_it_names_and_nobody_else() {
        let role = Role {
            names: vec!["cart".to_owned()],
            namespaces: vec!["shop-*".to_owned()],
            audience: "vault".to_owned(),
            ..Role::default()
        };
        let claims = |name: &str, namespace: &str, audience: &str| {
            json!({
                "aud": [audience],
                "kubernetes.io": {
                    "namespace": namespace,
                    "serviceaccount": { "name": name, "uid": "u1" },
                },
            })
        };
        assert!(role.admit(&claims("cart", "shop-1", "vault")).is_ok());
        for odd in [
            claims("other", "shop-1", "vault"),
            claims("cart", "elsewhere", "vault"),
            claims("cart", "shop-1", "kube"),
        ] {
            assert_eq!(role.admit(&odd).unwrap_err().status, 403);
        }
        assert_eq!(role.admit(&json!({})).unwrap_err().status, 500);
    }
}
