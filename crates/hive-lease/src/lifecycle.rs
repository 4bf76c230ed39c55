//! The machine of one epoch that lives by itself: inputs and time in, actions out.

use crate::core::{Care, Core, Phase};
use crate::gate::Gate;
use crate::grant::{LeaseId, Want};
use crate::message::{Action, Input, Reason, Report};
use crate::moment::Moment;
use crate::policy::Policy;

/// One epoch. See the picture at the front of the crate.
///
/// It is for what is needed for a while and then given back. What has to go on is a [`Rotation`](crate::Rotation).
#[derive(Debug)]
pub struct Lifecycle {
    core: Core,
    gate: Gate,
}

impl Lifecycle {
    /// An epoch that wants these credentials, all issued before `open_by`.
    pub fn new(
        policy: Policy,
        wants: impl IntoIterator<Item = Want>,
        now: Moment,
        open_by: Moment,
    ) -> Self {
        let core = Core::new(policy, Care::Alone, wants, || policy.fraction(), now, open_by);
        let mut epoch = Self { core, gate: Gate::new(&policy) };
        epoch.handle_timeout(now);
        epoch
    }

    /// Takes notice of what happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        self.core.handle(now, input, &mut self.gate);
    }

    /// Takes notice of the time.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.core.step(now, &mut self.gate);
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.core.actions.pop_front()
    }

    /// When to call `handle_timeout` next, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.core.poll_timeout(&self.gate)
    }

    /// Whether the credentials may be used at this moment.
    pub fn is_serving(&self, now: Moment) -> bool {
        self.core.is_serving(now)
    }

    /// Until when they may be used if nothing is renewed: the earliest end of anything held, less a margin.
    pub fn hard_expiry(&self) -> Option<Moment> {
        self.core.hard_expiry()
    }

    /// Whether everything is given back or given up.
    pub fn is_done(&self) -> bool {
        self.core.phase == Phase::Done
    }

    /// Why it ended by itself, if it did.
    pub fn reason(&self) -> Option<Reason> {
        self.core.reason
    }

    /// What is left behind; of meaning once it is done.
    pub fn report(&self) -> Report {
        self.core.report()
    }

    /// The name of a credential's lease, if it has or had one.
    pub fn lease_id(&self, request: usize) -> Option<&LeaseId> {
        self.core.lease_id(request)
    }
}
