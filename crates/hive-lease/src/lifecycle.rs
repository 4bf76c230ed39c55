//! The machine of one epoch: inputs and time in, actions out.

use std::collections::VecDeque;

use crate::backoff::Roll;
use crate::grant::{Grant, LeaseId, Subject, Target, Want};
use crate::item::{Item, State, Stuck};
use crate::message::{Action, Failure, Input, Reason, Report};
use crate::moment::Moment;
use crate::policy::Policy;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Opening { by: Moment },
    Serving,
    Closing { by: Moment },
    Done,
}

/// One epoch. See the picture at the front of the crate.
#[derive(Debug)]
pub struct Lifecycle {
    policy: Policy,
    phase: Phase,
    token: Item,
    leases: Vec<Item>,
    actions: VecDeque<Action>,
    reason: Option<Reason>,
}

impl Lifecycle {
    /// An epoch that wants these credentials, all issued before `open_by`.
    pub fn new(
        policy: Policy,
        wants: impl IntoIterator<Item = Want>,
        now: Moment,
        open_by: Moment,
    ) -> Self {
        let leases = wants.into_iter().map(|want| Item::wanted(want.optional, None)).collect();
        let token = Item::wanted(false, Some(now));
        let phase = Phase::Opening { by: open_by };
        let mut epoch =
            Self { policy, phase, token, leases, actions: VecDeque::new(), reason: None };
        epoch.handle_timeout(now);
        epoch
    }

    /// Takes notice of what happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        // An answer that comes too late does not bring back what has expired meanwhile.
        self.expire(now);
        if self.phase == Phase::Done {
            return;
        }
        match input {
            Input::Failed { subject, failure, roll } => self.failed(now, subject, failure, roll),
            Input::Issued { request, sent, lease } => self.issued(now, request, sent, lease),
            Input::LoggedIn { sent, grant } => self.logged_in(now, sent, grant),
            Input::Renewed { subject, sent, grant } => self.renewed(now, subject, sent, grant),
            Input::Revoked { subject } => self.revoked(subject),
            Input::Stop { by } => self.close_by(now, by),
        }
        self.handle_timeout(now);
    }

    /// Takes notice of the time.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.expire(now);
        match self.phase {
            Phase::Opening { .. } | Phase::Serving => self.ask(now),
            Phase::Closing { .. } => self.give_back(now),
            Phase::Done => {}
        }
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call `handle_timeout` next, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let expiry = self.items().filter_map(Item::hard_expiry).min();
        let next = self.items().filter(|item| !item.busy).filter_map(|item| item.next).min();
        match self.phase {
            Phase::Opening { by } => earliest([Some(by), expiry, next]),
            Phase::Serving => earliest([expiry, next]),
            Phase::Closing { by } => earliest([Some(by), self.next_revocation(), self.next_end()]),
            Phase::Done => None,
        }
    }

    /// Whether the credentials may be used at this moment.
    pub fn is_serving(&self, now: Moment) -> bool {
        self.phase == Phase::Serving && self.hard_expiry().is_none_or(|expiry| now < expiry)
    }

    /// Until when they may be used if nothing is renewed: the earliest end of anything held, less a margin.
    pub fn hard_expiry(&self) -> Option<Moment> {
        self.items().filter_map(Item::hard_expiry).min()
    }

    /// Whether everything is given back or given up.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Why it ended by itself, if it did.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// What is left behind; of meaning once it is done.
    pub fn report(&self) -> Report {
        let behind =
            |item: &Item| matches!(item.state, State::Held | State::Left | State::Uncertain);
        let leases = self.leases.iter().enumerate().filter(|(_, item)| behind(item));
        let leases = leases.map(|(request, _)| Subject::Lease(request)).collect();
        if self.token.state == State::Absent {
            return Report { entrusted: leases, left: Vec::new() };
        }
        let token = behind(&self.token).then_some(Subject::Token);
        Report { entrusted: Vec::new(), left: leases.into_iter().chain(token).collect() }
    }

    /// The name of a credential's lease, if it has or had one.
    pub fn lease_id(&self, request: usize) -> Option<&LeaseId> {
        self.leases.get(request)?.id.as_ref()
    }
}

/// Opening and serving.
impl Lifecycle {
    fn logged_in(&mut self, now: Moment, sent: Moment, grant: Grant) {
        if !std::mem::take(&mut self.token.busy) {
            return;
        }
        self.token.hold(&self.policy, None, sent, grant);
        if self.is_closing() {
            return self.token.start_revocation(now);
        }
        self.leases.iter_mut().for_each(|lease| lease.next = Some(now));
    }

    fn issued(
        &mut self,
        now: Moment,
        request: usize,
        sent: Moment,
        lease: Option<(LeaseId, Grant)>,
    ) {
        let closing = self.is_closing();
        let Some(item) = self.leases.get_mut(request).filter(|item| item.busy) else { return };
        item.busy = false;
        match lease {
            Some((id, grant)) => item.hold(&self.policy, Some(id), sent, grant),
            None => item.settle(State::Leaseless),
        }
        if closing {
            item.start_revocation(now);
        }
    }

