//! A driver whose issuer and holders answer at once, as they are told to.

use std::collections::HashMap;
use std::time::Duration;

use hive_lease::{
    Action, Failure, Generation, Grant, Input, LeaseId, Moment, Policy, Roll, Rotation,
    RotationAction, RotationInput, Subject, Want,
};

pub(crate) const REQUIRED: Want = Want { optional: false, refresh: None };
pub(crate) const LEASE: Subject = Subject::Lease(0);
pub(crate) const LATER: Failure = Failure::Transient { wait: None };

pub(crate) fn at(seconds: f64) -> Moment {
    Moment::after(Duration::from_secs_f64(seconds))
}

pub(crate) fn grant(ttl_s: u64, renewable: bool) -> Grant {
    Grant { ttl: Duration::from_secs(ttl_s), renewable }
}

/// The driver and all that it drives.
pub(crate) struct Stand {
    pub(crate) rotation: Rotation,
    pub(crate) now: f64,
    /// What was done, in words.
    pub(crate) log: Vec<String>,
    pub(crate) token: Grant,
    pub(crate) lease: Option<Grant>,
    /// What fails, by the first word of its line in the log.
    pub(crate) fails: HashMap<&'static str, Failure>,
    pub(crate) drains: bool,
    pub(crate) adopts: bool,
    /// How long a token lives at most, from its login, whatever its renewals ask.
    pub(crate) token_max: Option<f64>,
    logged_in_at: f64,
}

impl Stand {
    pub(crate) fn new(wants: &[Want], token: Grant, lease: Option<Grant>) -> Self {
        Self::with(Policy::default(), wants, token, lease)
    }

    pub(crate) fn with(policy: Policy, wants: &[Want], token: Grant, lease: Option<Grant>) -> Self {
        let rotation = Rotation::new(policy, wants.iter().copied(), 7, at(0.0), at(10.0));
        let (log, fails) = (Vec::new(), HashMap::new());
        Self {
            rotation,
            now: 0.0,
            log,
            token,
            lease,
            fails,
            drains: true,
            adopts: true,
            token_max: None,
            logged_in_at: 0.0,
        }
    }

    /// A stand that serves generation 1, and has forgotten how it came to that.
    pub(crate) fn serving(token: Grant, lease: Grant) -> Self {
        let mut stand = Self::new(&[REQUIRED], token, Some(lease));
        stand.perform();
        assert_eq!(stand.rotation.serving(at(0.0)), Some(1));
        stand.log.clear();
        stand
    }

    pub(crate) fn perform(&mut self) {
        while self.perform_one() {}
    }

    /// Whether there was something to do.
    pub(crate) fn perform_one(&mut self) -> bool {
        let Some(action) = self.rotation.poll_action() else {
            return false;
        };
        let (line, answer) = self.answer(action);
        self.log.push(line);
        if let Some(answer) = answer {
            self.rotation.handle(at(self.now), answer);
        }
        true
    }

    /// To the next moment at which something is due.
    pub(crate) fn wake(&mut self) {
        let due = self.rotation.poll_timeout().expect("something is due");
        self.now = due.since_origin().as_secs_f64();
        self.rotation.handle_timeout(due);
    }

    pub(crate) fn answer(&mut self, action: RotationAction) -> (String, Option<RotationInput>) {
        let roll = Roll::new(0.5);
        match action {
            RotationAction::Epoch { generation, action } => {
                let (line, subject, good) = self.answer_of_issuer(action);
                let failure = line.split(' ').next().and_then(|word| self.fails.get(word));
                let input = match failure {
                    Some(failure) => Input::Failed { subject, failure: *failure, roll },
                    None => good,
                };
                (
                    format!("{line} of {generation}"),
                    Some(RotationInput::Epoch { generation, input }),
                )
            }
            RotationAction::Probe { generation } => {
                let outcome = self.fails.get("probe").map_or(Ok(()), |failure| Err(*failure));
                let input = RotationInput::Probed { generation, outcome, roll };
                (format!("probe {generation}"), Some(input))
            }
            RotationAction::Adopt { generation } => {
                let input = self.adopts.then_some(RotationInput::Adopted { generation });
                (format!("adopt {generation}"), input)
            }
            RotationAction::Drain { generation, .. } => {
                let input = self.drains.then_some(RotationInput::Drained { generation });
                (format!("drain {generation}"), input)
            }
            RotationAction::Cut { generation } => {
                (format!("cut {generation}"), Some(RotationInput::Drained { generation }))
            }
            RotationAction::Withdraw { reason } => (format!("withdraw: {reason:?}"), None),
            RotationAction::Ended { generation, .. } => (format!("ended {generation}"), None),
        }
    }

    pub(crate) fn answer_of_issuer(&mut self, action: Action) -> (String, Subject, Input) {
        let sent = at(self.now);
        let about = |subject| {
            if subject == Subject::Token { "token" } else { "lease" }
        };
        match action {
            Action::Login => {
                self.logged_in_at = self.now;
                let input = Input::LoggedIn { sent, grant: self.token };
                ("login".to_owned(), Subject::Token, input)
            }
            Action::Issue { request } => {
                let lease = self.lease.map(|grant| (LeaseId::new(format!("{request}")), grant));
                let input = Input::Issued { request, sent, lease };
                ("issue".to_owned(), Subject::Lease(request), input)
            }
            Action::Refresh { request } => {
                let input = Input::Refreshed { request, sent };
                ("refresh".to_owned(), Subject::Lease(request), input)
            }
            Action::Renew { target, ask } => {
                let subject = target.subject();
                let ttl = self.granted(subject, ask);
                let input = Input::Renewed { subject, sent, grant: Grant { ttl, renewable: true } };
                (format!("renew {}", about(subject)), subject, input)
            }
            Action::Revoke { target } => {
                let subject = target.subject();
                (format!("revoke {}", about(subject)), subject, Input::Revoked { subject })
            }
            Action::Serve | Action::Withdraw => panic!("{action:?} is not for a driver"),
        }
    }

    fn granted(&self, subject: Subject, ask: Duration) -> Duration {
        let left = self.token_max.filter(|_| subject == Subject::Token);
        let left = left.map(|max| Duration::from_secs_f64(self.logged_in_at + max - self.now));
        left.map_or(ask, |left| ask.min(left))
    }

    /// Lets time pass until then, doing whatever is due on the way.
    pub(crate) fn until(&mut self, seconds: f64) {
        for _ in 0..100_000 {
            self.perform();
            let due =
                self.rotation.poll_timeout().map(|moment| moment.since_origin().as_secs_f64());
            let Some(due) = due.filter(|due| *due <= seconds) else {
                self.now = seconds;
                return;
            };
            self.now = due;
            self.rotation.handle_timeout(at(self.now));
        }
        panic!("it spins at {} s: {:?}", self.now, &self.log[self.log.len() - 20..]);
    }

    pub(crate) fn tell(&mut self, input: RotationInput) {
        self.rotation.handle(at(self.now), input);
        self.perform();
    }

    pub(crate) fn count(&self, word: &str) -> usize {
        self.log.iter().filter(|line| line.starts_with(word)).count()
    }

    pub(crate) fn serving_now(&self) -> Option<Generation> {
        self.rotation.serving(at(self.now))
    }
}
