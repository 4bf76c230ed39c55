//! What the driver does with the server.

use std::time::Duration;

use hive_lease::{
    Action, Failure, Generation, Grant, Input, LeaseId, Roll, RotationInput, Subject, Target,
};

use super::server::{Life, Micros};
use super::weather::{Fate, SECOND};
use super::{Event, World, moment};

/// No two attempts at the same thing are closer.
const FLOOR: Micros = SECOND / 4;
/// The machine gives a call up after this long.
const CALL_WITHIN: Micros = 60 * SECOND;

#[derive(Clone, Debug)]
pub(crate) struct Call {
    generation: Generation,
    action: Action,
    sent: Micros,
    fate: Fate,
}

impl World {
    pub(super) fn call(&mut self, generation: Generation, action: Action) {
        self.seen.calls += 1;
        let (subject, kind) = about(&action);
        self.check_call(generation, subject, kind);
        if kind == "revoke" {
            self.check_unused(generation);
        }
        match kind {
            "renew" => self.seen.renewals += 1,
            "refresh" => self.seen.refreshes += 1,
            _ => {}
        }
        let fate = self.weather.fate(&mut self.dice);
        if kind == "revoke"
            && subject == Subject::Token
            && matches!(fate, Fate::Refused | Fate::Missing)
        {
            self.excused.extend(self.epochs.get(&generation).and_then(|epoch| epoch.token));
        }
        let (sent, latency) = (self.now, self.weather.latency);
        if fate == Fate::Cancelled {
            let at = sent + self.dice.below(latency);
            let input = self.failed(subject, Failure::Uncertain);
            self.plan(at, Event::Answer { generation, input, sent });
        }
        let at = sent + 1 + self.dice.below(latency);
        self.plan(at, Event::Carry(Call { generation, action, sent, fate }));
    }

    /// Budgets: nothing is repeated at once, and epochs do not begin one after the other.
    fn check_call(&mut self, generation: Generation, subject: Subject, kind: &'static str) {
        let last = self.attempts.insert((generation, subject, kind), self.now);
        if let Some(last) = last {
            let gap = self.now - last;
            assert!(gap >= FLOOR, "{}: {kind} of {subject:?} again after {gap} us", self.at());
            self.seen.retries += u64::from(kind != "renew" && kind != "refresh");
        } else if kind == "login" {
            let gap = self.last_opening.map(|last| self.now - last);
            assert!(gap.is_none_or(|gap| gap >= SECOND), "{}: a login after {gap:?} us", self.at());
            self.last_opening = Some(self.now);
            let in_use = self.epochs.values().filter(|epoch| epoch.is_adopted && !epoch.is_let_go);
            let in_use = in_use.count();
            assert!(in_use <= super::OVERLAPS_MAX, "{}: an epoch beside {in_use}", self.at());
        }
        let budget = 10 + 5 * (self.now / SECOND + 1) + 2 * self.successes;
        assert!(self.seen.retries <= budget, "{}: {} repetitions", self.at(), self.seen.retries);
    }

    fn check_unused(&self, generation: Generation) {
        let users = self.epochs.get(&generation).map_or(0, |epoch| epoch.users.len());
        assert_eq!(users, 0, "{}: {generation} is revoked while it is used", self.at());
    }

    /// The call arrives at the server.
    pub(super) fn carry(&mut self, call: &Call) {
        let (subject, _) = about(&call.action);
        let Call { generation, sent, fate, .. } = *call;
        let input = match fate {
            Fate::Lost => self.failed(subject, Failure::Uncertain),
            Fate::Missing => self.failed(subject, Failure::Absent),
            Fate::Refused => self.failed(subject, Failure::Denied),
            Fate::Stalled => {
                let wish = self.dice.per_mille(200).then(|| self.dice.below(5 * SECOND));
                let wait = wish.map(Duration::from_micros);
                self.failed(subject, Failure::Transient { wait })
            }
            Fate::AnswerLost | Fate::Cancelled | Fate::Fine | Fate::Silent => {
                self.effect(call, subject)
            }
        };
        if matches!(fate, Fate::Cancelled | Fate::Silent) {
            return;
        }
        // One answer in a hundred is so slow that it is given up before it comes.
        let slow = if fate != Fate::Fine || self.weather.silent == 0 { 0 } else { 10 };
        let extra = if self.dice.per_mille(slow) { CALL_WITHIN } else { 0 };
        let at = self.now + 1 + self.dice.below(self.weather.latency) + extra;
        self.plan(at, Event::Answer { generation, input, sent });
    }

