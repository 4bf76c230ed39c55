//! How an epoch goes through a rotation: opened, probed, adopted, left, given back.

use std::time::Duration;

use super::{Epoch, Generation, Rotation, RotationAction};
use crate::backoff::{Backoff, CEILING, FLOOR, Roll};
use crate::core::Phase;
use crate::message::{Failure, Reason};
use crate::moment::Moment;

/// A probe that takes longer has failed.
const PROBE_WITHIN: Duration = Duration::from_secs(60);
/// A login that no holder could use by then is given up for another: somebody may have revoked it since it was issued, and
/// nothing but its renewal would tell.
const PROBING_WITHIN: Duration = Duration::from_secs(120);
/// Holders that have not adopted by then have a difficulty. What they still use is kept for them as long as it can be.
const ADOPT_WITHIN: Duration = Duration::from_secs(30);
/// How long cutting off may take.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// How long an epoch that was replaced may try to give back what it holds. Most tokens have expired by then.
const RETIRE_WITHIN: Duration = Duration::from_secs(86_400);
/// How many epochs may be trying that lease by lease. Beyond, the oldest is left to its token.
const RETIRING_MAX: usize = 8;
/// How many epochs may be trying that at all. Beyond, the oldest is given up, and reported.
const TOKENS_MAX: usize = 100;
/// Between attempts to open an epoch that nothing but a person can help, or that may leave an orphan each time.
const SLOW_CEILING: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) enum Stage {
    Opening,
    /// `due` is when the answer is given up, or when to ask again; after `until` it is not asked again.
    Probing {
        is_asked: bool,
        due: Moment,
        until: Moment,
        backoff: Backoff,
    },
    /// `by` is when to look whether holders that still use an older one can be waited for any longer.
    Adopting {
        by: Moment,
        is_late: bool,
    },
    Active,
    Draining {
        by: Moment,
        is_cut: bool,
    },
    Closing,
}

impl Stage {
    /// When it goes on by itself.
    pub(super) fn due(&self) -> Option<Moment> {
        match self {
            Self::Probing { due, .. } => Some(*due),
            Self::Adopting { by, .. } | Self::Draining { by, .. } => Some(*by),
            Self::Active | Self::Closing | Self::Opening => None,
        }
    }

    /// Not handed out yet.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self, Self::Opening | Self::Probing { .. })
    }

    /// Not used by everybody yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_coming() || matches!(self, Self::Adopting { .. })
    }

    /// Handed out, and not adopted by everybody in time.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Adopting { is_late: true, .. })
    }

    pub(super) fn is_in_use(&self) -> bool {
        matches!(self, Self::Active | Self::Adopting { .. })
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self, Self::Draining { .. })
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Self::Closing)
    }

    /// Who is served first when calls are scarce: what is used, then what will be, then what was.
    fn rank(&self) -> usize {
        match self {
            Self::Active | Self::Adopting { .. } | Self::Draining { .. } => 0,
            Self::Opening | Self::Probing { .. } => 1,
            Self::Closing => 2,
        }
    }
}

/// What happened.
impl Rotation {
    pub(super) fn probed(
        &mut self,
        now: Moment,
        generation: Generation,
        outcome: Result<(), Failure>,
        roll: Roll,
    ) {
        let policy = self.policy;
        let Some(place) = self.place(generation) else {
            return;
        };
        let Stage::Probing { is_asked, due, until, backoff } = &mut self.epochs[place].stage else {
            return;
        };
        if !std::mem::take(is_asked) {
            return;
        }
        match outcome {
            Ok(()) => self.adopt(now, place),
            Err(Failure::Transient { .. } | Failure::Uncertain) if *until <= now => {
                self.retire(now, place);
                self.opening_failed(now, Reason::Unusable);
            }
            Err(Failure::Transient { wait }) => *due = now + backoff.next(&policy, roll, wait),
            Err(Failure::Uncertain) => *due = now + backoff.next(&policy, roll, None),
            Err(Failure::Absent | Failure::Denied | Failure::Gone) => {
                self.retire(now, place);
                self.opening_failed(now, Reason::Unusable);
            }
        }
    }

