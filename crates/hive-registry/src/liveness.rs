//! When silence means death: heartbeats and time in, decisions out.
//!
//! ```text
//!  alive ──silence──▶ suspect ──more──▶ dead ──more──▶ gone
//!    ▲                   │                │
//!    └────── heartbeat ──┴────────────────┘
//! ```
//!
//! Silence is counted in time during which this process listened: while it was suspended or starved, nobody could
//! reach it. When a large share falls silent together, a network is more likely to have failed than a fleet, so nobody
//! dies until heartbeats return or an operator's limit passes.

use crate::agent::AgentId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Silent for this share of the time until death, an agent is suspect.
const SUSPECT_AT: f64 = 2.0 / 3.0;
/// An agent that is dead is forgotten after this many times the time until death: long enough to be seen.
const GONE_AT: u32 = 4;
/// More than this share of the living becoming suspect within one window is a mass expiry; it is over at half of it.
const MASS_SHARE: f64 = 0.3;
/// Fewer than this many are no mass: of three workers, one may die.
const MASS_LEAST: usize = 5;

/// The times of silence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) suspect_after: Duration,
    pub(crate) dead_after: Duration,
    pub(crate) gone_after: Duration,
    /// For how long a mass expiry may keep the silent from dying.
    pub(crate) freeze_max: Duration,
    /// Of a longer pause between two looks at the clock, only this much counts as silence.
    pub(crate) stall_max: Duration,
}

impl Rules {
    /// The rules by which an agent that is silent for `dead_after` is dead.
    pub(crate) fn new(dead_after: Duration, freeze_max: Duration) -> Self {
        let suspect_after = dead_after.mul_f64(SUSPECT_AT);
        Self {
            suspect_after,
            dead_after,
            gone_after: dead_after * GONE_AT,
            freeze_max,
            stall_max: suspect_after / 4,
        }
    }
}

/// What silence has made of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vital {
    Alive,
    Suspect,
    Dead,
    Gone,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The agent's record is to say this.
    Record { id: AgentId, vital: Vital },
    /// Nobody dies for now: too many fell silent together.
    Freeze { suspects: usize, of: usize },
    /// Silence kills again: heartbeats returned, or the limit passed.
    Thaw { recovered: bool },
}

/// The machine, for the agents that are this replica's to judge.
#[derive(Debug)]
pub(crate) struct Liveness {
    rules: Rules,
    /// The time during which we listened, and when it was counted last.
    listened: Duration,
    looked: Instant,
    lives: HashMap<AgentId, Life>,
    /// One timer for each life. It is looked at when it fires, not moved by each heartbeat.
    timers: BTreeSet<(Duration, AgentId)>,
    suspects: usize,
    dead: usize,
    damper: Damper,
    decisions: VecDeque<Decision>,
}

#[derive(Debug)]
struct Life {
    heard: Duration,
    timer: Duration,
    vital: Vital,
    /// What was decided last is not recorded yet.
    undecided: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damper {
    Open,
    Frozen {
        since: Duration,
    },
    /// The limit passed; it freezes again only after a time without a mass expiry.
    Spent,
}

impl Liveness {
    pub(crate) fn new(now: Instant, rules: Rules) -> Self {
        Self {
            rules,
            listened: Duration::ZERO,
            looked: now,
            lives: HashMap::new(),
            timers: BTreeSet::new(),
            suspects: 0,
            dead: 0,
            damper: Damper::Open,
            decisions: VecDeque::new(),
        }
    }

    /// An agent is ours to judge, and its record says `recorded`. One that is new to us has its grace.
    pub(crate) fn adopt(&mut self, now: Instant, id: AgentId, recorded: Vital) {
        self.look(now);
        match self.lives.get(&id).map(|life| life.vital) {
            None => self.begin(id, recorded),
            Some(vital) if vital != recorded => {
                self.decisions.push_back(Decision::Record { id, vital });
            }
            Some(_) => {}
        }
    }

    /// The agent is not ours to judge, or there is no such agent any more.
    pub(crate) fn release(&mut self, id: AgentId) {
        if let Some(life) = self.lives.remove(&id) {
            self.timers.remove(&(life.timer, id));
            self.count(life.vital, false);
        }
    }

    /// The agent was heard. Returns whether it is ours to judge.
    pub(crate) fn heard(&mut self, now: Instant, id: AgentId) -> bool {
        self.look(now);
        let Some(life) = self.lives.get_mut(&id) else { return false };
        life.heard = self.listened;
        let before = std::mem::replace(&mut life.vital, Vital::Alive);
        if before != Vital::Alive {
            self.count(before, false);
            self.decisions.push_back(Decision::Record { id, vital: Vital::Alive });
            self.set_timer(id, self.listened + self.rules.suspect_after);
        }
        true
    }

    /// What was decided of an agent could not be recorded: it is decided again a little later.
    pub(crate) fn undecided(&mut self, id: AgentId) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.undecided = true;
            self.set_timer(id, self.listened + self.rules.stall_max);
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.look(now);
        self.thaw_at_the_limit();
        let due = self.timers.range(..=(self.listened, AgentId::MAX)).copied().collect::<Vec<_>>();
        // Who becomes suspect now counts before anybody dies.
        for (_, id) in &due {
            self.suspect(*id);
        }
        self.damp();
        for (_, id) in due {
            self.judge(id);
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Whether [`poll_decision`](Self::poll_decision) has something.
    pub(crate) fn has_decisions(&self) -> bool {
        !self.decisions.is_empty()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let due = self.timers.first().map(|(due, _)| due.saturating_sub(self.listened));
        // Two looks within what counts as a stall, so that a timer that is late by one look is no stall.
        self.looked + due.unwrap_or(Duration::MAX).min(self.rules.stall_max / 2)
    }

    /// Whether the agent is ours to judge and was heard in time.
    pub(crate) fn is_alive(&self, id: AgentId) -> bool {
        self.lives.get(&id).is_some_and(|life| life.vital == Vital::Alive)
    }

    /// Whether a mass expiry keeps the silent from dying.
    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self.damper, Damper::Frozen { .. })
    }

