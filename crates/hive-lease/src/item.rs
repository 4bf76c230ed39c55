//! The life of one thing in an epoch: the token, or one credential.

use std::time::Duration;

use crate::backoff::{Backoff, Roll};
use crate::grant::{Grant, LeaseId};
use crate::moment::Moment;
use crate::policy::Policy;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Not asked for yet, or to be asked for again.
    Wanted,
    /// Ours, until it expires or is given back.
    Held,
    /// Issued without a lease: nothing to renew or give back.
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
    pub(crate) expires: Moment,
    /// From here on it is not used any more.
    pub(crate) hard_expiry: Moment,
}

/// Why a promise is not renewed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stuck {
    Capped,
    Denied,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) state: State,
    pub(crate) optional: bool,
    pub(crate) id: Option<LeaseId>,
    pub(crate) term: Option<Term>,
    /// An action about it is being performed.
    pub(crate) busy: bool,
    /// When to act on it next: ask, renew or revoke, by its state and the phase of the epoch.
    pub(crate) next: Option<Moment>,
    pub(crate) stuck: Option<Stuck>,
    /// How long it was promised to last first; each renewal asks for as much.
    pub(crate) asked: Duration,
    pub(crate) revocations: u32,
    backoff: Backoff,
}

impl Item {
    pub(crate) fn wanted(optional: bool, next: Option<Moment>) -> Self {
        Self {
            state: State::Wanted,
            optional,
            id: None,
            term: None,
            busy: false,
            next,
            stuck: None,
            asked: Duration::ZERO,
            revocations: 0,
            backoff: Backoff::default(),
        }
    }

    /// An action is due and may start.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        !self.busy && self.next.is_some_and(|next| next <= now)
    }

    pub(crate) fn begin(&mut self) {
        self.busy = true;
        self.next = None;
    }

    pub(crate) fn hold(
        &mut self,
        policy: &Policy,
        id: Option<LeaseId>,
        sent: Moment,
        grant: Grant,
    ) {
        self.state = State::Held;
        self.id = id;
        self.asked = grant.ttl;
        self.extend(policy, sent, grant);
    }

    /// The clock starts when the request was sent: the issuer's cannot have started before.
    pub(crate) fn extend(&mut self, policy: &Policy, sent: Moment, grant: Grant) {
        if policy.is_capped(grant.ttl, self.asked) {
            self.stuck = Some(Stuck::Capped);
        }
        let hard_expiry = sent + policy.usable(grant.ttl);
        self.term = Some(Term { expires: sent + grant.ttl, hard_expiry });
        self.backoff.reset();
        let renews = grant.renewable && self.stuck.is_none();
        self.next = renews.then(|| sent + policy.renew_after(grant.ttl).max(policy.backoff_floor));
    }

    /// A renewal whose answer was lost moves the end at the issuer, but not the end of our trust.
    pub(crate) fn may_have_been_extended(&mut self, now: Moment) {
        if let Some(term) = &mut self.term {
            term.expires = term.expires.max(now + self.asked);
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

    /// Whatever was planned for it, from now on it is to be given back.
    pub(crate) fn start_revocation(&mut self, now: Moment) {
        self.backoff.reset();
        self.next = (self.state == State::Held).then_some(now);
    }

    pub(crate) fn settle(&mut self, state: State) {
        self.state = state;
        self.next = None;
    }

    /// When it is gone by itself. Not known while an action about it is under way, which may be a renewal.
    pub(crate) fn expires(&self) -> Option<Moment> {
        self.term.filter(|_| self.state == State::Held && !self.busy).map(|term| term.expires)
    }

    pub(crate) fn hard_expiry(&self) -> Option<Moment> {
        self.term.filter(|_| self.state == State::Held).map(|term| term.hard_expiry)
    }

    /// Nothing is going on with it, and nothing needs to.
    pub(crate) fn is_settled(&self) -> bool {
        !self.busy && self.state != State::Held
    }
}
