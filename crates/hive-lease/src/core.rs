//! The decisions of one epoch. It shares the gate with other epochs of the same machine.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Roll;
use crate::gate::Gate;
use crate::grant::{Grant, LeaseId, Subject, Target, Want};
use crate::index::Index;
use crate::item::{Item, State, Stuck};
use crate::message::{Action, Failure, Input, Reason, Report};
use crate::moment::Moment;
use crate::policy::Policy;

/// A call that is not answered within this time will not be: the driver's own deadlines are shorter.
const CALL_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Opening {
        by: Moment,
    },
    Serving,
    /// Of no use any more, but not given back yet, for somebody may still be letting go of it.
    Ended,
    Closing {
        by: Moment,
        hurry: Moment,
    },
    Done,
}

/// What becomes of an epoch that goes wrong while it serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Care {
    /// It gives everything back at once: nobody is there to replace it.
    Alone,
    /// It serves as long as it can, and is given back when its keeper says so.
    Kept,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) policy: Policy,
    pub(crate) care: Care,
    pub(crate) phase: Phase,
    pub(crate) token: Item,
    pub(crate) leases: Vec<Item>,
    pub(crate) index: Index,
    pub(crate) in_flight: usize,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) reason: Option<Reason>,
    /// It is being given back, and the time for doing so lease by lease is over.
    pub(crate) is_hurried: bool,
}

impl Core {
    /// `fraction` is asked for each lease, and last for the token.
    pub(crate) fn new(
        policy: Policy,
        care: Care,
        wants: impl IntoIterator<Item = Want>,
        mut fraction: impl FnMut() -> f64,
        now: Moment,
        open_by: Moment,
    ) -> Self {
        let leases: Vec<_> =
            wants.into_iter().map(|want| Item::wanted(want, fraction(), None)).collect();
        let token = Item::wanted(Want::default(), fraction(), Some(now));
        let mut epoch = Self {
            policy,
            care,
            phase: Phase::Opening { by: open_by },
            token,
            leases,
            index: Index::default(),
            in_flight: 0,
            actions: VecDeque::new(),
            reason: None,
            is_hurried: false,
        };
        epoch.index_all();
        epoch
    }

    pub(crate) fn handle(&mut self, now: Moment, input: Input, gate: &mut Gate) {
        // An answer that comes too late does not bring back what has expired meanwhile.
        self.expire(now, gate);
        if self.phase == Phase::Done {
            return;
        }
        match input {
            Input::Failed { subject, failure, roll } => {
                self.failed(now, subject, failure, roll, gate);
            }
            Input::Issued { request, sent, lease } => self.issued(now, request, sent, lease, gate),
            Input::LoggedIn { sent, grant } => self.logged_in(now, sent, grant, gate),
            Input::Refreshed { request, sent } => self.refreshed(request, sent, gate),
            Input::Renewed { subject, sent, grant } => {
                self.renewed(now, subject, sent, grant, gate);
            }
            Input::Revoked { subject } => self.revoked(subject, gate),
            Input::Stop { by } => self.close_by(now, by, gate),
        }
        self.step(now, gate);
    }

    pub(crate) fn step(&mut self, now: Moment, gate: &mut Gate) {
        self.expire(now, gate);
        match self.phase {
            Phase::Opening { .. } | Phase::Serving => self.ask(now, gate),
            Phase::Closing { .. } => self.give_back(now, gate),
            Phase::Ended | Phase::Done => {}
        }
    }

    pub(crate) fn poll_timeout(&self, gate: &Gate) -> Option<Moment> {
        let (due, end) = (self.index.due_at(gate), self.index.end_at());
        let call = self.index.call_by();
        match self.phase {
            Phase::Opening { by } => earliest([Some(by), end, due, call]),
            Phase::Serving => earliest([end, due, call]),
            Phase::Ended => call,
            Phase::Closing { by, .. } => {
                earliest([Some(by), self.hurry_at(), self.next_revocation(gate), end, call])
            }
            Phase::Done => None,
        }
    }

    pub(crate) fn is_serving(&self, now: Moment) -> bool {
        self.phase == Phase::Serving && self.hard_expiry().is_none_or(|expiry| now < expiry)
    }

    pub(crate) fn hard_expiry(&self) -> Option<Moment> {
        match self.phase {
            Phase::Closing { .. } | Phase::Done => self.items().filter_map(Item::hard_expiry).min(),
            _ => self.index.end_at(),
        }
    }

    /// From when on another epoch should take its place.
    pub(crate) fn replace_at(&self) -> Option<Moment> {
        self.index.replace().map(|(moment, _)| moment)
    }

    /// Why it should be replaced, if the time for that has come.
    pub(crate) fn ailment(&self, now: Moment) -> Option<Reason> {
        let (_, place) = self.index.replace().filter(|(moment, _)| *moment <= now)?;
        self.reason.or_else(|| Some(self.why(self.subject(place))))
    }

    /// A renewal has failed, and is being tried again.
    pub(crate) fn is_failing(&self) -> bool {
        self.index.failing > 0
    }