    fn renewed(&mut self, now: Moment, subject: Subject, sent: Moment, grant: Grant) {
        let closing = self.is_closing();
        let policy = self.policy.clone();
        let Some(item) = self.item(subject).filter(|item| item.busy) else { return };
        item.busy = false;
        if item.state == State::Held {
            item.extend(&policy, sent, grant);
        }
        if closing {
            item.start_revocation(now);
        }
    }

    fn failed(&mut self, now: Moment, subject: Subject, failure: Failure, roll: Roll) {
        let closing = self.is_closing();
        let Some(item) = self.item(subject).filter(|item| item.busy) else { return };
        item.busy = false;
        match (&item.state, closing) {
            (State::Wanted, false) => self.not_issued(now, subject, failure, roll),
            (State::Wanted, true) => item.settle(after_stop(failure)),
            (State::Held, false) => self.not_renewed(now, subject, failure, roll),
            (State::Held, true) => self.not_revoked(now, subject, failure, roll),
            _ => {}
        }
    }

    fn not_issued(&mut self, now: Moment, subject: Subject, failure: Failure, roll: Roll) {
        let policy = self.policy.clone();
        let Some(item) = self.item(subject) else { return };
        let reason = match failure {
            Failure::Transient { wait } => return item.put_off(&policy, now, roll, wait),
            Failure::Absent if item.optional => return item.settle(State::Absent),
            Failure::Absent => Reason::Missing(subject),
            Failure::Denied | Failure::Gone => Reason::Refused(subject),
            Failure::Uncertain => Reason::Uncertain(subject),
        };
        item.settle(after_stop(failure));
        self.fail(now, reason);
    }

    fn not_renewed(&mut self, now: Moment, subject: Subject, failure: Failure, roll: Roll) {
        let policy = self.policy.clone();
        let Some(item) = self.item(subject) else { return };
        match failure {
            Failure::Transient { wait } => item.put_off(&policy, now, roll, wait),
            Failure::Uncertain => {
                item.may_have_been_extended(now);
                item.put_off(&policy, now, roll, None);
            }
            // It still lives as long as was promised; asking again would change nothing.
            Failure::Absent | Failure::Denied => item.stuck = Some(Stuck::Denied),
            Failure::Gone => {
                item.settle(State::Absent);
                self.fail(now, Reason::Gone(subject));
            }
        }
    }

    /// Starts what is due: logging in, issuing, renewing.
    fn ask(&mut self, now: Moment) {
        for subject in self.subjects() {
            let Some(item) = self.item(subject).filter(|item| item.is_due(now)) else { continue };
            item.begin();
            let (wanted, ask) = (item.state == State::Wanted, item.asked);
            let action = match subject {
                Subject::Token if wanted => Some(Action::Login),
                Subject::Lease(request) if wanted => Some(Action::Issue { request }),
                held => self.target(held).map(|target| Action::Renew { target, ask }),
            };
            self.actions.extend(action);
        }
        let opening = matches!(self.phase, Phase::Opening { .. });
        if opening && self.items().all(|item| item.state != State::Wanted) {
            self.phase = Phase::Serving;
            self.actions.push_back(Action::Serve);
        }
    }

    fn fail(&mut self, now: Moment, reason: Reason) {
        let serving = self.phase == Phase::Serving;
        self.reason = self.reason.or(Some(reason));
        let announced = !self.actions.contains(&Action::Serve);
        self.close_by(now, now + self.policy.closing_limit());
        if serving && announced {
            self.actions.push_front(Action::Withdraw);
        }
    }

    fn expire(&mut self, now: Moment) {
        match self.phase {
            Phase::Opening { by } if by <= now => self.fail(now, Reason::TooLate),
            Phase::Opening { .. } | Phase::Serving => {
                if let Some(reason) = self.expired(now) {
                    self.fail(now, reason);
                }
            }
            Phase::Closing { by } => self.expire_while_closing(now, by),
            Phase::Done => {}
        }
    }

    fn expired(&self, now: Moment) -> Option<Reason> {
        let subject = self.subjects().into_iter().find(|subject| {
            self.peek(*subject).and_then(Item::hard_expiry).is_some_and(|expiry| expiry <= now)
        })?;
        Some(match self.peek(subject).and_then(|item| item.stuck) {
            Some(Stuck::Capped) => Reason::MaxTtl(subject),
            Some(Stuck::Denied) => Reason::Denied(subject),
            None => Reason::Expired(subject),
        })
    }
}