    fn adopt(&mut self, now: Moment, place: usize) {
        self.epochs[place].stage = Stage::Adopting { by: now + ADOPT_WITHIN, is_late: false };
        let generation = self.epochs[place].generation;
        self.actions.push_back(RotationAction::Adopt { generation });
        (self.withdrawn, self.failure, self.has_adopted) = (None, None, true);
        self.is_rotation_asked = false;
        self.backoff.reset();
    }

    pub(super) fn adopted(&mut self, now: Moment, generation: Generation) {
        let Some(place) = self.place(generation) else {
            return;
        };
        if !matches!(self.epochs[place].stage, Stage::Adopting { .. }) {
            return;
        }
        self.epochs[place].stage = Stage::Active;
        let by = now + self.policy.overlap_limit();
        for old in 0..place {
            if self.epochs[old].stage.is_in_use() {
                self.drain(old, by);
            }
        }
    }

    /// Not everybody has adopted the newest. Whoever still uses an older one goes on with it, as long as it lasts long
    /// enough for a whole overlap and the newest does not have to be replaced in its turn.
    fn adopts_late(&mut self, now: Moment, place: usize) {
        let older = self.epochs[..place].iter().filter(|epoch| epoch.stage.is_in_use());
        let overlap = self.policy.overlap_limit();
        let has_older = older.clone().next().is_some();
        let ends = older.filter_map(|epoch| epoch.core.hard_expiry()).map(|end| end - overlap);
        let patience = ends.chain(self.epochs[place].core.replace_at()).min();
        if !has_older || patience.is_some_and(|end| end <= now) {
            let generation = self.epochs[place].generation;
            return self.adopted(now, generation);
        }
        let again = now + ADOPT_WITHIN;
        let by = patience.map_or(again, |end| again.min(end));
        self.epochs[place].stage = Stage::Adopting { by, is_late: true };
    }

    fn drain(&mut self, place: usize, by: Moment) {
        let epoch = &mut self.epochs[place];
        epoch.stage = Stage::Draining { by, is_cut: false };
        self.actions.push_back(RotationAction::Drain { generation: epoch.generation, by });
    }

    fn cut(&mut self, now: Moment, place: usize) {
        let by = self.cut_by(now);
        let epoch = &mut self.epochs[place];
        epoch.stage = Stage::Draining { by, is_cut: true };
        self.actions.push_back(RotationAction::Cut { generation: epoch.generation });
    }

    /// When it is told to stop soon, a part of the time is kept for revocations.
    fn cut_by(&self, now: Moment) -> Moment {
        let limit = now + CUT_WITHIN;
        self.stop.map_or(limit, |stop| limit.min(now + between(now, stop) / 2))
    }

    pub(super) fn drained(&mut self, now: Moment, generation: Generation) {
        if let Some(place) = self.place(generation)
            && self.epochs[place].stage.is_draining()
        {
            self.retire(now, place);
        }
    }

    fn retire(&mut self, now: Moment, place: usize) {
        let by = self.stop.unwrap_or(now + RETIRE_WITHIN);
        let epoch = &mut self.epochs[place];
        epoch.stage = Stage::Closing;
        if epoch.core.phase != Phase::Done {
            epoch.core.close_by(now, by, &mut self.gate);
        }
    }

    pub(super) fn stop(&mut self, now: Moment, by: Moment) {
        self.stop = Some(by);
        let half = now + between(now, by) / 2;
        // What was not begun yet is not begun any more.
        self.actions.retain(|action| {
            !matches!(action, RotationAction::Adopt { .. } | RotationAction::Probe { .. })
        });
        for place in 0..self.epochs.len() {
            match &mut self.epochs[place].stage {
                Stage::Opening | Stage::Probing { .. } => self.retire(now, place),
                Stage::Active | Stage::Adopting { .. } => self.drain(place, half),
                Stage::Draining { by, .. } => *by = half.min(*by),
                Stage::Closing => self.retire(now, place),
            }
        }
    }

