//! Tokens: who they are, what they may be used for, and what ends with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use hive_lease::Moment;
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use super::audit::Entry;
use super::clock;
use super::core::{Core, State, token_key};
use super::engine::{Login, Mount};
use super::reply::{Fault, Reply, random_text, random_uuid};
use super::terms::{SYSTEM_TTL, Span, TokenKind, TokenTerms, cap_warning};
use super::wrapping::Wrapped;

pub(super) type TokenKey = [u8; 32];

/// A token.
#[derive(Clone)]
pub(super) struct Token {
    /// Empty for a batch token.
    pub(super) accessor: String,
    pub(super) namespace: String,
    /// None: an orphan.
    pub(super) parent: Option<TokenKey>,
    pub(super) policies: Vec<String>,
    pub(super) display_name: String,
    /// Where it was made.
    pub(super) path: String,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) entity_id: String,
    pub(super) is_batch: bool,
    pub(super) renewable: bool,
    /// Zero: any number; negative: this is the last use.
    pub(super) num_uses: i64,
    pub(super) period: Duration,
    /// What its last renewal gave, which is what a renewal gives that asks for nothing.
    pub(super) last_granted: Option<Duration>,
    pub(super) explicit_max_ttl: Duration,
    /// From where it may be used; empty: from everywhere.
    pub(super) bound_cidrs: Vec<String>,
    pub(super) span: Span,
    pub(super) wrapped: Option<Arc<Wrapped>>,
    /// For the audit log.
    pub(super) spiffe_id: Option<String>,
    pub(super) role: Option<String>,
    /// What its login was shown, DER, if that was a certificate.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

impl Token {
    /// A token with the given policies and no other property.
    pub(super) fn plain(namespace: &str, path: &str, policies: Vec<String>, span: Span) -> Self {
        Self {
            accessor: random_text(24),
            namespace: namespace.to_owned(),
            parent: None,
            policies,
            display_name: "token".to_owned(),
            path: path.to_owned(),
            meta: BTreeMap::new(),
            entity_id: String::new(),
            is_batch: false,
            renewable: false,
            num_uses: 0,
            period: Duration::ZERO,
            last_granted: None,
            explicit_max_ttl: Duration::ZERO,
            bound_cidrs: Vec::new(),
            span,
            wrapped: None,
            spiffe_id: None,
            role: None,
            certificate: None,
        }
    }

    pub(super) fn is_root(&self) -> bool {
        self.policies.iter().any(|policy| policy == "root")
    }

    /// The `auth` object of an answer.
    pub(super) fn auth(&self, secret: &str, ttl: Duration) -> Value {
        let mut auth = json!({
            "client_token": secret,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": self.shown_meta(),
            "lease_duration": ttl.as_secs_f64().round() as u64,
            "renewable": self.renewable,
            "entity_id": self.entity_id,
            "token_type": self.kind(),
            "orphan": self.parent.is_none(),
            "mfa_requirement": null,
            "num_uses": self.num_uses,
        });
        if let (true, Some(auth)) = (self.policies.is_empty(), auth.as_object_mut()) {
            auth.remove("token_policies");
        }
        auth
    }

    /// What a lookup shows. `id` is the token itself, and empty for who knows its accessor only.
    pub(super) fn facts(&self, core: &Core, id: &str) -> Value {
        let (span, clock) = (&self.span, &core.clock);
        let ttl = span.expires.map_or(0, |_| span.remaining(clock).as_secs());
        let mut data = json!({
            "accessor": self.accessor,
            "creation_time": clock::unix(span.issued),
            "creation_ttl": span.ttl.as_secs(),
            "display_name": self.display_name,
            "entity_id": self.entity_id,
            "expire_time": span.expires_at(clock).map(|at| self.shown_time(at)),
            "explicit_max_ttl": self.explicit_max_ttl.as_secs(),
            "id": id,
            "issue_time": self.shown_time(span.issued),
            "meta": self.shown_meta(),
            "num_uses": self.num_uses,
            "orphan": self.parent.is_none(),
            "path": self.path,
            "policies": self.policies,
            "renewable": self.renewable,
            "ttl": ttl,
            "type": self.kind(),
        });
        let Some(members) = data.as_object_mut() else { return data };
        if let Some(renewal) = span.last_renewal {
            members.insert("last_renewal".to_owned(), json!(clock::rfc3339(renewal)));
            members.insert("last_renewal_time".to_owned(), json!(clock::unix(renewal)));
        }
        if let Some(role) = self.path.strip_prefix("auth/token/create/") {
            members.insert("role".to_owned(), json!(role));
        } else if !self.period.is_zero() {
            members.insert("period".to_owned(), json!(self.period.as_secs()));
        }
        if !self.bound_cidrs.is_empty() {
            members.insert("bound_cidrs".to_owned(), json!(self.bound_cidrs));
        }
        if !self.namespace.is_empty() {
            members.insert("namespace_path".to_owned(), json!(self.namespace));
        }
        data
    }

    /// A batch token is written in whole seconds.
    fn shown_time(&self, time: SystemTime) -> String {
        clock::rfc3339(if self.is_batch { clock::whole_seconds(time) } else { time })
    }

