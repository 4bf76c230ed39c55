//! Tokens and leases: what lives, until when, and what happens at the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::audit::{Audit, Entry};
use super::database::Engine;
use super::jwt::Verifier;
use super::kv::Kv;
use super::policy::Policies;
use super::setup::JwtRole;
use crate::witness::Witness;

/// A revocation under way is not begun a second time for this long; it may be waiting for the database.
const UNDER_WAY: Duration = Duration::from_secs(15);
/// A revocation that failed is tried again after this long, then twice as long, up to the maximum.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Nothing ends: look again after this long.
const IDLE: Duration = Duration::from_secs(3600);

/// All a development vault consists of.
pub(super) struct Core {
    pub(super) policies: Policies,
    pub(super) roles: BTreeMap<String, JwtRole>,
    pub(super) verifier: Verifier,
    pub(super) database: Option<Engine>,
    pub(super) audit: Audit,
    pub(super) witness: Witness,
    pub(super) cluster_id: String,
    state: Mutex<State>,
    /// Something ends earlier than the reaper thinks.
    wake: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// By the SHA-256 of the token: the tokens themselves are nowhere.
    tokens: HashMap<TokenKey, Token>,
    pub(super) leases: BTreeMap<String, Lease>,
    pub(super) kv: BTreeMap<String, Kv>,
}

pub(super) type TokenKey = [u8; 32];

/// When something was made, when it ends, and when it must end.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) issued: SystemTime,
    pub(super) last_renewal: Option<SystemTime>,
    pub(super) ttl: Duration,
    expires: Instant,
    latest: Instant,
}

/// A service token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) accessor: String,
    pub(super) spiffe_id: String,
    pub(super) role: String,
    pub(super) policies: Vec<String>,
    pub(super) entity_id: String,
    pub(super) span: Span,
}

/// What was issued under a token.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) path: String,
    pub(super) role: String,
    pub(super) username: String,
    pub(super) token: TokenKey,
    pub(super) accessor: String,
    pub(super) span: Span,
    pub(super) ending: Option<EndingLease>,
}

/// A lease that is over for its holder, but not yet for the database.
#[derive(Clone, Debug)]
pub(super) struct EndingLease {
    pub(super) retry_at: Instant,
    pub(super) pause: Duration,
}

impl Span {
    pub(super) fn new(ttl: Duration, max_ttl: Duration) -> Self {
        let (now, ttl) = (Instant::now(), ttl.min(max_ttl));
        Self {
            issued: SystemTime::now(),
            last_renewal: None,
            ttl,
            expires: now + ttl,
            latest: now + max_ttl,
        }
    }

    pub(super) fn remaining(&self) -> Duration {
        self.expires.saturating_duration_since(Instant::now())
    }

    pub(super) fn expires_at(&self) -> SystemTime {
        SystemTime::now() + self.remaining()
    }

    pub(super) fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The span after a renewal, and what was granted of what was asked for.
    pub(super) fn renewed(&self, asked: Duration) -> (Self, Duration) {
        let now = Instant::now();
        let expires = (now + asked).min(self.latest);
        let granted = expires.saturating_duration_since(now);
        (Self { last_renewal: Some(SystemTime::now()), expires, ..self.clone() }, granted)
    }
}

