//! The machine that keeps one set of credentials alive over successive epochs.

mod message;
mod stages;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::core::{Care, Core};
use crate::dice::Dice;
use crate::gate::Gate;
use crate::grant::{LeaseId, Subject, Want};
use crate::message::{Action, Input, Reason, Report};
use crate::moment::Moment;
use crate::policy::{Policy, fraction_at};

pub use message::{Generation, RotationAction, RotationInput, RotationState};
use stages::Stage;

/// However short what is issued lasts, no two epochs begin closer together.
const OPENING_APART: Duration = Duration::from_secs(1);

/// One epoch and how far it has come.
#[derive(Debug)]
struct Epoch {
    generation: Generation,
    core: Core,
    stage: Stage,
}

/// A set of credentials that is always there: each epoch is replaced by the next before it ends.
///
/// Like every machine here it decides and does nothing. At most one epoch is in use, at most
/// [`overlaps_max`](Policy::overlaps_max) older ones are being left by their holders, and at most one newer is being made
/// ready. Whatever the driver is asked has a time limit: an answer that does not come is as good as a failure.
#[derive(Debug)]
pub struct Rotation {
    policy: Policy,
    wants: Vec<Want>,
    dice: Dice,
    gate: Gate,
    /// By generation.
    epochs: Vec<Epoch>,
    last: Generation,
    /// No epoch is opened before.
    open_next: Moment,
    backoff: Backoff,
    /// Until another epoch is handed out: an attempt that fails is followed by the next.
    is_rotation_asked: bool,
    has_adopted: bool,
    withdrawn: Option<Reason>,
    /// Why the newest epoch was opened.
    because: Option<Reason>,
    /// Why the last attempt to open an epoch failed.
    failure: Option<Reason>,
    stop: Option<Moment>,
    actions: VecDeque<RotationAction>,
    entrusted: BTreeSet<Subject>,
    left: BTreeSet<Subject>,
    /// What of that may still be there, and until when; None: for ever.
    leftovers: Vec<(Option<Moment>, Vec<Subject>)>,
    /// How long the last token was promised to live. One whose answer was lost lives as long.
    token_ttl: Option<Duration>,
}

impl Rotation {
    /// Begins to open the first epoch, with all of these credentials issued before `open_by`.
    ///
    /// Out of the seed come the phases of all leases and the delays between attempts. It is drawn by the driver, once per
    /// process, so that a fleet started together spreads.
    pub fn new(
        policy: Policy,
        wants: impl IntoIterator<Item = Want>,
        seed: u64,
        now: Moment,
        open_by: Moment,
    ) -> Self {
        let mut rotation = Self {
            policy,
            wants: wants.into_iter().collect(),
            dice: Dice::new(seed),
            gate: Gate::new(&policy),
            epochs: Vec::new(),
            last: 0,
            open_next: now,
            backoff: Backoff::default(),
            is_rotation_asked: false,
            has_adopted: false,
            withdrawn: None,
            because: None,
            failure: None,
            stop: None,
            actions: VecDeque::new(),
            entrusted: BTreeSet::new(),
            left: BTreeSet::new(),
            leftovers: Vec::new(),
            token_ttl: None,
        };
        rotation.open(now, open_by);
        rotation.handle_timeout(now);
        rotation
    }

    /// Takes notice of what happened. What is not expected, such as an answer that was given up, changes nothing.
    pub fn handle(&mut self, now: Moment, input: RotationInput) {
        match input {
            RotationInput::Adopted { generation } => self.adopted(now, generation),
            RotationInput::Drained { generation } => self.drained(now, generation),
            RotationInput::Epoch { input: Input::Stop { .. }, .. } => {}
            RotationInput::Epoch { generation, input } => {
                if let Input::LoggedIn { grant, .. } = &input {
                    self.token_ttl = Some(grant.ttl).filter(|ttl| !ttl.is_zero());
                }
                let gate = &mut self.gate;
                let epoch = self.epochs.iter_mut().find(|epoch| epoch.generation == generation);
                if let Some(epoch) = epoch {
                    epoch.core.handle(now, input, gate);
                }
            }
            RotationInput::Probed { generation, outcome, roll } => {
                self.probed(now, generation, outcome, roll);
            }
            RotationInput::Rotate => self.rotate(now),
            RotationInput::Stop { by } => self.stop(now, by),
        }
        self.handle_timeout(now);
    }