    fn kind(&self) -> &'static str {
        if self.is_batch { "batch" } else { "service" }
    }

    fn shown_meta(&self) -> Value {
        if self.meta.is_empty() { Value::Null } else { json!(self.meta) }
    }

    fn is_over(&self, core: &Core) -> bool {
        self.span.is_over(&core.clock)
    }

    fn audit(&self, event: &'static str) -> Entry {
        Entry {
            event,
            accessor: Some(self.accessor.clone()),
            spiffe_id: self.spiffe_id.clone(),
            role: self.role.clone(),
            ..Entry::default()
        }
    }
}

/// For how long tokens of a role live: at first and after each renewal, and at most.
pub(super) struct Frame {
    ttl: Duration,
    period: Duration,
    /// None: as long as it is renewed.
    longest: Option<Duration>,
    /// The real server's remark on a period that is too long.
    warning: Option<String>,
}

impl Frame {
    pub(super) fn of(mount: &Mount, terms: &TokenTerms, explicit: Duration) -> Self {
        let period = terms.period;
        let (default_ttl, max_ttl) = mount.limits();
        let bounded =
            |limit: Duration, own: Duration| if own.is_zero() { limit } else { limit.min(own) };
        let most = bounded(bounded(max_ttl, terms.max_ttl), explicit);
        if !period.is_zero() {
            let longest = (!explicit.is_zero()).then_some(explicit);
            let warning = cap_warning(period, most).map(|text| {
                text.replace("TTL of", "period of").replace("TTL value", "period value")
            });
            let period = period.min(most);
            return Self { ttl: period, period, longest, warning };
        }
        let ttl = if terms.ttl.is_zero() { default_ttl } else { terms.ttl };
        Self { ttl, period, longest: Some(most), warning: None }
    }
}

/// The id of a token's own lease, as `sys/leases/lookup` lists it.
pub(super) fn lease_id(key: &TokenKey, token: &Token) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}/h{hex}", token.path)
}

impl Core {
    /// A token that may be used.
    pub(super) fn token(&self, key: &TokenKey) -> Option<Token> {
        self.state().tokens.get(key).filter(|token| !token.is_over(self)).cloned()
    }

    /// Uses a token once.
    pub(super) fn use_token(&self, key: &TokenKey) -> Option<Token> {
        let mut state = self.state();
        let token = state.tokens.get_mut(key).filter(|token| !token.is_over(self))?;
        match token.num_uses {
            0 => {}
            ..0 => return None,
            1 => token.num_uses = -1,
            _ => token.num_uses -= 1,
        }
        Some(token.clone())
    }

    pub(super) fn by_accessor(&self, accessor: &str) -> Option<(TokenKey, Token)> {
        let state = self.state();
        let mut alive = state.tokens.iter().filter(|(_, token)| !token.is_over(self));
        let found = alive.find(|(_, token)| token.accessor == accessor && !accessor.is_empty());
        found.map(|(key, token)| (*key, token.clone()))
    }

    /// Gives a token its secret and its accessor, tells the witness, and lets it be used.
    pub(super) async fn put_token(&self, mut token: Token) -> Result<(String, Token), Fault> {
        let suffix = self.namespace_suffix(&token.namespace);
        let secret = if token.is_batch {
            token.accessor = String::new();
            format!("b.AAAAAQ{}{suffix}", random_text(120))
        } else {
            token.accessor += &suffix;
            format!("s.{}{suffix}", random_text(24))
        };
        self.put_token_as(&secret, token.clone()).await?;
        Ok((secret, token))
    }