    /// What the server does, and what it answers.
    fn effect(&mut self, call: &Call, subject: Subject) -> Input {
        let Call { generation, sent, fate, .. } = *call;
        let now = self.server_now();
        let is_heard = fate == Fate::Fine;
        let token = self.epochs.get(&generation).and_then(|epoch| epoch.token);
        let at = moment(sent);
        let answer = match &call.action {
            Action::Login => {
                let (token, ttl) = self.server.login(now, self.token_life);
                // Until its answer is taken, nobody knows it.
                self.excused.insert(token);
                if is_heard {
                    self.epochs.entry(generation).or_default().token = Some(token);
                }
                Some(Input::LoggedIn { sent: at, grant: grant(ttl, self.token_life) })
            }
            Action::Issue { request } => {
                token.and_then(|token| self.issue(now, generation, token, *request, sent, is_heard))
            }
            Action::Refresh { request } => token
                .filter(|token| self.server.tokens.contains_key(token))
                .map(|_| Input::Refreshed { request: *request, sent: at }),
            Action::Renew { target: Target::Token, .. } => {
                let ttl = token.and_then(|token| self.server.renew_token(now, token));
                ttl.map(|ttl| Input::Renewed {
                    subject,
                    sent: at,
                    grant: grant(ttl, self.token_life),
                })
            }
            Action::Renew { target: Target::Lease { id, request }, .. } => {
                let ttl = token.and_then(|token| self.server.renew_lease(now, token, number(id)));
                ttl.map(|ttl| Input::Renewed {
                    subject,
                    sent: at,
                    grant: grant(ttl, self.lives[*request]),
                })
            }
            Action::Revoke { target: Target::Token } => {
                token.inspect(|token| self.server.revoke_token(*token));
                Some(Input::Revoked { subject })
            }
            Action::Revoke { target: Target::Lease { id, .. } } => {
                let is_known =
                    token.is_some_and(|token| self.server.revoke_lease(token, number(id)));
                is_known.then_some(Input::Revoked { subject })
            }
            Action::Serve | Action::Withdraw => panic!("not for a driver"),
        };
        match answer {
            Some(_) if fate == Fate::AnswerLost => self.failed(subject, Failure::Uncertain),
            Some(answer) => answer,
            None => self.failed(subject, Failure::Gone),
        }
    }

    fn issue(
        &mut self,
        now: Micros,
        generation: Generation,
        token: u64,
        request: usize,
        sent: Micros,
        is_heard: bool,
    ) -> Option<Input> {
        let sent = moment(sent);
        if self.leaseless[request] {
            self.server.tokens.get(&token)?;
            return Some(Input::Issued { request, sent, lease: None });
        }
        let life = self.lives[request];
        let (id, ttl) = self.server.issue(now, token, life)?;
        if is_heard {
            let epoch = self.epochs.entry(generation).or_default();
            epoch.leases.resize(request.max(epoch.leases.len().saturating_sub(1)) + 1, None);
            epoch.leases[request] = Some(id);
        }
        let lease = Some((LeaseId::new(id.to_string()), grant(ttl, life)));
        Some(Input::Issued { request, sent, lease })
    }

    /// The answer arrives at the driver.
    pub(super) fn answered(&mut self, generation: Generation, input: Input, sent: Micros) {
        let is_late = self.now - sent >= CALL_WITHIN;
        match &input {
            Input::Failed { failure: Failure::Uncertain, .. } => self.seen.lost += 1,
            Input::Failed { .. } => {}
            _ => self.successes += 1,
        }
        let is_known = self.rotation.generations().any(|known| known == generation);
        if matches!(input, Input::LoggedIn { .. }) && !is_late && is_known {
            let token = self.epochs.get(&generation).and_then(|epoch| epoch.token);
            self.excused.retain(|excused| Some(*excused) != token);
        }
        self.tell(RotationInput::Epoch { generation, input });
    }

    fn failed(&mut self, subject: Subject, failure: Failure) -> Input {
        Input::Failed { subject, failure, roll: Roll::new(self.dice.unit()) }
    }
}

fn about(action: &Action) -> (Subject, &'static str) {
    match action {
        Action::Issue { request } => (Subject::Lease(*request), "issue"),
        Action::Login => (Subject::Token, "login"),
        Action::Refresh { request } => (Subject::Lease(*request), "refresh"),
        Action::Renew { target, .. } => (target.subject(), "renew"),
        Action::Revoke { target } => (target.subject(), "revoke"),
        Action::Serve | Action::Withdraw => panic!("{action:?} is not for a driver"),
    }
}

/// Servers promise whole seconds.
fn grant(ttl: Micros, life: Life) -> Grant {
    Grant { ttl: Duration::from_secs(ttl / SECOND), renewable: life.renewable }
}

fn number(id: &LeaseId) -> u64 {
    id.as_str().parse().expect("the server's ids are numbers")
}