pub(super) fn token_key(token: &str) -> TokenKey {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

/// The parts a core is put together from.
pub(super) struct Parts {
    pub(super) policies: Policies,
    pub(super) roles: BTreeMap<String, JwtRole>,
    pub(super) verifier: Verifier,
    pub(super) database: Option<Engine>,
    pub(super) audit: Audit,
    pub(super) witness: Witness,
    pub(super) kv: BTreeMap<String, Kv>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            policies: parts.policies,
            roles: parts.roles,
            verifier: parts.verifier,
            database: parts.database,
            audit: parts.audit,
            witness: parts.witness,
            cluster_id: super::reply::random_uuid(),
            state: Mutex::new(State { kv: parts.kv, ..State::default() }),
            wake: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token(&self, key: &TokenKey) -> Option<Token> {
        self.state().tokens.get(key).filter(|token| !token.span.is_over()).cloned()
    }

    pub(super) fn put_token(&self, key: TokenKey, token: Token) {
        self.state().tokens.insert(key, token);
        self.wake.notify_one();
    }

    /// Adds a lease, unless its token is gone.
    pub(super) fn put_lease(&self, id: &str, lease: Lease) -> bool {
        let mut state = self.state();
        let alive = state.tokens.get(&lease.token).is_some_and(|token| !token.span.is_over());
        if alive {
            state.leases.insert(id.to_owned(), lease);
            self.wake.notify_one();
        }
        alive
    }

    /// Brings back a lease whose end came before there was anything to end, so that it ends properly.
    pub(super) fn put_back(&self, id: &str, lease: &Lease) {
        self.state().leases.entry(id.to_owned()).or_insert_with(|| lease.clone());
    }

    /// A lease that its holder may still use.
    pub(super) fn lease(&self, id: &str) -> Option<Lease> {
        self.state()
            .leases
            .get(id)
            .filter(|lease| lease.ending.is_none() && !lease.span.is_over())
            .cloned()
    }

    pub(super) fn renew_token(&self, key: &TokenKey, asked: Duration) -> Option<(Token, Duration)> {
        let mut state = self.state();
        let token = state.tokens.get_mut(key).filter(|token| !token.span.is_over())?;
        let (span, granted) = token.span.renewed(asked);
        token.span = span;
        Some((token.clone(), granted))
    }

    pub(super) fn set_span(&self, id: &str, span: Span) -> bool {
        let mut state = self.state();
        let lease = state.leases.get_mut(id).filter(|lease| lease.ending.is_none());
        lease.map(|lease| lease.span = span).is_some()
    }

    /// Ends a token at once, and then what was issued under it.
    pub(super) async fn revoke_token(&self, key: &TokenKey, event: &'static str) {
        let (token, leases) = {
            let mut state = self.state();
            let token = state.tokens.remove(key);
            let leases = state.leases.iter().filter(|(_, lease)| lease.token == *key);
            (token, leases.map(|(id, _)| id.clone()).collect::<Vec<_>>())
        };
        if let Some(token) = token {
            self.audit.note(&Entry {
                event,
                accessor: Some(token.accessor),
                spiffe_id: Some(token.spiffe_id),
                role: Some(token.role),
                ..Entry::default()
            });
        }
        join_all(leases.iter().map(|id| self.revoke_lease(id, "lease_revoked"))).await;
    }

    /// Ends a lease and what it stands for. One that is not known is no error; one that fails is kept and retried.
    pub(super) async fn revoke_lease(&self, id: &str, event: &'static str) -> Result<(), String> {
        let Some(lease) = self.start_ending(id) else { return Ok(()) };
        let outcome = match &self.database {
            Some(engine) => engine
                .revoke(&lease.role, &lease.username)
                .await
                .map_err(|failure| failure.to_string()),
            None => Ok(()),
        };
        let event = if outcome.is_ok() { event } else { "lease_revocation_failed" };
        match &outcome {
            Ok(()) => drop(self.state().leases.remove(id)),
            Err(why) => {
                self.put_off_ending(id);
                tracing::warn!(
                    lease = id,
                    why,
                    "a lease could not be revoked; it will be tried again"
                );
            }
        }
        let (lease_id, accessor) = (Some(id.to_owned()), Some(lease.accessor));
        self.audit.note(&Entry { event, lease_id, accessor, ..Entry::default() });
        outcome
    }

    /// From here on the holder cannot use it. The next attempt is planned before this one is made, for the caller
    /// that makes it may go away in the middle.
    fn start_ending(&self, id: &str) -> Option<Lease> {
        let mut state = self.state();
        let lease = state.leases.get_mut(id)?;
        let pause =
            lease.ending.as_ref().map_or(RETRY_FIRST, |ending| (ending.pause * 2).min(RETRY_MAX));
        lease.ending = Some(EndingLease { retry_at: Instant::now() + UNDER_WAY, pause });
        Some(lease.clone())
    }

    fn put_off_ending(&self, id: &str) {
        if let Some(ending) =
            self.state().leases.get_mut(id).and_then(|lease| lease.ending.as_mut())
        {
            ending.retry_at = Instant::now() + ending.pause;
            self.wake.notify_one();
        }
    }

    /// Ends what is over, when it is over, whether or not anybody asks.
    pub(super) async fn reap(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = tokio::time::Instant::from_std(self.next_end());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => continue,
                () = tokio::time::sleep_until(next) => self.end_what_is_over().await,
            }
        }
    }

    fn next_end(&self) -> Instant {
        let state = self.state();
        let tokens = state.tokens.values().map(|token| token.span.expires);
        let leases = state.leases.values().map(Lease::next);
        tokens.chain(leases).min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    async fn end_what_is_over(&self) {
        let (tokens, leases) = {
            let (state, now) = (self.state(), Instant::now());
            let over = state.tokens.iter().filter(|(_, token)| token.span.is_over());
            let tokens: Vec<_> = over.map(|(key, _)| *key).collect();
            let over = state.leases.iter().filter(|(_, lease)| lease.next() <= now);
            (tokens, over.map(|(id, _)| id.clone()).collect::<Vec<_>>())
        };
        join_all(leases.iter().map(|id| self.revoke_lease(id, "lease_expired"))).await;
        join_all(tokens.iter().map(|key| self.revoke_token(key, "token_expired"))).await;
    }

    /// Ends everything, within the time allowed. Says how many leases are left.
    pub(super) async fn revoke_all(&self, deadline: Duration) -> usize {
        let give_up = tokio::time::Instant::now() + deadline;
        loop {
            let keys: Vec<_> = self.state().tokens.keys().copied().collect();
            let leases: Vec<_> = self.state().leases.keys().cloned().collect();
            if keys.is_empty() && leases.is_empty() {
                return 0;
            }
            let work = async {
                join_all(keys.iter().map(|key| self.revoke_token(key, "token_revoked"))).await;
                let left: Vec<_> = self.state().leases.keys().cloned().collect();
                join_all(left.iter().map(|id| self.revoke_lease(id, "lease_revoked"))).await;
                if !self.state().leases.is_empty() {
                    tokio::time::sleep(RETRY_FIRST).await;
                }
            };
            if tokio::time::timeout_at(give_up, work).await.is_err() {
                return self.state().leases.len();
            }
        }
    }
}

impl Lease {
    /// When something is to be done about it.
    fn next(&self) -> Instant {
        self.ending.as_ref().map_or(self.span.expires, |ending| ending.retry_at)
    }
}
