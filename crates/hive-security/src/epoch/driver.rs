//! Performs what the machine decides.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hive_lease::{
    Action, Failure, Grant, Input, LeaseId, Lifecycle, Moment, Policy, Reason, Roll, Subject,
    Target, Want,
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::{ABANDONED, Error, Issued, Request, outcome};
use crate::vault::{Answer, VaultClient, VaultError};
use crate::{Audience, Cause, SecretJson, Workload};

/// The Workload API is a socket on this machine; an answer that takes longer does not come.
const SVID_DEADLINE: Duration = Duration::from_secs(5);
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
    hand: Hand,
    requests: Arc<[Request]>,
    lifecycle: Lifecycle,
    origin: Instant,
    token: Option<Arc<SecretString>>,
    issued: HashMap<usize, SecretJson>,
    causes: HashMap<Subject, Cause>,
    jobs: JoinSet<Done>,
    opened: Option<oneshot::Sender<Opened>>,
    failure: watch::Sender<Option<Error>>,
    stop: Option<oneshot::Receiver<Duration>>,
}

/// What a job brought, beside the input for the machine: the secrets, which the machine must not see.
struct Done {
    input: Input,
    token: Option<SecretString>,
    data: Option<SecretJson>,
    cause: Option<Cause>,
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
        let origin = Instant::now();
        let now = Moment::after(Duration::ZERO);
        let wants =
            requests.iter().map(|request| Want { optional: request.optional, ..Want::default() });
        let driver = Self {
            lifecycle: Lifecycle::new(policy(), wants, now, now + open_deadline),
            hand: Hand { vault, workload, role, origin },
            requests: requests.into(),
            origin,
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
        let due = self.lifecycle.poll_timeout().map_or(IDLE, Moment::since_origin);
        let due = self.origin.checked_add(due).unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            Some(done) = self.jobs.join_next() => self.finish(done.ok()),
            by = stopped(&mut self.stop, &mut self.opened) => {
                self.stop = None;
                let now = self.now();
                self.lifecycle.handle(now, Input::Stop { by: now + by });
            }
            () = sleep_until(due) => self.lifecycle.handle_timeout(self.now()),
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Serve => self.announce(),
            // No request of an epoch asks for it.
            Action::Refresh { .. } => {}
            Action::Withdraw => drop(self.failure.send_replace(self.error())),
            Action::Login => drop(self.jobs.spawn(self.hand.clone().login())),
            Action::Issue { request } => {
                let (Some(wanted), Some(token)) = (self.requests.get(request), self.token.clone())
                else {
                    return;
                };
                self.jobs.spawn(self.hand.clone().issue(request, wanted.path.clone(), token));
            }
            Action::Renew { target, ask } => {
                let Some(token) = self.token.clone() else { return };
                self.jobs.spawn(self.hand.clone().renew(target, ask, token));
            }
            Action::Revoke { target } => {
                let Some(token) = self.token.clone() else { return };
                self.jobs.spawn(self.hand.clone().revoke(target, token));
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
            tracing::debug!(what = %self.name(*subject), role = %self.hand.role, %cause, "a call to Vault failed");
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
            tracing::warn!(what, role = %self.hand.role, "not revoked by itself; Vault ends it with the login token");
        }
        let left: Vec<_> = report.left.iter().map(|subject| self.name(*subject)).collect();
        if !left.is_empty() {
            tracing::warn!(what = left.join(", "), role = %self.hand.role, "could not be revoked");
        }
        let failure = self.error();
        if failure.is_some() {
            self.failure.send_replace(failure.clone());
        }
        Ending { failure, left }
    }

    fn error(&self) -> Option<Error> {
        let role = self.hand.role.clone();
        let reason = self.lifecycle.reason()?;
        let subject =
            about(reason).or_else(|| self.causes.keys().min().copied()).unwrap_or(Subject::Token);
        let (what, cause) = (self.name(subject), self.causes.get(&subject).cloned());
        Some(match reason {
            Reason::Gone(_) => Error::Revoked { what, role },
            Reason::Missing(_) => Error::Missing { what, path: self.path(subject), role },
            Reason::Refused(_) => Error::Refused { what, role, cause },
            Reason::TooLate | Reason::Uncertain(_) => {
                Error::Unavailable { what, role, reason, cause }
            }
            _ => Error::Expired { what, role, reason, cause },
        })
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
        self.hand.now()
    }
}

/// What every job needs: whom to ask, as whom, and what time it is.
#[derive(Clone)]
struct Hand {
    vault: VaultClient,
    workload: Workload,
    role: String,
    origin: Instant,
}

impl Hand {
    fn now(&self) -> Moment {
        Moment::after(self.origin.elapsed())
    }

