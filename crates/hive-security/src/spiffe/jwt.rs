//! The JWT-SVIDs that this workload presents: one per audience, fetched before they are needed.
//!
//! A fetch costs the SPIRE agent an attestation and a signature, so it does not belong on the path of a call.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};

use crate::Error;
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::svid::JwtSvid;

/// A fetch on the path of a call may take so long; the Workload API is on this machine.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// So many audiences are held. A workload calls a handful of services; more means that audiences are made up.
const AUDIENCES_MAX: usize = 64;

/// After a failed fetch, callers are told of it for so long before the next one is tried.
const FAILURE_TTL: Duration = Duration::from_millis(250);

/// The pause after a failed refresh doubles from the first to the second.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// So often it is looked whether a refresh is due. The shortest useful life of a JWT-SVID is several times that.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Where JWT-SVIDs come from.
pub(crate) trait Fetch: Send + Sync {
    fn fetch<'a>(&'a self, spiffe_id: &'a SpiffeId, audience: &'a Audience) -> Fetching<'a>;
}

pub(crate) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<JwtSvid, Error>> + Send + 'a>>;

/// The JWT-SVIDs held for each audience.
pub(crate) struct JwtSvids {
    source: Arc<dyn Fetch>,
    entries: Mutex<HashMap<Audience, Arc<Entry>>>,
    outcomes: Arc<Outcomes>,
}

/// How fetches ended.
#[derive(Debug, Default)]
struct Outcomes {
    succeeded: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
}

/// How many fetches of JWT-SVIDs ended how, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtSvidFetches {
    /// The Workload API issued one.
    pub succeeded: u64,
    /// It issues none to this workload.
    pub denied: u64,
    /// It did not answer, or with something else than was asked for.
    pub failed: u64,
}

/// What is held for one audience. One audience's slow fetch does not hold up another's.
struct Entry {
    source: Arc<dyn Fetch>,
    outcomes: Arc<Outcomes>,
    audience: Audience,
    held: Mutex<Held>,
    /// Who holds it fetches; the others wait for the outcome.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Held {
    svid: Option<Arc<JwtSvid>>,
    /// Past this time a refresh is due.
    refresh_at: Option<SystemTime>,
    /// Whether anyone asked for it since it was fetched.
    used: bool,
    /// Failures in a row.
    failures: u32,
    /// Fetches that ended, either way.
    attempts: u64,
    failed: Option<(SystemTime, Error)>,
}

impl JwtSvids {
    pub(crate) fn new(source: Arc<dyn Fetch>) -> Self {
        Self { source, entries: Mutex::default(), outcomes: Arc::default() }
    }

    /// How the fetches so far have ended.
    pub(crate) fn fetches(&self) -> JwtSvidFetches {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Outcomes { succeeded, denied, failed } = &*self.outcomes;
        JwtSvidFetches { succeeded: read(succeeded), denied: read(denied), failed: read(failed) }
    }

    /// The JWT-SVID of `spiffe_id` for `audience`: the one held while it is good, else a new one.
    pub(crate) async fn svid(
        &self,
        spiffe_id: &SpiffeId,
        audience: &Audience,
    ) -> Result<Arc<JwtSvid>, Error> {
        let entry = self.entry(audience);
        let now = SystemTime::now();
        let Some((svid, is_due)) = entry.held().use_held(spiffe_id, now) else {
            let fetched = entry.fetch(spiffe_id).await;
            entry.held().used = fetched.is_ok();
            return fetched;
        };
        if is_due {
            entry.refresh_in_background(spiffe_id);
        }
        Ok(svid)
    }

    /// Refreshes what is in use before it is needed again, for ever. Without it a refresh waits for the next call,
    /// and a call that comes rarely finds an expired token.
    pub(crate) async fn keep_ahead(&self, spiffe_id: impl Fn() -> Option<SpiffeId>) {
        loop {
            sleep(UPKEEP_INTERVAL).await;
            let Some(spiffe_id) = spiffe_id() else { continue };
            self.refresh_due(&spiffe_id, SystemTime::now());
        }
    }

    /// Forgets tokens that nobody accepts any more, and fetches those in use anew at once: a key may be revoked long
    /// before its tokens are due for a refresh.
    pub(crate) fn forget(
        &self,
        spiffe_id: Option<&SpiffeId>,
        is_worthless: impl Fn(&JwtSvid) -> bool,
    ) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.values() {
            let forgotten = entry.held().forget(&is_worthless);
            if let (Some(spiffe_id), true) = (spiffe_id, forgotten) {
                entry.refresh_in_background(spiffe_id);
            }
        }
    }

    fn refresh_due(&self, spiffe_id: &SpiffeId, now: SystemTime) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.values() {
            let due = {
                let held = entry.held();
                held.used && held.svid.is_some() && held.is_due(now)
            };
            if due {
                entry.refresh_in_background(spiffe_id);
            }
        }
    }

    fn entry(&self, audience: &Audience) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(audience) {
            return Arc::clone(entry);
        }
        if entries.len() >= AUDIENCES_MAX {
            forget_the_oldest(&mut entries);
        }
        let entry = Arc::new(Entry {
            source: Arc::clone(&self.source),
            outcomes: Arc::clone(&self.outcomes),
            audience: audience.clone(),
            held: Mutex::default(),
            turn: Arc::default(),
        });
        entries.insert(audience.clone(), Arc::clone(&entry));
        entry
    }
}

