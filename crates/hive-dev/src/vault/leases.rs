//! Leases: what was issued under a token, until when, and what happens at the end.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use hive_lease::Moment;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::audit::Entry;
use super::clock;
use super::core::{Core, TokenKey};
use super::engine::{Ask, Mount};
use super::reply::{Fault, LeaseFacts, Reply, random_text};
use super::terms::{Span, Terms, cap_warning};

/// After so many attempts the real server gives a lease up, and leaves it to an operator.
const ATTEMPTS_MAX: u32 = 6;
/// Doubled by each attempt, and then anything from half of it to one and a half.
const RETRY_BASE: Duration = Duration::from_secs(10);
/// Nothing ends: look again after this long.
const IDLE: Duration = Duration::from_secs(3600);
/// What is left at the end of the process is tried again after this long.
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// What was issued under a token.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) mount: Arc<Mount>,
    /// Where it was asked for, within its namespace.
    pub(super) path: String,
    /// What the engine wants to know when it ends. It is not shown.
    pub(super) data: Map<String, Value>,
    pub(super) token: TokenKey,
    /// Of the token.
    pub(super) accessor: String,
    pub(super) span: Span,
    pub(super) renewable: bool,
    pub(super) ending: Option<Ending>,
    /// One renewal or revocation at a time.
    turn: Arc<Mutex<()>>,
}

/// A lease that is over for its holder, but not yet for what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) attempts: u32,
    /// None: an attempt is under way, or there will be no other.
    pub(super) retry_at: Option<Moment>,
    /// Why the last attempt failed.
    pub(super) why: Option<String>,
    /// Nothing was issued under it after all, so nobody is shown it.
    pub(super) is_hidden: bool,
}

impl Lease {
    /// Given up: six attempts have failed.
    pub(super) fn is_irrevocable(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.attempts >= ATTEMPTS_MAX)
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.is_hidden)
    }

    /// When something is to be done about it.
    fn next(&self) -> Option<Moment> {
        self.ending.as_ref().map_or(self.span.expires, |ending| ending.retry_at)
    }
}

impl Core {
    /// See [`Ask::lease`].
    pub(super) async fn issue<F>(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        terms: Terms,
        data: Map<String, Value>,
        make: impl FnOnce(SystemTime) -> F,
    ) -> Result<Reply, Fault>
    where
        F: Future<Output = Result<Value, Fault>> + Send + 'static,
    {
        let (lease, warning) = self.new_lease(ask, terms, data)?;
        let suffix = self.namespace_suffix(&ask.mount.namespace);
        let id = format!("{}/{}{suffix}", ask.call.path, random_text(24));
        let ttl_s = lease.span.ttl.as_secs();
        let facts = LeaseFacts { id: id.clone(), ttl_s, renewable: lease.renewable };
        ask.note(|entry| entry.lease_id = Some(id.clone()));
        // Before there is anything to end, so that nothing can be made that no lease ends.
        if !self.put_lease(&id, lease.clone()) {
            return Err(Fault::no_token());
        }
        let effect = make(lease.span.expires_at(&self.clock).unwrap_or_else(|| self.clock.wall()));
        // Of its own, for it goes on if the caller hangs up: it is then made, and ended with its lease.
        let work = tokio::spawn(Arc::clone(self).make(id, lease, effect));
        let data = work.await.unwrap_or_else(|_| Err(Fault::internal()))?;
        Ok(Reply::lease(data, facts, warning.into_iter().collect()))
    }

    fn new_lease(
        &self,
        ask: &Ask<'_>,
        terms: Terms,
        data: Map<String, Value>,
    ) -> Result<(Lease, Option<String>), Fault> {
        let caller = ask.caller()?;
        let (default_ttl, mut max_ttl) = ask.mount.limits();
        if !terms.max_ttl.is_zero() {
            max_ttl = max_ttl.min(terms.max_ttl);
        }
        let asked = if terms.ttl.is_zero() { default_ttl } else { terms.ttl };
        let warning = cap_warning(asked, max_ttl);
        // A batch token has no lease of its own, so what is made with it says truly how long it lives.
        let own = caller.token.span.remaining(&self.clock);
        let ttl = if caller.token.is_batch { asked.min(own) } else { asked };
        let lease = Lease {
            mount: Arc::clone(ask.mount),
            path: ask.call.path.clone(),
            data,
            token: caller.key,
            accessor: caller.token.accessor.clone(),
            span: Span::new(&self.clock, ttl, Some(max_ttl)),
            renewable: terms.renewable,
            ending: None,
            turn: Arc::default(),
        };
        Ok((lease, warning))
    }