    /// Lets a token be used whose secret is given.
    pub(super) async fn put_token_as(&self, secret: &str, token: Token) -> Result<(), Fault> {
        self.witness("vault-token", secret).await?;
        let mut state = self.state();
        // The parent may have ended meanwhile, and its children with it.
        if token.parent.is_some_and(|parent| !state.tokens.contains_key(&parent)) {
            return Err(Fault::no_token());
        }
        state.tokens.insert(token_key(secret), token);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Makes the token of a login.
    pub(super) async fn admit(
        self: &Arc<Self>,
        mount: &Mount,
        path: &str,
        login: Login,
        entry: &mut Entry,
    ) -> Result<Reply, Fault> {
        let terms = &login.terms;
        if login.alias.is_empty() {
            return Err(Fault::new(500, "missing name in alias"));
        }
        let mut policies: Vec<_> = terms.policies.iter().map(|one| one.to_lowercase()).collect();
        if !terms.no_default_policy {
            policies.push("default".to_owned());
        }
        let frame = Frame::of(mount, terms, terms.explicit_max_ttl);
        let span = Span::new(&self.clock, frame.ttl, frame.longest);
        let warning = frame.warning.or_else(|| cap_warning(frame.ttl, span.ttl));
        let mut token = Token::plain(&mount.namespace, path, sorted(policies), span);
        token.is_batch = terms.kind == TokenKind::Batch;
        token.renewable = !token.is_batch;
        token.num_uses = terms.num_uses;
        token.period = terms.period;
        token.explicit_max_ttl = terms.explicit_max_ttl;
        token.bound_cidrs = terms.token_cidrs();
        let source = mount.path.trim_start_matches("auth/").trim_end_matches('/').replace('/', "-");
        token.display_name =
            format!("{source}-{}", login.display_name).trim_end_matches('-').into();
        token.entity_id = self.entity(&mount.accessor, &login.alias);
        token.meta = login.metadata;
        token.certificate = login.certificate;
        token.spiffe_id = login.spiffe_id;
        token.role = Some(login.role);
        let ttl = token.span.ttl;
        let (secret, token) = self.put_token(token).await?;
        entry.accessor = Some(token.accessor.clone());
        entry.spiffe_id.clone_from(&token.spiffe_id);
        self.weather.logged_in(&token_key(&secret));
        Ok(Reply::auth(token.auth(&secret, ttl), warning.into_iter().collect()))
    }

    fn entity(&self, accessor: &str, alias: &str) -> String {
        let key = (accessor.to_owned(), alias.to_owned());
        self.state().entities.entry(key).or_insert_with(random_uuid).clone()
    }

    /// Extends a token, within what its role says now if that is told; None where there is none.
    pub(super) fn renew_token(
        &self,
        key: &TokenKey,
        asked: Option<Duration>,
        frame: Option<&Frame>,
    ) -> Option<(Token, Duration, Option<String>)> {
        let mut state = self.state();
        let token = state.tokens.get_mut(key).filter(|token| !token.is_over(self))?;
        let period = frame.map_or(token.period, |frame| frame.period);
        let usual = || token.last_granted.unwrap_or(token.span.ttl);
        // A periodic token gets its period, whatever is asked for.
        let asked = match asked.filter(|asked| !asked.is_zero()) {
            _ if !period.is_zero() => period,
            Some(asked) => asked,
            None => frame.map_or_else(usual, |frame| frame.ttl),
        };
        let span = frame.map(|frame| token.span.within(frame.longest));
        let (span, granted) = span.as_ref().unwrap_or(&token.span).renewed(&self.clock, asked);
        token.span = span;
        token.last_granted = Some(granted);
        self.wake.notify_one();
        let warning = frame.and_then(|frame| frame.warning.clone());
        Some((token.clone(), granted, warning.or_else(|| cap_warning(asked, granted))))
    }

    /// Ends a token and its children at once, and then what was issued under them. It goes on if nobody waits for it.
    pub(super) fn revoke_token(
        self: &Arc<Self>,
        key: TokenKey,
        event: &'static str,
    ) -> JoinHandle<()> {
        let core = Arc::clone(self);
        let (tokens, leases) = core.remove_tokens(vec![key]);
        tokio::spawn(async move {
            for token in &tokens {
                core.audit.note(&token.audit(event));
            }
            let ended = leases.into_iter().map(|id| core.end_lease(id, "lease_revoked"));
            join_all(ended).await;
        })
    }

    /// Ends a token alone: its children live on as orphans.
    pub(super) fn orphan_children(&self, key: &TokenKey) {
        for token in self.state().tokens.values_mut().filter(|token| token.parent == Some(*key)) {
            token.parent = None;
        }
    }

    fn remove_tokens(&self, mut keys: Vec<TokenKey>) -> (Vec<Token>, Vec<String>) {
        let mut state = self.state();
        let (mut tokens, mut leases) = (Vec::new(), Vec::new());
        while let Some(key) = keys.pop() {
            tokens.extend(state.tokens.remove(&key));
            state.cubbyholes.remove(&key);
            keys.extend(children(&state, &key));
            let issued = state.leases.iter().filter(|(_, lease)| lease.token == key);
            leases.extend(issued.map(|(id, _)| id.clone()));
        }
        (tokens, leases)
    }

    /// The tokens whose time is over.
    pub(super) fn tokens_over(&self) -> Vec<TokenKey> {
        let state = self.state();
        let over = state.tokens.iter().filter(|(_, token)| token.is_over(self));
        over.map(|(key, _)| *key).collect()
    }

    pub(super) fn next_token_end(&self) -> Option<Moment> {
        self.state().tokens.values().filter_map(|token| token.span.expires).min()
    }
}

fn children(state: &State, key: &TokenKey) -> Vec<TokenKey> {
    let of = |(_, token): &(&TokenKey, &Token)| token.parent == Some(*key);
    state.tokens.iter().filter(of).map(|(key, _)| *key).collect()
}

/// In order, each once.
pub(super) fn sorted(mut policies: Vec<String>) -> Vec<String> {
    policies.sort_unstable();
    policies.dedup();
    policies
}

impl Mount {
    /// How long something lives here by default, and at most.
    pub(super) fn limits(&self) -> (Duration, Duration) {
        let config = self.config();
        let own = |ttl: Duration| if ttl.is_zero() { SYSTEM_TTL } else { ttl };
        (own(config.default_ttl).min(own(config.max_ttl)), own(config.max_ttl))
    }
}

/// An object whose members are given.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
