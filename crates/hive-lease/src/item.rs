//! The life of one thing in an epoch: the token, or one credential.

use std::time::Duration;

use crate::backoff::{Backoff, FLOOR, Roll};
use crate::grant::{Grant, LeaseId, Refresh, Want};
use crate::index::Marks;
use crate::moment::Moment;
use crate::policy::Policy;

/// Nodes hear of each other's logins within moments.
const UNHEARD_CEILING: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Not asked for yet, or to be asked for again.
    Wanted,
    /// Ours, until it expires or is given back.
    Held,
    /// Issued without a lease: nothing to give back.
    Leaseless,
    /// There is nothing to hold: never issued, revoked or expired.
    Absent,
    /// The answer was lost. It may exist, nameless; only its token or its expiry ends it.
    Uncertain,
    /// It could not be given back.
    Left,
}

/// A promise on our clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) sent: Moment,
    /// From here on it is surely gone.
    pub(crate) expires: Moment,
    /// From here on it is not used any more.
    pub(crate) hard_expiry: Moment,
}

/// When something was asked, and when the answer came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) sent: Moment,
    pub(crate) now: Moment,
}

/// Why a promise is not renewed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stuck {
    Capped,
    Denied,
    /// Somebody ended it at the issuer.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) state: State,
    pub(crate) want: Want,
    pub(crate) id: Option<LeaseId>,
    pub(crate) term: Option<Term>,
    /// An action about it is being performed, until then at most.
    pub(crate) busy: Option<Moment>,
    /// When to act on it next: ask, renew or revoke, by its state and the phase of the epoch.
    pub(crate) next: Option<Moment>,
    /// From when on it should be replaced.
    pub(crate) replace: Option<Moment>,
    pub(crate) stuck: Option<Stuck>,
    /// How long it was promised to last first; each renewal asks for as much.
    pub(crate) asked: Duration,
    pub(crate) revocations: u32,
    /// How often it was not issued because nobody had heard of the token.
    pub(crate) unheard: u32,
    /// Where in its life it is renewed.
    pub(crate) fraction: f64,
    backoff: Backoff,
}

impl Item {
    pub(crate) fn wanted(want: Want, fraction: f64, next: Option<Moment>) -> Self {
        Self {
            state: State::Wanted,
            want,
            id: None,
            term: None,
            busy: None,
            next,
            replace: None,
            stuck: None,
            asked: Duration::ZERO,
            revocations: 0,
            unheard: 0,
            fraction,
            backoff: Backoff::default(),
        }
    }

    pub(crate) fn marks(&self, is_token: bool, is_closing: bool) -> Marks {
        let is_idle = self.busy.is_none();
        let is_in_time = !(is_closing && is_token);
        Marks {
            // The token is given back when all else is, whatever the time.
            due: self.next.filter(|_| is_idle && is_in_time),
            is_retry: self.is_failing(),
            call_by: self.busy,
            end: if is_closing { self.expires() } else { self.hard_expiry() },
            replace: self.replace.filter(|_| self.is_live()),
            is_held: self.state == State::Held,
            is_unsettled: !is_token && !self.is_settled(),
            is_wanted: self.state == State::Wanted,
        }
    }

    /// The last attempt failed, so that the next is a repetition.
    pub(crate) fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    fn is_live(&self) -> bool {
        matches!(self.state, State::Held | State::Leaseless)
    }

    pub(crate) fn begin(&mut self, by: Moment) {
        self.busy = Some(by);
        self.next = None;
    }

    pub(crate) fn hold(
        &mut self,
        policy: &Policy,
        id: Option<LeaseId>,
        times: Times,
        grant: Grant,
        is_kept: bool,
    ) {
        self.state = State::Held;
        self.id = id;
        self.asked = grant.ttl;
        self.backoff.reset();
        if self.id.is_some() || grant.ttl > Duration::ZERO {
            self.extend(policy, times, grant, is_kept);
        }
    }