impl std::fmt::Debug for JwtSvids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvids").finish_non_exhaustive()
    }
}

impl Entry {
    /// Fetches, or waits for the fetch that is under way and shares its outcome.
    async fn fetch(&self, spiffe_id: &SpiffeId) -> Result<Arc<JwtSvid>, Error> {
        let seen = self.held().attempts;
        let _turn = self.turn.lock().await;
        if let Some(outcome) = self.held().outcome_since(seen, spiffe_id) {
            return outcome;
        }
        self.attempt(spiffe_id).await
    }

    fn refresh_in_background(self: &Arc<Self>, spiffe_id: &SpiffeId) {
        // Busy means that somebody is at it already.
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else { return };
        tokio::spawn(Arc::clone(self).refresh(turn, spiffe_id.clone()));
    }

    async fn refresh(self: Arc<Self>, turn: OwnedMutexGuard<()>, spiffe_id: SpiffeId) {
        if let Err(error) = self.attempt(&spiffe_id).await {
            tracing::warn!(audience = %self.audience, %error, "a JWT-SVID could not be refreshed");
        }
        drop(turn);
    }

    async fn attempt(&self, spiffe_id: &SpiffeId) -> Result<Arc<JwtSvid>, Error> {
        let fetched = timeout(FETCH_DEADLINE, self.source.fetch(spiffe_id, &self.audience)).await;
        let outcome = fetched.unwrap_or_else(|_| {
            let reason = format!("no answer within {FETCH_DEADLINE:?}");
            Err(Error::NoJwtSvid { audience: self.audience.to_string(), reason, denied: false })
        });
        self.outcomes.count(&outcome);
        self.held().record(outcome, SystemTime::now())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcomes {
    fn count(&self, outcome: &Result<JwtSvid, Error>) {
        let counter = match outcome {
            Ok(_) => &self.succeeded,
            Err(Error::NoJwtSvid { denied: true, .. }) => &self.denied,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Held {
    /// The one held, if it is good, and whether a refresh is due.
    fn use_held(&mut self, spiffe_id: &SpiffeId, now: SystemTime) -> Option<(Arc<JwtSvid>, bool)> {
        // The Workload API may have given this process another identity since.
        let good = |svid: &&Arc<JwtSvid>| svid.spiffe_id == *spiffe_id && now < svid.expires_at;
        let svid = Arc::clone(self.svid.as_ref().filter(good)?);
        self.used = true;
        Some((svid, self.is_due(now)))
    }

    /// Whether something that is in use was forgotten.
    fn forget(&mut self, is_worthless: impl Fn(&JwtSvid) -> bool) -> bool {
        self.svid.take_if(|svid| is_worthless(svid)).is_some() && self.used
    }

    fn is_due(&self, now: SystemTime) -> bool {
        self.refresh_at.is_none_or(|at| now >= at)
    }

    /// What the fetch of another brought while we waited, or a moment ago.
    fn outcome_since(
        &self,
        seen: u64,
        spiffe_id: &SpiffeId,
    ) -> Option<Result<Arc<JwtSvid>, Error>> {
        if let Some((at, error)) = &self.failed {
            // A clock that was set back must not keep a failure alive.
            let is_recent = at.elapsed().is_ok_and(|ago| ago < FAILURE_TTL);
            return (is_recent || self.attempts != seen).then(|| Err(error.clone()));
        }
        let fetched = self.svid.clone().filter(|svid| svid.spiffe_id == *spiffe_id)?;
        (self.attempts != seen).then_some(Ok(fetched))
    }

    fn record(
        &mut self,
        outcome: Result<JwtSvid, Error>,
        now: SystemTime,
    ) -> Result<Arc<JwtSvid>, Error> {
        self.attempts += 1;
        match outcome {
            Ok(svid) => {
                let svid = Arc::new(svid);
                self.refresh_at = Some(
                    now + refresh_after(svid.expires_at.duration_since(now).unwrap_or_default()),
                );
                (self.failures, self.failed, self.used) = (0, None, false);
                self.svid = Some(Arc::clone(&svid));
                Ok(svid)
            }
            Err(error) => {
                self.refresh_at = Some(now + retry_after(self.failures));
                self.failures = self.failures.saturating_add(1);
                self.failed = Some((now, error.clone()));
                // Denied is not out of reach: the identity was taken back, so the token must not be used.
                if matches!(error, Error::NoJwtSvid { denied: true, .. }) {
                    self.svid = None;
                }
                Err(error)
            }
        }
    }
}

/// Between 50 and 70 % of what is left of its life, so that workloads started together do not ask together.
fn refresh_after(life: Duration) -> Duration {
    life.mul_f64(rand::rng().random_range(0.5..0.7))
}

fn retry_after(failures: u32) -> Duration {
    let pause = RETRY_MIN.saturating_mul(2_u32.saturating_pow(failures)).min(RETRY_MAX);
    pause.mul_f64(rand::rng().random_range(0.8..1.2))
}

/// Makes room: of the tokens held, the one that expires first was used least recently or is about to go.
fn forget_the_oldest(entries: &mut HashMap<Audience, Arc<Entry>>) {
    let expiry = |entry: &Arc<Entry>| entry.held().svid.as_ref().map(|svid| svid.expires_at);
    let oldest =
        entries.iter().min_by_key(|(_, entry)| expiry(entry)).map(|(audience, _)| audience.clone());
    if let Some(audience) = oldest {
        entries.remove(&audience);
    }
}

#[cfg(test)]
mod tests;
