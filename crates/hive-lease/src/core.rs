//! The decisions of one epoch. It shares the gate with other epochs of the same machine.

use std::collections::VecDeque;

use crate::gate::Gate;
use crate::grant::{LeaseId, Subject, Target, Want};
use crate::index::Index;
use crate::item::{Item, State};
use crate::message::{Action, Input, Reason, Report};
use crate::moment::Moment;
use crate::policy::Policy;

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
    /// When the login was answered: a node that did not answer it may not have heard of it for a moment.
    pub(crate) logged_in: Option<Moment>,
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
            logged_in: None,
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
            Input::Refreshed { request, sent } => self.refreshed(now, request, sent, gate),
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

    pub(crate) fn subject(&self, place: u32) -> Subject {
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

fn earliest<const N: usize>(moments: [Option<Moment>; N]) -> Option<Moment> {
    moments.into_iter().flatten().min()
}
