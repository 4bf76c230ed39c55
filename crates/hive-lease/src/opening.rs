//! How an epoch is opened and kept: log in, have everything issued, renew.

use std::time::Duration;

use crate::backoff::Roll;
use crate::core::{Care, Core, Phase};
use crate::gate::Gate;
use crate::grant::{Grant, LeaseId, Subject};
use crate::item::{State, Stuck, Times};
use crate::message::{Action, Failure, Reason};
use crate::moment::Moment;

/// A call that is not answered within this time will not be: the driver's own deadlines are shorter.
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// For so long after a login a node that knows nothing of the token may only not have heard of it yet.
const UNHEARD_WITHIN: Duration = Duration::from_secs(5);
/// And so often it is asked again: two seconds in all, more or less.
const UNHEARD_ATTEMPTS: u32 = 5;

impl Core {
    pub(crate) fn logged_in(&mut self, now: Moment, sent: Moment, grant: Grant, gate: &mut Gate) {
        if !self.answered(Subject::Token, gate) {
            return;
        }
        gate.succeeded();
        self.logged_in = Some(now);
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(Subject::Token, |token, policy| {
            token.hold(policy, None, Times { sent, now }, grant, kept);
            if closing {
                token.start_revocation(now);
            }
        });
        if !closing {
            self.change_all(|lease| lease.next = Some(now));
        }
    }

    pub(crate) fn issued(
        &mut self,
        now: Moment,
        request: usize,
        sent: Moment,
        lease: Option<(LeaseId, Grant)>,
        gate: &mut Gate,
    ) {
        let subject = Subject::Lease(request);
        if !self.answered(subject, gate) {
            return;
        }
        gate.succeeded();
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(subject, |item, policy| {
            match lease {
                Some((id, grant)) => item.hold(policy, Some(id), Times { sent, now }, grant, kept),
                None => item.read(policy, Times { sent, now }, kept),
            }
            if closing {
                item.start_revocation(now);
            }
        });
    }

    pub(crate) fn refreshed(&mut self, now: Moment, request: usize, sent: Moment, gate: &mut Gate) {
        let subject = Subject::Lease(request);
        if !self.answered(subject, gate) {
            return;
        }
        gate.succeeded();
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(subject, |item, policy| {
            if item.state == State::Leaseless && !closing {
                item.read(policy, Times { sent, now }, kept);
            }
        });
    }

    pub(crate) fn renewed(
        &mut self,
        now: Moment,
        subject: Subject,
        sent: Moment,
        grant: Grant,
        gate: &mut Gate,
    ) {
        // A renewal that was given up long ago may answer while a revocation is under way: that is not its answer.
        let is_stale = self.peek(subject).is_none_or(|item| item.revocations > 0);
        if is_stale || !self.answered(subject, gate) {
            return;
        }
        gate.succeeded();
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(subject, |item, policy| {
            if item.state == State::Held {
                item.extend(policy, Times { sent, now }, grant, kept);
            }
            if closing {
                item.start_revocation(now);
            }
        });
    }

    pub(crate) fn failed(
        &mut self,
        now: Moment,
        subject: Subject,
        failure: Failure,
        roll: Roll,
        gate: &mut Gate,
    ) {
        if !self.answered(subject, gate) {
            return;
        }
        let Some(state) = self.peek(subject).map(|item| item.state) else {
            return;
        };
        match (state, self.is_closing()) {
            (State::Wanted, false) => self.not_issued(now, subject, failure, roll, gate),
            (State::Wanted, true) => {
                self.change(subject, |item, _| item.settle(after_stop(failure)));
            }
            (State::Held, false) => self.not_renewed(now, subject, failure, roll, gate),
            (State::Held, true) => self.not_revoked(now, subject, failure, roll),
            (State::Leaseless, false) => self.not_refreshed(now, subject, failure, roll),
            _ => {}
        }
    }

    fn not_issued(
        &mut self,
        now: Moment,
        subject: Subject,
        failure: Failure,
        roll: Roll,
        gate: &mut Gate,
    ) {
        let is_fresh = self.logged_in.is_some_and(|login| now < login + UNHEARD_WITHIN);
        let reason = self.change(subject, |item, policy| {
            let reason = match failure {
                Failure::Gone if is_fresh && item.unheard < UNHEARD_ATTEMPTS => {
                    item.ask_again_soon(now, roll);
                    return None;
                }
                Failure::Transient { wait } => {
                    item.put_off(policy, now, roll, wait);
                    return None;
                }
                Failure::Absent if item.want.optional => {
                    item.settle(State::Absent);
                    return None;
                }
                Failure::Absent => Reason::Missing(subject),
                Failure::Denied => Reason::Refused(subject),
                // Whatever was to be issued, it is the token that is gone.
                Failure::Gone => Reason::Gone(Subject::Token),
                Failure::Uncertain => Reason::Uncertain(subject),
            };
            item.settle(after_stop(failure));
            Some(reason)
        });
        if let Some(reason) = reason.flatten() {
            self.fail(now, reason, gate);
        }
    }

