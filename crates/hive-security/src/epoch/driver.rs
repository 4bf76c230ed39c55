//! Performs what the machine decides.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hive_lease::{Action, Input, Lifecycle, Moment, Policy, Subject, Want};
use secrecy::SecretString;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::{ABANDONED, Error, Issued, Request};
use crate::clock::Clock;
use crate::issuer::{Ask, Done, Issuer};
use crate::vault::{LoginMethod, VaultClient};
use crate::{Cause, SecretJson, Workload};

/// Where nothing is due: any time far away serves, for the loop looks again.
const IDLE: Duration = Duration::from_secs(3600);

/// The task's end of the line, and the epoch's.
pub(super) struct Line {
    pub(super) opened: oneshot::Receiver<Opened>,
    pub(super) failure: watch::Receiver<Option<Error>>,
    pub(super) stop: oneshot::Sender<Duration>,
}

pub(super) struct Opened {
    pub(super) credentials: Vec<Issued>,
    pub(super) skipped: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) failure: Option<Error>,
    pub(super) left: Vec<String>,
}

pub(super) struct Driver {
    issuer: Issuer,
    role: String,
    requests: Arc<[Request]>,
    lifecycle: Lifecycle,
    token: Option<Arc<SecretString>>,
    issued: HashMap<usize, SecretJson>,
    causes: HashMap<Subject, Cause>,
    jobs: JoinSet<Done>,
    opened: Option<oneshot::Sender<Opened>>,
    failure: watch::Sender<Option<Error>>,
    stop: Option<oneshot::Receiver<Duration>>,
}

impl Driver {
    pub(super) fn new(
        vault: VaultClient,
        workload: Workload,
        role: String,
        requests: Vec<Request>,
        open_deadline: Duration,
    ) -> (Self, Line) {
        let ((opened, await_opened), (stop, await_stop)) = (oneshot::channel(), oneshot::channel());
        let (failure, watch_failure) = watch::channel(None);
        let clock = Clock::system();
        let now = clock.now();
        let login = LoginMethod::JwtSvid { workload, role: role.clone() };
        let wants =
            requests.iter().map(|request| Want { optional: request.optional, ..Want::default() });
        let driver = Self {
            lifecycle: Lifecycle::new(policy(), wants, now, now + open_deadline),
            issuer: Issuer { vault, login, clock },
            role,
            requests: requests.into(),
            token: None,
            issued: HashMap::new(),
            causes: HashMap::new(),
            jobs: JoinSet::new(),
            opened: Some(opened),
            failure,
            stop: Some(await_stop),
        };
        (driver, Line { opened: await_opened, failure: watch_failure, stop })
    }

