//! Those who use the credentials: they take their time to move, and some of what they do takes longer than any overlap.

use hive_lease::{Failure, Generation, Roll, RotationAction, RotationInput};

use super::weather::SECOND;
use super::{Event, World, moment};

impl World {
    pub(super) fn holders(&mut self, action: &RotationAction) {
        let delay = 1 + self.dice.below(self.weather.latency);
        let is_silent = self.dice.per_mille(self.weather.silent);
        match *action {
            RotationAction::Adopt { generation } => {
                self.seen.adoptions += 1;
                self.epochs.entry(generation).or_default().is_adopted = true;
                if !is_silent {
                    let told = RotationInput::Adopted { generation };
                    self.plan(self.now + delay, Event::Tell(told));
                }
            }
            RotationAction::Cut { generation } => {
                self.seen.cuts += 1;
                let epoch = self.epochs.entry(generation).or_default();
                epoch.users.clear();
                (epoch.is_draining, epoch.is_let_go) = (true, true);
                if !is_silent {
                    let told = RotationInput::Drained { generation };
                    self.plan(self.now + delay, Event::Tell(told));
                }
            }
            RotationAction::Drain { generation, .. } => {
                let epoch = self.epochs.entry(generation).or_default();
                epoch.is_draining = true;
                if epoch.users.is_empty() {
                    self.drained(generation);
                }
            }
            RotationAction::Ended { generation, .. } => {
                self.epochs.remove(&generation);
                self.attempts.retain(|(old, ..), _| *old != generation);
            }
            RotationAction::Probe { generation } => self.probe(generation, delay, is_silent),
            RotationAction::Withdraw { reason } => {
                self.seen.withdrawals += 1;
                self.note(reason);
            }
            RotationAction::Epoch { .. } => unreachable!("an action of the server"),
        }
    }

    fn probe(&mut self, generation: Generation, delay: u64, is_silent: bool) {
        let outcome = if self.dice.per_mille(self.weather.probe_refused) {
            Err(Failure::Denied)
        } else if self.dice.per_mille(self.weather.probe_fails) {
            Err(Failure::Transient { wait: None })
        } else {
            Ok(())
        };
        let roll = Roll::new(self.dice.unit());
        let told = RotationInput::Probed { generation, outcome, roll };
        if !is_silent {
            self.plan(self.now + delay, Event::Tell(told));
        }
    }

    pub(super) fn told(&mut self, input: RotationInput) {
        if let RotationInput::Drained { generation } = input
            && let Some(epoch) = self.epochs.get_mut(&generation)
        {
            epoch.is_let_go = true;
        }
        self.tell(input);
    }

    fn drained(&mut self, generation: Generation) {
        let delay = 1 + self.dice.below(self.weather.latency);
        self.plan(self.now + delay, Event::Tell(RotationInput::Drained { generation }));
    }

    /// Somebody begins to use what is served, or what was served until the holder has moved.
    pub(super) fn use_begins(&mut self) {
        self.wake();
        let serving = self.rotation.serving(moment(self.now));
        if let Some(newest) = serving {
            let is_before = |(generation, epoch): &(&Generation, &super::Epoch)| {
                **generation < newest && epoch.is_adopted && !epoch.is_draining
            };
            let before =
                self.epochs.iter().rev().find(is_before).map(|(generation, _)| *generation);
            let generation = before.filter(|_| self.dice.per_mille(500)).unwrap_or(newest);
            self.check_alive(generation);
            self.users += 1;
            self.seen.uses += 1;
            let user = self.users;
            self.epochs.entry(generation).or_default().users.insert(user);
            let length = if self.dice.per_mille(50) { 90 * SECOND } else { 3 * SECOND };
            let end = self.now + 1 + self.dice.below(length);
            self.plan(end, Event::UseEnds(generation, user));
        }
        if !self.is_stopped {
            let next = self.now + self.dice.between(SECOND / 10, 30 * SECOND);
            self.plan(next, Event::UseBegins);
        }
    }

    pub(super) fn use_ends(&mut self, generation: Generation, user: u64) {
        let Some(epoch) = self.epochs.get_mut(&generation) else {
            return;
        };
        let was_last = epoch.users.remove(&user) && epoch.users.is_empty();
        if was_last && epoch.is_draining {
            self.drained(generation);
        }
    }
}