    fn begin(&mut self, id: AgentId, vital: Vital) {
        let wait = self.patience(vital);
        // Suspects and the dead begin their silence anew, too; they were heard by nobody that is here now.
        let timer = self.listened + wait;
        let life = Life { heard: self.listened, timer, vital, undecided: false };
        self.timers.insert((timer, id));
        self.lives.insert(id, life);
        self.count(vital, true);
    }

    /// The silence after which more becomes of it.
    fn patience(&self, vital: Vital) -> Duration {
        match vital {
            Vital::Alive => self.rules.suspect_after,
            Vital::Suspect => self.rules.dead_after,
            Vital::Dead | Vital::Gone => self.rules.gone_after,
        }
    }

    fn suspect(&mut self, id: AgentId) {
        let (listened, patience) = (self.listened, self.rules.suspect_after);
        let Some(life) = self.lives.get_mut(&id) else { return };
        if life.vital == Vital::Alive && listened.saturating_sub(life.heard) >= patience {
            life.vital = Vital::Suspect;
            self.suspects += 1;
            self.decisions.push_back(Decision::Record { id, vital: Vital::Suspect });
        }
    }

    /// Looks at an agent whose timer fired, and sets the next.
    fn judge(&mut self, id: AgentId) {
        let frozen = self.is_frozen();
        let Some(life) = self.lives.get_mut(&id) else { return };
        let (vital, heard) = (life.vital, life.heard);
        if std::mem::take(&mut life.undecided) {
            self.decisions.push_back(Decision::Record { id, vital });
        }
        let due = heard + self.patience(vital);
        if due > self.listened {
            self.set_timer(id, due);
        } else if frozen {
            self.set_timer(id, self.listened + self.rules.stall_max);
        } else {
            self.advance(id, vital);
        }
    }

    fn advance(&mut self, id: AgentId, vital: Vital) {
        let next = match vital {
            // `suspect` has seen to the living.
            Vital::Alive | Vital::Suspect => Vital::Dead,
            Vital::Dead | Vital::Gone => Vital::Gone,
        };
        let Some(life) = self.lives.get_mut(&id) else { return };
        let heard = life.heard;
        life.vital = next;
        self.count(vital, false);
        self.count(next, true);
        self.decisions.push_back(Decision::Record { id, vital: next });
        let due = heard + self.patience(next);
        // Who is gone is released once the store has forgotten it; until then it is decided again.
        self.set_timer(id, due.max(self.listened + self.rules.stall_max));
    }

    fn set_timer(&mut self, id: AgentId, due: Duration) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        self.timers.remove(&(life.timer, id));
        life.timer = due;
        self.timers.insert((due, id));
    }

    fn count(&mut self, vital: Vital, more: bool) {
        let counter = match vital {
            Vital::Alive => return,
            Vital::Suspect => &mut self.suspects,
            Vital::Dead | Vital::Gone => &mut self.dead,
        };
        *counter = if more { *counter + 1 } else { counter.saturating_sub(1) };
    }

    /// Counts the time since the last look; of a pause in which nobody listened, only a little.
    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.looked);
        self.listened += passed.min(self.rules.stall_max);
        self.looked = self.looked.max(now);
    }

    fn living(&self) -> usize {
        self.lives.len().saturating_sub(self.dead)
    }

    fn is_mass(&self, share: f64) -> bool {
        self.suspects >= MASS_LEAST && self.suspects as f64 > share * self.living() as f64
    }

    fn damp(&mut self) {
        match self.damper {
            Damper::Open if self.is_mass(MASS_SHARE) => {
                self.damper = Damper::Frozen { since: self.listened };
                let (suspects, of) = (self.suspects, self.living());
                self.decisions.push_back(Decision::Freeze { suspects, of });
            }
            Damper::Frozen { .. } if !self.is_mass(MASS_SHARE / 2.0) => {
                self.damper = Damper::Open;
                self.give_grace();
                self.decisions.push_back(Decision::Thaw { recovered: true });
            }
            Damper::Spent if !self.is_mass(MASS_SHARE / 2.0) => self.damper = Damper::Open,
            Damper::Open | Damper::Frozen { .. } | Damper::Spent => {}
        }
    }

    fn thaw_at_the_limit(&mut self) {
        let Damper::Frozen { since } = self.damper else { return };
        if self.listened.saturating_sub(since) >= self.rules.freeze_max {
            self.damper = Damper::Spent;
            self.decisions.push_back(Decision::Thaw { recovered: false });
        }
    }

    /// Those who are still silent when the others return get the time in which a suspect can come back.
    fn give_grace(&mut self) {
        let heard = self.listened.saturating_sub(self.rules.suspect_after);
        for life in self.lives.values_mut().filter(|life| life.vital == Vital::Suspect) {
            life.heard = life.heard.max(heard);
        }
    }
}

#[cfg(test)]
mod tests;