    pub(super) async fn run(mut self) -> Ending {
        loop {
            while let Some(action) = self.lifecycle.poll_action() {
                self.perform(action);
            }
            if self.lifecycle.is_done() {
                return self.ending();
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let due = self.lifecycle.poll_timeout().unwrap_or_else(|| self.now() + IDLE);
        tokio::select! {
            Some(done) = self.jobs.join_next() => self.finish(done.ok()),
            by = stopped(&mut self.stop, &mut self.opened) => {
                self.stop = None;
                let now = self.now();
                self.lifecycle.handle(now, Input::Stop { by: now + by });
            }
            () = self.issuer.clock.sleep_until(due) => self.lifecycle.handle_timeout(self.now()),
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Serve => self.announce(),
            // No request of an epoch asks for it.
            Action::Refresh { .. } => {}
            Action::Withdraw => drop(self.failure.send_replace(self.error())),
            Action::Login => drop(self.jobs.spawn(self.issuer.clone().login())),
            Action::Issue { request } => {
                let (Some(wanted), Some(token)) = (self.requests.get(request), self.token.clone())
                else {
                    return;
                };
                let ask = Ask { path: wanted.path.clone(), body: None };
                self.jobs.spawn(self.issuer.clone().issue(request, ask, token));
            }
            Action::Renew { target, ask } => {
                let Some(token) = self.token.clone() else { return };
                self.jobs.spawn(self.issuer.clone().renew(target, ask, token));
            }
            Action::Revoke { target } => {
                let Some(token) = self.token.clone() else { return };
                self.jobs.spawn(self.issuer.clone().revoke(target, token));
            }
        }
    }

    fn finish(&mut self, done: Option<Done>) {
        // A job that panicked gives no answer; the machine's deadlines are for that.
        let Some(done) = done else { return };
        if let Some(token) = done.token {
            self.token = Some(Arc::new(token));
        }
        if let (Input::Issued { request, .. }, Some(data)) = (&done.input, done.data) {
            self.issued.insert(*request, data);
        }
        if let (Input::Failed { subject, .. }, Some(cause)) = (&done.input, done.cause) {
            tracing::debug!(what = %self.name(*subject), role = %self.role, %cause, "a call to Vault failed");
            self.causes.insert(*subject, cause);
        }
        self.lifecycle.handle(self.now(), done.input);
    }

    fn announce(&mut self) {
        let (mut credentials, mut skipped) = (Vec::new(), Vec::new());
        for (place, request) in self.requests.iter().enumerate() {
            match self.issued.remove(&place) {
                Some(data) => credentials.push(Issued { name: request.name.clone(), data }),
                None => skipped.push(request.name.clone()),
            }
        }
        if let Some(opened) = self.opened.take() {
            // If nobody waits any more, `stop` is closed as well and ends the epoch.
            let _ = opened.send(Opened { credentials, skipped });
        }
    }

    fn ending(self) -> Ending {
        let report = self.lifecycle.report();
        for subject in &report.entrusted {
            let what = self.name(*subject);
            tracing::warn!(what, role = %self.role, "not revoked by itself; Vault ends it with the login token");
        }
        let left: Vec<_> = report.left.iter().map(|subject| self.name(*subject)).collect();
        if !left.is_empty() {
            tracing::warn!(what = left.join(", "), role = %self.role, "could not be revoked");
        }
        let failure = self.error();
        if failure.is_some() {
            self.failure.send_replace(failure.clone());
        }
        Ending { failure, left }
    }

    fn error(&self) -> Option<Error> {
        let role = self.role.clone();
        let reason = self.lifecycle.reason()?;
        let subject = super::about(reason)
            .or_else(|| self.causes.keys().min().copied())
            .unwrap_or(Subject::Token);
        let (what, path) = (self.name(subject), self.path(subject));
        Some(Error::of(reason, what, path, role, self.causes.get(&subject).cloned()))
    }

    fn name(&self, subject: Subject) -> String {
        match subject {
            Subject::Lease(place) => {
                self.requests.get(place).map(|request| request.name.clone()).unwrap_or_default()
            }
            Subject::Token => "the login".to_owned(),
        }
    }

    fn path(&self, subject: Subject) -> String {
        match subject {
            Subject::Lease(place) => {
                self.requests.get(place).map(|request| request.path.clone()).unwrap_or_default()
            }
            Subject::Token => "auth".to_owned(),
        }
    }

    fn now(&self) -> Moment {
        self.issuer.clock.now()
    }
}

/// Told to stop, or left alone: the epoch was dropped, or whoever was opening it does not wait any more.
async fn stopped(
    stop: &mut Option<oneshot::Receiver<Duration>>,
    opened: &mut Option<oneshot::Sender<Opened>>,
) -> Duration {
    match (stop, opened) {
        (Some(_), Some(opened)) => {
            opened.closed().await;
            ABANDONED
        }
        (Some(stop), None) => stop.await.unwrap_or(ABANDONED),
        (None, _) => std::future::pending().await,
    }
}

/// One renewal point per process, so that a fleet started together spreads and each process keeps its place.
fn policy() -> Policy {
    static FRACTION: OnceLock<f64> = OnceLock::new();
    let fraction = *FRACTION.get_or_init(|| 0.50 + 0.15 * rand::random::<f64>());
    Policy::default()
        .renew_at(fraction)
        .expect("a number between 0.50 and 0.65 is within the bounds")
}