    fn not_renewed(
        &mut self,
        now: Moment,
        subject: Subject,
        failure: Failure,
        roll: Roll,
        gate: &mut Gate,
    ) {
        self.change(subject, |item, policy| match failure {
            Failure::Transient { wait } => item.put_off(policy, now, roll, wait),
            Failure::Uncertain => {
                item.may_have_been_extended(now);
                item.put_off(policy, now, roll, None);
            }
            // It still lives as long as was promised; asking again would change nothing.
            Failure::Absent | Failure::Denied => item.give_up_renewing(policy, now, Stuck::Denied),
            Failure::Gone => item.give_up_renewing(policy, now, Stuck::Gone),
        });
        if failure == Failure::Gone {
            self.gone(now, subject, gate);
        }
    }

    /// What else was issued may still be good: an epoch that will be replaced serves on until then.
    fn gone(&mut self, now: Moment, subject: Subject, gate: &mut Gate) {
        let reason = Reason::Gone(subject);
        if matches!(self.phase, Phase::Opening { .. }) || self.care == Care::Alone {
            self.change(subject, |item, _| item.settle(State::Absent));
            return self.fail(now, reason, gate);
        }
        self.reason = self.reason.or(Some(reason));
        if subject == Subject::Token {
            self.change_all(|lease| lease.next = None);
        }
    }

    fn not_refreshed(&mut self, now: Moment, subject: Subject, failure: Failure, roll: Roll) {
        self.change(subject, |item, policy| match failure {
            Failure::Transient { wait } => item.put_off(policy, now, roll, wait),
            Failure::Uncertain => item.put_off(policy, now, roll, None),
            Failure::Absent | Failure::Denied | Failure::Gone => {
                item.give_up_renewing(policy, now, Stuck::Denied);
            }
        });
    }

    /// Starts what is due: logging in, issuing, renewing.
    pub(crate) fn ask(&mut self, now: Moment, gate: &mut Gate) {
        while let Some((place, is_retry)) = self.index.next_due(now, gate) {
            let subject = self.subject(place);
            self.begin(now, subject, is_retry, gate);
            let action = self.next_action(subject);
            self.actions.extend(action);
        }
        if matches!(self.phase, Phase::Opening { .. }) && self.index.wanted == 0 {
            self.phase = Phase::Serving;
            self.actions.push_back(Action::Serve);
        }
    }

    fn next_action(&self, subject: Subject) -> Option<Action> {
        let item = self.peek(subject)?;
        match (subject, item.state) {
            (Subject::Token, State::Wanted) => Some(Action::Login),
            (Subject::Lease(request), State::Wanted) => Some(Action::Issue { request }),
            (Subject::Lease(request), State::Leaseless) => Some(Action::Refresh { request }),
            _ => self.target(subject).map(|target| Action::Renew { target, ask: item.asked }),
        }
    }

    pub(crate) fn begin(&mut self, now: Moment, subject: Subject, is_retry: bool, gate: &mut Gate) {
        gate.enter(now, is_retry);
        self.in_flight += 1;
        self.change(subject, |item, _| item.begin(now + CALL_WITHIN));
    }

    /// Whether something about it was asked at all.
    pub(crate) fn answered(&mut self, subject: Subject, gate: &mut Gate) -> bool {
        let was_busy = self.change(subject, |item, _| item.busy.take().is_some());
        let was_busy = was_busy.unwrap_or(false);
        self.in_flight -= usize::from(was_busy);
        gate.leave(usize::from(was_busy));
        was_busy
    }

    fn fail(&mut self, now: Moment, reason: Reason, gate: &mut Gate) {
        let serving = self.phase == Phase::Serving;
        self.reason = self.reason.or(Some(reason));
        if serving && self.care == Care::Kept {
            self.phase = Phase::Ended;
            return self.forget_unstarted(gate);
        }
        let announced = !self.actions.contains(&Action::Serve);
        self.close_by(now, now + self.policy.closing_limit(), gate);
        if serving && announced {
            self.actions.push_front(Action::Withdraw);
        }
    }

    pub(crate) fn expire(&mut self, now: Moment, gate: &mut Gate) {
        while let Some(place) = self.index.next_overdue_call(now) {
            let subject = self.subject(place);
            let roll = self.peek(subject).map_or(0.5, |item| (item.fraction - 0.5) / 0.15);
            self.failed(now, subject, Failure::Uncertain, Roll::new(roll), gate);
        }
        match self.phase {
            Phase::Opening { by } if by <= now => self.fail(now, Reason::TooLate, gate),
            Phase::Opening { .. } | Phase::Serving => {
                if let Some(place) = self.index.next_ended(now) {
                    self.fail(now, self.why(self.subject(place)), gate);
                }
            }
            Phase::Closing { by, hurry } => self.expire_while_closing(now, by, hurry, gate),
            Phase::Ended | Phase::Done => {}
        }
    }

    pub(crate) fn why(&self, subject: Subject) -> Reason {
        match self.peek(subject).and_then(|item| item.stuck) {
            Some(Stuck::Capped) => Reason::MaxTtl(subject),
            Some(Stuck::Denied) => Reason::Denied(subject),
            Some(Stuck::Gone) => Reason::Gone(subject),
            None => Reason::Expired(subject),
        }
    }
}

/// What remains of a request that failed for good.
fn after_stop(failure: Failure) -> State {
    if failure == Failure::Uncertain { State::Uncertain } else { State::Absent }
}