    async fn login(self) -> Done {
        let audience = Audience::parse(&format!("vault.{}", self.workload.trust_domain()));
        let svid = match audience {
            Ok(audience) => timeout(SVID_DEADLINE, self.workload.jwt_svid(&audience)).await,
            Err(error) => Ok(Err(error)),
        };
        let svid = match svid {
            Ok(Ok(svid)) => svid,
            Ok(Err(error)) if !error.is_transient() => {
                return failed(Subject::Token, Failure::Denied, error);
            }
            Ok(Err(error)) => {
                return failed(Subject::Token, Failure::Transient { wait: None }, error);
            }
            Err(late) => return failed(Subject::Token, Failure::Transient { wait: None }, late),
        };
        let sent = self.now();
        match self.vault.login_jwt(&self.role, &svid).await {
            Ok(login) => {
                let grant = Grant { ttl: login.ttl, renewable: login.renewable };
                let input = Input::LoggedIn { sent, grant };
                Done { input, token: Some(login.token), data: None, cause: None }
            }
            Err(error) => failed(Subject::Token, outcome::of_creation(&error), error),
        }
    }

    async fn issue(self, request: usize, path: String, token: Arc<SecretString>) -> Done {
        let sent = self.now();
        match self.vault.read(&token, &path).await {
            Ok(answer) => issued(request, sent, answer),
            Err(error) => failed(Subject::Lease(request), outcome::of_creation(&error), error),
        }
    }

    async fn renew(self, target: Target, ask: Duration, token: Arc<SecretString>) -> Done {
        let sent = self.now();
        let renewal = match &target {
            Target::Lease { id, .. } => self.vault.renew_lease(&token, id.as_str(), ask).await,
            Target::Token => self.vault.renew_self(&token, ask).await,
        };
        let subject = target.subject();
        match renewal {
            Ok(renewal) => {
                let grant = Grant { ttl: renewal.ttl, renewable: renewal.renewable };
                told(Input::Renewed { subject, sent, grant })
            }
            Err(error) => {
                let failure = outcome::of_renewal(&self.vault, &token, &target, &error).await;
                failed(subject, failure, error)
            }
        }
    }

    async fn revoke(self, target: Target, token: Arc<SecretString>) -> Done {
        let subject = target.subject();
        match self.try_revoke(&target, &token).await {
            Ok(()) => told(Input::Revoked { subject }),
            Err(error) => {
                let failure = outcome::of_revocation(&self.vault, &token, &target, &error).await;
                failed(subject, failure, error)
            }
        }
    }

    async fn try_revoke(&self, target: &Target, token: &SecretString) -> Result<(), VaultError> {
        match target {
            Target::Lease { id, .. } => self.vault.revoke_lease(token, id.as_str()).await,
            Target::Token => self.vault.revoke_self(token).await,
        }
    }
}

fn told(input: Input) -> Done {
    Done { input, token: None, data: None, cause: None }
}

fn failed(
    subject: Subject,
    failure: Failure,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Done {
    let input = Input::Failed { subject, failure, roll: Roll::new(rand::random()) };
    Done { input, token: None, data: None, cause: Some(Arc::new(cause)) }
}

fn issued(request: usize, sent: Moment, answer: Answer) -> Done {
    let lease = answer.lease.map(|lease| {
        let grant = Grant { ttl: lease.ttl, renewable: lease.renewable };
        (LeaseId::new(lease.id), grant)
    });
    let data = if lease.is_none() { fields_of_kv(answer.data) } else { answer.data };
    Done {
        input: Input::Issued { request, sent, lease },
        token: None,
        data: Some(data),
        cause: None,
    }
}

/// KV v2 wraps the fields in `data` beside `metadata` with a version; a holder wants the fields.
fn fields_of_kv(data: SecretJson) -> SecretJson {
    let Ok(Value::Object(mut members)) = data.expose::<Value>() else { return data };
    let versioned = members
        .get("metadata")
        .and_then(|metadata| metadata.get("version"))
        .is_some_and(Value::is_number);
    match members.remove("data") {
        Some(fields @ Value::Object(_)) if versioned && members.len() == 1 => {
            SecretJson::new(fields)
        }
        Some(other) => {
            drop(SecretJson::new(other));
            data
        }
        None => data,
    }
}

fn about(reason: Reason) -> Option<Subject> {
    match reason {
        Reason::Denied(subject)
        | Reason::Expired(subject)
        | Reason::Gone(subject)
        | Reason::MaxTtl(subject)
        | Reason::Missing(subject)
        | Reason::Refused(subject)
        | Reason::Uncertain(subject) => Some(subject),
        _ => None,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fields_of_a_kv_secret_come_without_their_metadata() {
        let answer = json!({ "data": { "key": "v" }, "metadata": { "version": 3 } });
        assert_eq!(fields_of_kv(SecretJson::new(answer)).field_names(), ["key"]);
        for plain in [
            json!({ "data": { "x": 1 } }),
            json!({ "username": "u", "password": "p" }),
            json!(null),
        ] {
            let names = SecretJson::new(plain.clone()).field_names();
            assert_eq!(fields_of_kv(SecretJson::new(plain)).field_names(), names);
        }
    }
}
