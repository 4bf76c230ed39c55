//! How an epoch is given back: every lease, and the token last.

use crate::backoff::Roll;
use crate::core::{Core, Phase};
use crate::gate::Gate;
use crate::grant::Subject;
use crate::item::State;
use crate::message::{Action, Failure};
use crate::moment::Moment;

impl Core {
    /// Begins to give everything back, or changes the time for it.
    pub(crate) fn close_by(&mut self, now: Moment, by: Moment, gate: &mut Gate) {
        let was_closing = self.is_closing();
        let window = by.since_origin().saturating_sub(now.since_origin());
        self.phase = Phase::Closing { by, hurry: by - window / 4 };
        if was_closing {
            return;
        }
        self.forget_unstarted(gate);
        for item in self.leases.iter_mut().chain([&mut self.token]) {
            item.start_revocation(now);
            if item.state == State::Wanted && item.busy.is_none() {
                item.settle(State::Absent);
            }
        }
        self.index_all();
    }

    /// What the driver has not begun need not happen any more.
    pub(crate) fn forget_unstarted(&mut self, gate: &mut Gate) {
        for action in std::mem::take(&mut self.actions) {
            let subject = match action {
                Action::Issue { request } | Action::Refresh { request } => Subject::Lease(request),
                Action::Login => Subject::Token,
                Action::Renew { target, .. } | Action::Revoke { target } => target.subject(),
                Action::Serve | Action::Withdraw => continue,
            };
            self.answered(subject, gate);
        }
    }

    pub(crate) fn not_revoked(
        &mut self,
        now: Moment,
        subject: Subject,
        failure: Failure,
        roll: Roll,
    ) {
        // A lease that stays is ended with its token, so the token of an epoch that was replaced is never given up.
        let persists = self.is_kept() && subject == Subject::Token;
        self.change(subject, |item, policy| match failure {
            Failure::Gone => item.settle(State::Absent),
            // This was a renewal that was under way when the end came.
            _ if item.revocations == 0 => {
                item.may_have_been_extended(now);
                item.start_revocation(now);
            }
            Failure::Absent | Failure::Denied => item.settle(State::Left),
            _ if item.revocations >= policy.attempts() && !persists => item.settle(State::Left),
            Failure::Transient { wait } => item.put_off(policy, now, roll, wait),
            Failure::Uncertain => item.put_off(policy, now, roll, None),
        });
    }

    pub(crate) fn revoked(&mut self, subject: Subject, gate: &mut Gate) {
        if self.answered(subject, gate) {
            gate.succeeded();
            self.change(subject, |item, _| item.settle(State::Absent));
        }
    }

    /// Starts the revocations that are due: the token's only when no lease needs it any more.
    pub(crate) fn give_back(&mut self, now: Moment, gate: &mut Gate) {
        if self.token.state == State::Absent && self.index.unsettled > 0 {
            self.give_up_leases(State::Absent, gate);
        }
        while !self.is_hurried {
            let Some((place, is_retry)) = self.index.next_due(now, gate) else {
                break;
            };
            self.revoke(now, Subject::Lease(place as usize), is_retry, gate);
        }
        let token = &self.token;
        let is_due = token.busy.is_none() && token.next.is_some_and(|next| next <= now);
        let is_retry = token.is_failing();
        if is_due && self.is_tokens_turn() && gate.admits(now, is_retry) {
            self.revoke(now, Subject::Token, is_retry, gate);
        }
        if self.index.unsettled == 0 && self.token.is_settled() {
            self.phase = Phase::Done;
        }
    }

    fn revoke(&mut self, now: Moment, subject: Subject, is_retry: bool, gate: &mut Gate) {
        self.begin(now, subject, is_retry, gate);
        self.change(subject, |item, _| item.revocations += 1);
        let action = self.target(subject).map(|target| Action::Revoke { target });
        self.actions.extend(action);
    }

    fn is_tokens_turn(&self) -> bool {
        self.is_hurried || self.index.unsettled == 0
    }

    /// Leases are not given back one by one any more: their token takes them along.
    fn give_up_leases(&mut self, held: State, gate: &mut Gate) {
        let mut left = 0;
        self.change_all(|lease| {
            left += usize::from(lease.busy.take().is_some());
            match lease.state {
                State::Held => lease.settle(held),
                State::Wanted => lease.settle(State::Uncertain),
                _ => {}
            }
        });
        self.in_flight -= left;
        gate.leave(left);
    }

    pub(crate) fn expire_while_closing(
        &mut self,
        now: Moment,
        by: Moment,
        hurry: Moment,
        gate: &mut Gate,
    ) {
        while let Some(place) = self.index.next_ended(now) {
            let request = place as usize;
            let is_lease = request < self.leases.len();
            let subject = if is_lease { Subject::Lease(request) } else { Subject::Token };
            self.change(subject, |item, _| item.settle(State::Absent));
        }
        if by <= now {
            return self.give_up(gate);
        }
        if self.is_kept() && hurry <= now && self.index.unsettled > 0 {
            self.entrust(gate);
        }
    }

    /// From now on only the token is given back, and takes the leases along.
    pub(crate) fn entrust(&mut self, gate: &mut Gate) {
        self.is_hurried = true;
        self.forget_unstarted(gate);
        self.give_up_leases(State::Left, gate);
    }

    /// The time for giving back is over.
    pub(crate) fn give_up(&mut self, gate: &mut Gate) {
        self.actions.clear();
        self.give_up_leases(State::Left, gate);
        let was_busy = self.token.busy.take().is_some();
        match self.token.state {
            State::Held => self.token.settle(State::Left),
            State::Wanted => self.token.settle(State::Uncertain),
            _ => {}
        }
        self.in_flight -= usize::from(was_busy);
        gate.leave(usize::from(was_busy));
        self.phase = Phase::Done;
    }

    pub(crate) fn hurry_at(&self) -> Option<Moment> {
        let Phase::Closing { hurry, .. } = self.phase else {
            return None;
        };
        (self.is_kept() && !self.is_hurried && self.index.unsettled > 0).then_some(hurry)
    }

    pub(crate) fn next_revocation(&self, gate: &Gate) -> Option<Moment> {
        if !self.is_tokens_turn() {
            return self.index.due_at(gate);
        }
        let next = self.token.next.filter(|_| self.token.busy.is_none() && gate.has_room())?;
        Some(if self.token.is_failing() { next.max(gate.retry_at()) } else { next })
    }
}