    async fn make(
        self: Arc<Self>,
        id: String,
        lease: Lease,
        effect: impl Future<Output = Result<Value, Fault>>,
    ) -> Result<Value, Fault> {
        let made = effect.await;
        let is_alive = self.lease(&id).is_some();
        if made.is_ok() && is_alive {
            return made;
        }
        // The token may have ended meanwhile, and the lease with it before there was anything to end.
        self.hide(&id, lease);
        self.end_lease(id, "lease_revoked").await;
        made.and_then(|_| Err(Fault::no_token()))
    }

    fn hide(&self, id: &str, lease: Lease) {
        let mut state = self.state();
        let lease = state.leases.entry(id.to_owned()).or_insert(lease);
        let ending = lease.ending.get_or_insert_with(Ending::new);
        ending.is_hidden = true;
    }

    /// Adds a lease, unless its token is gone.
    fn put_lease(&self, id: &str, lease: Lease) -> bool {
        let mut state = self.state();
        let token = state.tokens.get(&lease.token);
        let alive = token.is_some_and(|token| !token.span.is_over(&self.clock));
        if alive {
            state.leases.insert(id.to_owned(), lease);
            self.wake.notify_one();
        }
        alive
    }

    /// A lease that its holder may still use.
    pub(super) fn lease(&self, id: &str) -> Option<Lease> {
        let state = self.state();
        let lease = state.leases.get(id)?;
        (lease.ending.is_none() && !lease.span.is_over(&self.clock)).then(|| lease.clone())
    }

    /// Extends a lease, first what it stands for and then itself.
    pub(super) async fn renew_lease(
        &self,
        id: &str,
        asked: Option<Duration>,
    ) -> Result<(LeaseFacts, Option<String>), Fault> {
        let gone = || Fault::new(400, "lease not found");
        let turn = self.lease(id).ok_or_else(gone)?.turn;
        let _turn = turn.lock().await;
        let lease = self.lease(id).ok_or_else(gone)?;
        if !lease.renewable {
            return Err(Fault::new(400, "lease is not renewable"));
        }
        let mut asked = asked.filter(|asked| !asked.is_zero()).unwrap_or(lease.span.ttl);
        if let Some(end) = self.end_of_batch(&lease) {
            asked = asked.min(end.duration_since(self.clock.wall()).unwrap_or_default());
        }
        let (span, granted) = lease.span.renewed(&self.clock, asked);
        let expires = span.expires_at(&self.clock).unwrap_or_else(|| self.clock.wall());
        let renewed = lease.mount.engine.renew(&lease, expires).await;
        renewed.map_err(|why| Fault::new(400, format!("failed to renew entry: {why}")))?;
        let mut state = self.state();
        let lease = state.leases.get_mut(id).filter(|lease| lease.ending.is_none());
        lease.ok_or_else(gone)?.span = span;
        let ttl_s = granted.as_secs_f64().round() as u64;
        self.wake.notify_one();
        let facts = LeaseFacts { id: id.to_owned(), ttl_s, renewable: true };
        Ok((facts, cap_warning(asked, granted)))
    }

    /// When the batch token ends that it was made with, which ends the lease; written in whole seconds.
    pub(super) fn end_of_batch(&self, lease: &Lease) -> Option<SystemTime> {
        let state = self.state();
        let token = state.tokens.get(&lease.token).filter(|token| token.is_batch)?;
        let end = token.span.expires_at(&self.clock)?;
        Some(clock::whole_seconds(end))
    }

    /// Ends a lease and what it stands for. One that is not known is no error; one that fails is tried again, six
    /// times in all. The future may be dropped only where everything ends.
    pub(super) async fn end_lease(&self, id: String, event: &'static str) {
        let Some(turn) = self.start_ending(&id) else { return };
        let _turn = turn.lock().await;
        let Some(lease) = self.state().leases.get(&id).cloned() else { return };
        let outcome = lease.mount.engine.revoke(&lease).await;
        if let Err(why) = &outcome {
            tracing::warn!(lease = id, why, "a lease could not be revoked; it will be tried again");
            self.put_off_ending(&id, why);
        } else {
            self.state().leases.remove(&id);
        }
        let event = if outcome.is_ok() { event } else { "lease_revocation_failed" };
        self.note_lease(event, id, lease.accessor);
    }