/// Closing.
impl Lifecycle {
    fn close_by(&mut self, now: Moment, by: Moment) {
        let was_closing = self.is_closing();
        self.phase = Phase::Closing { by };
        if was_closing {
            return;
        }
        self.forget_unstarted();
        self.token.start_revocation(now);
        for lease in &mut self.leases {
            lease.start_revocation(now);
        }
        for item in self.leases.iter_mut().chain([&mut self.token]) {
            if item.state == State::Wanted && !item.busy {
                item.settle(State::Absent);
            }
        }
    }

    /// What the driver has not begun need not happen any more.
    fn forget_unstarted(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            let subject = match action {
                Action::Issue { request } => Subject::Lease(request),
                Action::Login => Subject::Token,
                Action::Renew { target, .. } | Action::Revoke { target } => target.subject(),
                Action::Serve | Action::Withdraw => continue,
            };
            if let Some(item) = self.item(subject) {
                item.busy = false;
            }
        }
    }

    fn not_revoked(&mut self, now: Moment, subject: Subject, failure: Failure, roll: Roll) {
        let policy = self.policy.clone();
        let Some(item) = self.item(subject) else { return };
        match failure {
            Failure::Gone => item.settle(State::Absent),
            // This was a renewal that was under way when the end came.
            _ if item.revocations == 0 => {
                item.may_have_been_extended(now);
                item.start_revocation(now);
            }
            Failure::Absent | Failure::Denied => item.settle(State::Left),
            _ if item.revocations >= policy.attempts() => item.settle(State::Left),
            Failure::Transient { wait } => item.put_off(&policy, now, roll, wait),
            Failure::Uncertain => item.put_off(&policy, now, roll, None),
        }
    }

    fn revoked(&mut self, subject: Subject) {
        let Some(item) = self.item(subject).filter(|item| item.busy) else { return };
        item.busy = false;
        item.settle(State::Absent);
    }

    /// Starts the revocations that are due: the token's only when no lease needs it any more.
    fn give_back(&mut self, now: Moment) {
        if self.token.state == State::Absent {
            self.leases
                .iter_mut()
                .filter(|lease| lease.state == State::Held)
                .for_each(|l| l.settle(State::Absent));
        }
        for subject in self.subjects() {
            let waits = subject == Subject::Token && !self.leases.iter().all(Item::is_settled);
            let Some(item) = self.item(subject).filter(|item| item.is_due(now) && !waits) else {
                continue;
            };
            item.begin();
            item.revocations += 1;
            let action = self.target(subject).map(|target| Action::Revoke { target });
            self.actions.extend(action);
        }
        if self.items().all(Item::is_settled) {
            self.phase = Phase::Done;
        }
    }

    fn expire_while_closing(&mut self, now: Moment, by: Moment) {
        for item in self.leases.iter_mut().chain([&mut self.token]) {
            if item.expires().is_some_and(|expiry| expiry <= now) {
                item.settle(State::Absent);
            }
        }
        if by > now {
            return;
        }
        self.actions.clear();
        self.phase = Phase::Done;
        for item in self.leases.iter_mut().chain([&mut self.token]) {
            match item.state {
                State::Held => item.settle(State::Left),
                State::Wanted => item.settle(State::Uncertain),
                _ => {}
            }
        }
    }

    fn next_revocation(&self) -> Option<Moment> {
        let idle = |item: &&Item| !item.busy;
        let leases = self.leases.iter().filter(idle).filter_map(|item| item.next).min();
        let token = Some(&self.token).filter(|_| self.leases.iter().all(Item::is_settled));
        earliest([leases, token.filter(idle).and_then(|item| item.next)])
    }

    fn next_end(&self) -> Option<Moment> {
        self.items().filter_map(Item::expires).min()
    }
}

/// Finding things.
impl Lifecycle {
    fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.leases.iter().chain([&self.token])
    }

    /// The token comes last, as it does in a revocation.
    fn subjects(&self) -> Vec<Subject> {
        (0..self.leases.len()).map(Subject::Lease).chain([Subject::Token]).collect()
    }

    fn item(&mut self, subject: Subject) -> Option<&mut Item> {
        match subject {
            Subject::Lease(request) => self.leases.get_mut(request),
            Subject::Token => Some(&mut self.token),
        }
    }

    fn peek(&self, subject: Subject) -> Option<&Item> {
        match subject {
            Subject::Lease(request) => self.leases.get(request),
            Subject::Token => Some(&self.token),
        }
    }

    fn target(&self, subject: Subject) -> Option<Target> {
        match subject {
            Subject::Lease(request) => {
                Some(Target::Lease { request, id: self.lease_id(request)?.clone() })
            }
            Subject::Token => Some(Target::Token),
        }
    }
}

/// What remains of a request that failed for good.
fn after_stop(failure: Failure) -> State {
    if failure == Failure::Uncertain { State::Uncertain } else { State::Absent }
}

fn earliest<const N: usize>(moments: [Option<Moment>; N]) -> Option<Moment> {
    moments.into_iter().flatten().min()
}