    fn opening_failed(&mut self, now: Moment, reason: Reason) {
        let is_hopeless = matches!(
            reason,
            Reason::Missing(_) | Reason::Refused(_) | Reason::Uncertain(_) | Reason::Unusable
        );
        let ceiling = if is_hopeless { SLOW_CEILING } else { CEILING };
        let roll = Roll::new(self.dice.roll());
        let delay = self.backoff.next_within(FLOOR, ceiling, roll, None);
        self.open_next = self.open_next.max(now + delay);
        self.failure = Some(reason);
        if self.current().is_none() {
            self.withdraw(reason);
        }
    }

    fn withdraw(&mut self, reason: Reason) {
        if self.stop.is_none() && self.withdrawn != Some(reason) {
            self.withdrawn = Some(reason);
            self.actions.push_back(RotationAction::Withdraw { reason });
        }
    }

    fn place(&self, generation: Generation) -> Option<usize> {
        self.epochs.iter().position(|epoch| epoch.generation == generation)
    }
}

/// What follows.
impl Rotation {
    /// Lets every epoch go as far as it can at this moment.
    pub(super) fn advance(&mut self, now: Moment) {
        loop {
            self.step_cores(now);
            let mut has_moved = false;
            for place in 0..self.epochs.len() {
                has_moved |= self.go_on(now, place);
            }
            self.remove_ended(now);
            if self.crowded_at().is_some_and(|moment| moment <= now) {
                has_moved |= self.cut_oldest(now);
            }
            if self.opens_at().is_some_and(|moment| moment <= now) {
                self.make_room(now);
                self.open(now, now + self.policy.opening_limit(self.wants.len()));
                has_moved = true;
            }
            if !has_moved {
                return self.forget_failure(now);
            }
        }
    }

    /// What could not be replaced was renewed after all, and nobody asks for another: all is well again.
    fn forget_failure(&mut self, now: Moment) {
        let is_wanted = self.is_rotation_asked || self.is_one_coming();
        let is_good = |epoch: &Epoch| epoch.core.replace_at().is_none_or(|replace| now < replace);
        if !is_wanted && self.current().is_some_and(is_good) && self.failure.take().is_some() {
            self.backoff.reset();
        }
    }

    fn step_cores(&mut self, now: Moment) {
        for rank in 0..=2 {
            for epoch in self.epochs.iter_mut().filter(|epoch| epoch.stage.rank() == rank) {
                epoch.core.step(now, &mut self.gate);
            }
        }
    }

    /// Whether it came to another stage.
    fn go_on(&mut self, now: Moment, place: usize) -> bool {
        let epoch = &self.epochs[place];
        let (phase, reason) = (epoch.core.phase, epoch.core.reason.unwrap_or(Reason::TooLate));
        let has_ended = phase == Phase::Ended;
        let is_due = epoch.stage.due().is_some_and(|due| due <= now);
        match &epoch.stage {
            Stage::Opening if phase == Phase::Serving => self.probe(now, place),
            Stage::Opening if matches!(phase, Phase::Closing { .. } | Phase::Done) => {
                self.retire(now, place);
                self.opening_failed(now, reason);
            }
            Stage::Probing { .. } if has_ended => {
                self.retire(now, place);
                self.opening_failed(now, reason);
            }
            Stage::Probing { is_asked: true, .. } if is_due => {
                let (generation, roll) = (epoch.generation, Roll::new(self.dice.roll()));
                self.probed(now, generation, Err(Failure::Uncertain), roll);
            }
            Stage::Probing { is_asked: false, .. } if is_due => self.probe(now, place),
            Stage::Adopting { .. } if has_ended => {
                let generation = epoch.generation;
                self.adopted(now, generation);
            }
            Stage::Adopting { .. } if is_due => self.adopts_late(now, place),
            Stage::Active if has_ended => {
                let newest = self.current().map(|current| current.generation);
                if newest == Some(epoch.generation) {
                    self.withdraw(reason);
                }
                self.cut(now, place);
            }
            Stage::Draining { is_cut: false, .. } if is_due || has_ended => self.cut(now, place),
            Stage::Draining { is_cut: true, .. } if is_due => self.retire(now, place),
            _ => return false,
        }
        true
    }