    pub(crate) fn report(&self) -> Report {
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

    pub(crate) fn lease_id(&self, request: usize) -> Option<&LeaseId> {
        self.leases.get(request)?.id.as_ref()
    }
}

/// Opening and serving.
impl Core {
    fn logged_in(&mut self, now: Moment, sent: Moment, grant: Grant, gate: &mut Gate) {
        if !self.answered(Subject::Token, gate) {
            return;
        }
        gate.succeeded();
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(Subject::Token, |token, policy| {
            token.hold(policy, None, sent, grant, kept);
            if closing {
                token.start_revocation(now);
            }
        });
        if !closing {
            self.change_all(|lease| lease.next = Some(now));
        }
    }

    fn issued(
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
                Some((id, grant)) => item.hold(policy, Some(id), sent, grant, kept),
                None => item.read(policy, sent, kept),
            }
            if closing {
                item.start_revocation(now);
            }
        });
    }

    fn refreshed(&mut self, request: usize, sent: Moment, gate: &mut Gate) {
        let subject = Subject::Lease(request);
        if !self.answered(subject, gate) {
            return;
        }
        gate.succeeded();
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(subject, |item, policy| {
            if item.state == State::Leaseless && !closing {
                item.read(policy, sent, kept);
            }
        });
    }

    fn renewed(
        &mut self,
        now: Moment,
        subject: Subject,
        sent: Moment,
        grant: Grant,
        gate: &mut Gate,
    ) {
        if !self.answered(subject, gate) {
            return;
        }
        gate.succeeded();
        let (closing, kept) = (self.is_closing(), self.is_kept());
        self.change(subject, |item, policy| {
            if item.state == State::Held {
                item.extend(policy, sent, grant, kept);
            }
            if closing {
                item.start_revocation(now);
            }
        });
    }

    fn failed(
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
        let Some(state) = self.peek(subject).map(|item| item.state) else { return };
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
        let reason = self.change(subject, |item, policy| {
            let reason = match failure {
                Failure::Transient { wait } => {
                    item.put_off(policy, now, roll, wait);
                    return None;
                }
                Failure::Absent if item.want.optional => {
                    item.settle(State::Absent);
                    return None;
                }
                Failure::Absent => Reason::Missing(subject),
                Failure::Denied | Failure::Gone => Reason::Refused(subject),
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
        if self.phase != Phase::Serving || self.care == Care::Alone {
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
    fn ask(&mut self, now: Moment, gate: &mut Gate) {
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

    fn why(&self, subject: Subject) -> Reason {
        match self.peek(subject).and_then(|item| item.stuck) {
            Some(Stuck::Capped) => Reason::MaxTtl(subject),
            Some(Stuck::Denied) => Reason::Denied(subject),
            Some(Stuck::Gone) => Reason::Gone(subject),
            None => Reason::Expired(subject),
        }
    }
}

/// Finding things.
impl Core {
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.care == Care::Kept
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.leases.iter().chain([&self.token])
    }

    fn subject(&self, place: u32) -> Subject {
        let request = place as usize;
        if request < self.leases.len() { Subject::Lease(request) } else { Subject::Token }
    }

    fn place(&self, subject: Subject) -> u32 {
        let place = match subject {
            Subject::Lease(request) => request,
            Subject::Token => self.leases.len(),
        };
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    pub(crate) fn peek(&self, subject: Subject) -> Option<&Item> {
        match subject {
            Subject::Lease(request) => self.leases.get(request),
            Subject::Token => Some(&self.token),
        }
    }

    pub(crate) fn target(&self, subject: Subject) -> Option<Target> {
        match subject {
            Subject::Lease(request) => {
                Some(Target::Lease { request, id: self.lease_id(request)?.clone() })
            }
            Subject::Token => Some(Target::Token),
        }
    }

    /// The one way to change an item: the index learns of it.
    pub(crate) fn change<T>(
        &mut self,
        subject: Subject,
        how: impl FnOnce(&mut Item, &Policy) -> T,
    ) -> Option<T> {
        let (place, closing) = (self.place(subject), self.is_closing());
        let is_token = subject == Subject::Token;
        let item = match subject {
            Subject::Lease(request) => self.leases.get_mut(request)?,
            Subject::Token => &mut self.token,
        };
        let before = item.marks(is_token, closing);
        let outcome = how(item, &self.policy);
        self.index.update(place, before, item.marks(is_token, closing));
        Some(outcome)
    }

    /// Changes every lease.
    pub(crate) fn change_all(&mut self, mut how: impl FnMut(&mut Item)) {
        self.leases.iter_mut().for_each(&mut how);
        self.index_all();
    }

    pub(crate) fn index_all(&mut self) {
        let closing = self.is_closing();
        self.index = Index::default();
        for (place, lease) in (0..).zip(&self.leases) {
            self.index.insert(place, lease.marks(false, closing));
        }
        let token = self.place(Subject::Token);
        self.index.insert(token, self.token.marks(true, closing));
    }
}

/// What remains of a request that failed for good.
fn after_stop(failure: Failure) -> State {
    if failure == Failure::Uncertain { State::Uncertain } else { State::Absent }
}

fn earliest<const N: usize>(moments: [Option<Moment>; N]) -> Option<Moment> {
    moments.into_iter().flatten().min()
}