    /// Ends a lease while somebody waits for it: a failure is theirs, and leaves the lease as it was.
    pub(super) async fn end_lease_now(&self, id: &str) -> Result<(), String> {
        let turn = self.state().leases.get(id).map(|lease| Arc::clone(&lease.turn));
        let Some(turn) = turn else { return Ok(()) };
        let _turn = turn.lock().await;
        let Some(lease) = self.state().leases.get(id).cloned() else { return Ok(()) };
        let outcome = lease.mount.engine.revoke(&lease).await;
        if outcome.is_ok() {
            self.state().leases.remove(id);
        }
        let event = if outcome.is_ok() { "lease_revoked" } else { "lease_revocation_failed" };
        self.note_lease(event, id.to_owned(), lease.accessor);
        outcome
    }

    /// Forgets a lease, whatever becomes of what it stands for.
    pub(super) async fn force_lease(&self, id: &str) {
        if let Err(why) = self.end_lease_now(id).await {
            tracing::warn!(lease = id, why, "a lease was dropped, and what it stands for is left");
            self.state().leases.remove(id);
        }
    }

    fn note_lease(&self, event: &'static str, id: String, accessor: String) {
        let (lease_id, accessor) = (Some(id), Some(accessor));
        self.audit.note(&Entry { event, lease_id, accessor, ..Entry::default() });
    }

    /// From here on the holder cannot use it.
    fn start_ending(&self, id: &str) -> Option<Arc<Mutex<()>>> {
        let mut state = self.state();
        let lease = state.leases.get_mut(id)?;
        lease.ending.get_or_insert_with(Ending::new).retry_at = None;
        Some(Arc::clone(&lease.turn))
    }

    fn put_off_ending(&self, id: &str, why: &str) {
        let mut state = self.state();
        let Some(lease) = state.leases.get_mut(id) else { return };
        let ending = lease.ending.get_or_insert_with(Ending::new);
        ending.attempts += 1;
        ending.why = Some(why.to_owned());
        let pause = RETRY_BASE * (1 << ending.attempts.min(ATTEMPTS_MAX));
        let pause = pause.mul_f64(rand::random_range(0.5..1.5));
        ending.retry_at = (ending.attempts < ATTEMPTS_MAX).then(|| self.clock.now() + pause);
        self.wake.notify_one();
    }

    /// Ends what is over, when it is over, whether or not anybody asks.
    pub(super) async fn reap(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = self.next_end();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = self.clock.sleep_until(next) => self.end_what_is_over(),
            }
        }
    }

    fn next_end(&self) -> Moment {
        // While it is sealed nothing ends; unsealing wakes us.
        if self.seal.is_sealed() {
            return self.clock.now() + IDLE;
        }
        let leases = self.state().leases.values().filter_map(Lease::next).min();
        let next = leases.into_iter().chain(self.next_token_end()).min();
        next.unwrap_or_else(|| self.clock.now() + IDLE)
    }

    /// Starts all ends; none waits for another.
    fn end_what_is_over(self: &Arc<Self>) {
        if self.seal.is_sealed() {
            return;
        }
        for id in self.leases_over() {
            // Marked before the next look, so that it is not begun twice.
            self.start_ending(&id);
            let core = Arc::clone(self);
            tokio::spawn(async move { core.end_lease(id, "lease_expired").await });
        }
        for key in self.tokens_over() {
            drop(self.revoke_token(key, "token_expired"));
        }
    }

    fn leases_over(&self) -> Vec<String> {
        let (state, now) = (self.state(), self.clock.now());
        let over =
            state.leases.iter().filter(|(_, lease)| lease.next().is_some_and(|at| at <= now));
        over.map(|(id, _)| id.clone()).collect()
    }

    /// Ends everything, within the time allowed. Says how many leases are left.
    pub(super) async fn revoke_all(self: &Arc<Self>, deadline: Duration) -> usize {
        let give_up = tokio::time::Instant::now() + deadline;
        let work = async {
            let keys: Vec<_> = self.state().tokens.keys().copied().collect();
            let ended = keys.into_iter().map(|key| self.revoke_token(key, "token_revoked"));
            join_all(ended).await;
            while !self.state().leases.is_empty() {
                let left: Vec<_> = self.state().leases.keys().cloned().collect();
                join_all(left.into_iter().map(|id| self.end_lease(id, "lease_revoked"))).await;
                if !self.state().leases.is_empty() {
                    tokio::time::sleep(LAST_PAUSE).await;
                }
            }
        };
        let _ = tokio::time::timeout_at(give_up, work).await;
        self.state().leases.len()
    }
}

impl Ending {
    fn new() -> Self {
        Self { attempts: 0, retry_at: None, why: None, is_hidden: false }
    }
}