    /// When what is used has to be replaced although the one before it is still being left: new work goes first.
    pub(super) fn crowded_at(&self) -> Option<Moment> {
        let draining = |epoch: &Epoch| matches!(epoch.stage, Stage::Draining { is_cut: false, .. });
        let is_blocked = self.stop.is_none() && !self.may_open() && !self.is_one_coming();
        let is_crowded = is_blocked && self.epochs.iter().any(draining);
        self.current().filter(|_| is_crowded)?.core.replace_at()
    }

    fn cut_oldest(&mut self, now: Moment) -> bool {
        let draining = |epoch: &Epoch| matches!(epoch.stage, Stage::Draining { is_cut: false, .. });
        let oldest = self.epochs.iter().position(draining);
        oldest.map(|place| self.cut(now, place)).is_some()
    }

    fn probe(&mut self, now: Moment, place: usize) {
        let epoch = &mut self.epochs[place];
        let (backoff, until) = match &epoch.stage {
            Stage::Probing { backoff, until, .. } => (*backoff, *until),
            _ => (Backoff::default(), now + PROBING_WITHIN),
        };
        epoch.stage = Stage::Probing { is_asked: true, due: now + PROBE_WITHIN, until, backoff };
        self.actions.push_back(RotationAction::Probe { generation: epoch.generation });
    }

    fn remove_ended(&mut self, now: Moment) {
        let (entrusted, left, actions) = (&mut self.entrusted, &mut self.left, &mut self.actions);
        let (leftovers, token_ttl) = (&mut self.leftovers, &self.token_ttl);
        leftovers.retain(|(ends, _)| ends.is_none_or(|end| now < end));
        self.epochs.retain(|epoch| {
            let has_ended = epoch.stage.is_closing() && epoch.core.phase == Phase::Done;
            if has_ended {
                let report = epoch.core.report();
                entrusted.extend(&report.entrusted);
                left.extend(&report.left);
                if !report.left.is_empty() {
                    let ends = epoch.core.token.term.map(|term| term.expires);
                    let ends = ends.or_else(|| Some(now + *token_ttl.as_ref()?));
                    leftovers.push((ends, report.left.clone()));
                }
                actions.push_back(RotationAction::Ended { generation: epoch.generation, report });
            }
            !has_ended
        });
    }

    /// New credentials are worth more than the tidy end of old ones: when too many are being given back, the oldest are
    /// left to their tokens, and when there are too many of these, the oldest of them is given up.
    fn make_room(&mut self, now: Moment) {
        let retiring = || self.epochs.iter().filter(|epoch| epoch.stage.is_closing());
        let by_lease = |epoch: &Epoch| epoch.stage.is_closing() && epoch.core.index.unsettled > 0;
        let (all, each) = (retiring().count(), retiring().filter(|epoch| by_lease(epoch)).count());
        if each >= RETIRING_MAX
            && let Some(oldest) = self.epochs.iter_mut().find(|epoch| by_lease(epoch))
        {
            oldest.core.entrust(&mut self.gate);
        }
        if all >= TOKENS_MAX
            && let Some(oldest) = self.epochs.iter_mut().find(|epoch| epoch.stage.is_closing())
        {
            oldest.core.give_up(&mut self.gate);
        }
        self.remove_ended(now);
    }
}

fn between(from: Moment, to: Moment) -> Duration {
    to.since_origin().saturating_sub(from.since_origin())
}