    /// A promise, or a new one for the same thing.
    pub(crate) fn extend(&mut self, policy: &Policy, times: Times, grant: Grant, is_kept: bool) {
        let Times { sent, now } = times;
        let ttl = grant.ttl;
        if !grant.renewable || policy.is_capped(ttl, self.asked) {
            self.stuck = self.stuck.or(Some(Stuck::Capped));
        }
        // The issuer's clock started between the two. It is used until the earliest end, and there until the latest.
        let expires = now + ttl + policy.margin(ttl);
        self.term = Some(Term { sent, expires, hard_expiry: sent + policy.usable(ttl) });
        self.backoff.reset();
        let renews = self.stuck.is_none() && !(is_kept && policy.is_brief(ttl));
        let renewal = sent + policy.renew_after(ttl, self.fraction);
        self.next = renews.then(|| renewal.max(now + policy.backoff_floor));
        self.replace = is_kept.then(|| {
            let after = if renews {
                policy.replace_unrenewed_after(ttl)
            } else {
                policy.replace_after(ttl, self.fraction)
            };
            sent + after
        });
    }

    /// It was read, and has no lease.
    pub(crate) fn read(&mut self, policy: &Policy, times: Times, is_kept: bool) {
        let Times { sent, now } = times;
        self.state = State::Leaseless;
        self.next = None;
        self.backoff.reset();
        let Some(Refresh { every, stale_after }) = self.want.refresh else {
            return;
        };
        let end = sent + stale_after;
        self.term = Some(Term { sent, expires: end, hard_expiry: end });
        let again = sent + every.mul_f64(self.spread());
        self.next = Some(again.max(now + policy.backoff_floor));
        self.replace = is_kept.then(|| sent + stale_after.mul_f64(self.fraction));
    }

    /// Ten per cent to each side, by its phase: static secrets are read again in a spread as well.
    fn spread(&self) -> f64 {
        0.9 + 0.2 * ((self.fraction - 0.50) / 0.15).clamp(0.0, 1.0)
    }

    /// A renewal whose answer was lost moves the end at the issuer, but not the end of our trust.
    pub(crate) fn may_have_been_extended(&mut self, now: Moment) {
        if let Some(term) = &mut self.term {
            term.expires = term.expires.max(now + self.asked);
        }
    }

    /// It is not asked for again: it lasts as long as was promised.
    pub(crate) fn give_up_renewing(&mut self, policy: &Policy, now: Moment, stuck: Stuck) {
        self.stuck = Some(stuck);
        self.next = None;
        self.backoff.reset();
        if stuck == Stuck::Gone {
            self.replace = Some(now);
        } else if let Some(term) = self.term.filter(|_| self.state == State::Held) {
            let early = term.sent + policy.replace_after(self.asked, self.fraction);
            self.replace = self.replace.map(|late| late.min(early));
        }
    }

    pub(crate) fn put_off(
        &mut self,
        policy: &Policy,
        now: Moment,
        roll: Roll,
        wish: Option<Duration>,
    ) {
        self.next = Some(now + self.backoff.next(policy, roll, wish));
    }

    /// The node that was asked may not have heard of the login yet.
    pub(crate) fn ask_again_soon(&mut self, now: Moment, roll: Roll) {
        self.unheard += 1;
        self.next = Some(now + self.backoff.next_within(FLOOR, UNHEARD_CEILING, roll, None));
    }

    /// Whatever was planned for it, from now on it is to be given back.
    pub(crate) fn start_revocation(&mut self, now: Moment) {
        self.backoff.reset();
        if self.state == State::Held && self.stuck == Some(Stuck::Gone) {
            self.state = State::Absent;
        }
        self.next = (self.state == State::Held).then_some(now);
    }

    pub(crate) fn settle(&mut self, state: State) {
        self.state = state;
        self.next = None;
        self.backoff.reset();
    }

    /// When it is gone by itself. Not known while an action about it is under way, which may be a renewal.
    pub(crate) fn expires(&self) -> Option<Moment> {
        self.term
            .filter(|_| self.state == State::Held && self.busy.is_none())
            .map(|term| term.expires)
    }

    pub(crate) fn hard_expiry(&self) -> Option<Moment> {
        self.term.filter(|_| self.is_live()).map(|term| term.hard_expiry)
    }

    /// Nothing is going on with it, and nothing needs to.
    pub(crate) fn is_settled(&self) -> bool {
        self.busy.is_none() && self.state != State::Held
    }
}