    /// Takes notice of the time.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.advance(now);
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<RotationAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.epochs.iter_mut().find_map(|epoch| {
            let generation = epoch.generation;
            std::iter::from_fn(|| epoch.core.actions.pop_front())
                // The rotation has its own words for these.
                .find(|action| !matches!(action, Action::Serve | Action::Withdraw))
                .map(|action| RotationAction::Epoch { generation, action })
        })
    }

    /// When to call `handle_timeout` next, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let cores = self.epochs.iter().filter_map(|epoch| epoch.core.poll_timeout(&self.gate));
        let stages = self.epochs.iter().filter_map(|epoch| epoch.stage.due());
        cores.chain(stages).chain(self.opens_at()).chain(self.crowded_at()).min()
    }

    /// The generation whose credentials may be used at this moment: the newest that was handed out with
    /// [`Adopt`](RotationAction::Adopt), unless it is over. None once it was told to stop: nothing new begins then.
    pub fn serving(&self, now: Moment) -> Option<Generation> {
        let current = self.current().filter(|_| self.stop.is_none())?;
        current.core.is_serving(now).then_some(current.generation)
    }

    /// Until when the serving generation may be used if nothing is renewed or replaced. None if nothing is served, or
    /// nothing in it ever ends.
    pub fn hard_expiry(&self) -> Option<Moment> {
        self.current()?.core.hard_expiry()
    }

    /// Where it stands.
    pub fn state(&self) -> RotationState {
        let is_any =
            |stage: fn(&Stage) -> bool| self.epochs.iter().any(|epoch| stage(&epoch.stage));
        match self.current() {
            _ if self.is_done() => RotationState::Done,
            _ if self.stop.is_some() => RotationState::Closing,
            None if self.withdrawn.is_some() || self.has_adopted => RotationState::Withdrawn,
            None => RotationState::Opening,
            Some(_) if is_any(Stage::is_late) => RotationState::Degraded,
            Some(_) if is_any(Stage::is_draining) => RotationState::Overlap,
            Some(_) if is_any(Stage::is_fresh) => RotationState::Rotating,
            Some(epoch) if epoch.core.is_failing() || self.failure.is_some() => {
                RotationState::Degraded
            }
            Some(epoch) if epoch.core.reason.is_some() => RotationState::Degraded,
            Some(_) => RotationState::Active,
        }
    }

    /// Whether everything is given back or given up.
    pub fn is_done(&self) -> bool {
        self.stop.is_some() && self.epochs.is_empty()
    }

    /// Why nothing is served; or else why the last attempt to replace what is served failed; or else what is wrong with
    /// what is served.
    pub fn reason(&self) -> Option<Reason> {
        let current = || self.current().and_then(|epoch| epoch.core.reason);
        let is_late = self.current().is_some_and(|epoch| epoch.stage.is_late());
        let late = is_late.then_some(Reason::Unusable);
        self.withdrawn.or(self.failure).or(late).or_else(current)
    }

    /// Why the newest epoch was opened: what is wrong with the one before, or why nothing was served. None for the first,
    /// and for one that an operator asked for.
    pub fn because(&self) -> Option<Reason> {
        self.because
    }

    /// What all the epochs that have ended left behind. [`Ended`](RotationAction::Ended) tells it of each.
    pub fn report(&self) -> Report {
        Report {
            entrusted: self.entrusted.iter().copied().collect(),
            left: self.left.iter().copied().collect(),
        }
    }

    /// What ended epochs left behind and what may still be there: it ends by itself, and not before now.
    pub fn left(&self, now: Moment) -> Vec<Subject> {
        let still = self.leftovers.iter().filter(|(ends, _)| ends.is_none_or(|end| now < end));
        still.flat_map(|(_, left)| left).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The name of a credential's lease, if it has one and its generation has not ended.
    pub fn lease_id(&self, generation: Generation, request: usize) -> Option<&LeaseId> {
        let epoch = self.epochs.iter().find(|epoch| epoch.generation == generation)?;
        epoch.core.lease_id(request)
    }

    /// The generations that exist in any stage, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = Generation> + '_ {
        self.epochs.iter().map(|epoch| epoch.generation)
    }

    /// How many leases and tokens are held, in all generations.
    pub fn held(&self) -> usize {
        self.epochs.iter().map(|epoch| epoch.core.index.held).sum()
    }

    /// How many calls are under way.
    pub fn in_flight(&self) -> usize {
        self.epochs.iter().map(|epoch| epoch.core.in_flight).sum()
    }
}

/// Opening epochs.
impl Rotation {
    fn open(&mut self, now: Moment, open_by: Moment) {
        self.last += 1;
        self.open_next = now + OPENING_APART;
        self.because = self.current().and_then(|epoch| epoch.core.ailment(now)).or(self.withdrawn);
        let dice = &mut self.dice;
        let fraction = || fraction_at(dice.roll());
        let wants = self.wants.iter().copied();
        let core = Core::new(self.policy, Care::Kept, wants, fraction, now, open_by);
        self.epochs.push(Epoch { generation: self.last, core, stage: Stage::Opening });
    }

    /// The newest that holders were told to use.
    fn current(&self) -> Option<&Epoch> {
        self.epochs.iter().rev().find(|epoch| epoch.stage.is_in_use())
    }

    fn is_one_coming(&self) -> bool {
        self.epochs.iter().any(|epoch| epoch.stage.is_coming())
    }

    /// Whether another epoch may begin, as far as its number goes.
    fn may_open(&self) -> bool {
        let live = self.epochs.iter().filter(|epoch| !epoch.stage.is_closing());
        self.stop.is_none() && !self.is_one_coming() && live.count() <= self.policy.overlaps_limit()
    }

    /// When the next epoch is to be opened, as far as that depends on time alone.
    fn opens_at(&self) -> Option<Moment> {
        if !self.may_open() {
            return None;
        }
        let needed = match self.current() {
            Some(epoch) if !self.is_rotation_asked => epoch.core.replace_at()?,
            _ => self.open_next,
        };
        Some(needed.max(self.open_next))
    }

    fn rotate(&mut self, now: Moment) {
        if self.stop.is_none() && !self.is_one_coming() {
            self.is_rotation_asked = true;
            self.backoff.reset();
            self.open_next = self.open_next.min(now + OPENING_APART);
        }
    }
}
