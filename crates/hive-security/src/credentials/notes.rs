//! What the driver writes down: secrets for itself, numbers for the board, causes for errors.

use std::sync::Arc;
use std::time::SystemTime;

use hive_lease::{Failure, Generation, Input, Moment, Reason, RotationInput, Subject};

use super::driver::Driver;
use super::work::{self, Asked, Outcome, Trouble};
use crate::epoch::{Error, about};
use crate::{Cause, SecretJson, issuer};

impl Driver {
    pub(super) fn probed(
        &mut self,
        generation: Generation,
        result: Result<(), Trouble>,
    ) -> RotationInput {
        self.board.counts.probes.count(result.is_ok());
        let outcome = result.map_err(|trouble| {
            let (failure, error) = match trouble {
                Trouble::Gone(error) => (Failure::Gone, error),
                Trouble::Holder(error) if error.is_transient() => {
                    (Failure::Transient { wait: None }, error)
                }
                Trouble::Holder(error) => (Failure::Denied, error),
                Trouble::Late => return Failure::Transient { wait: None },
            };
            tracing::warn!(role = self.role(), generation, ?failure, error = %crate::error::chain(&error), "new credentials were tried in vain");
            self.causes.insert(Subject::Token, Arc::new(error));
            failure
        });
        RotationInput::Probed { generation, outcome, roll: issuer::roll() }
    }

    pub(super) fn count(&self, asked: Asked, is_done: bool) {
        let counts = &self.board.counts;
        match asked {
            Asked::Issue => counts.issues.count(is_done),
            Asked::Login => counts.logins.count(is_done),
            Asked::Refresh => counts.refreshes.count(is_done),
            Asked::Renewal(Subject::Lease(place)) => counts.renewal(self.path(place), is_done),
            Asked::Renewal(Subject::Token) => counts.token_renewals.count(is_done),
            Asked::Revocation => counts.revocations.count(is_done),
        }
    }

    /// Keeps what an answer brought.
    pub(super) fn note(&mut self, generation: Generation, input: &Input, data: Option<SecretJson>) {
        let Some(epoch) = self.epochs.get_mut(&generation) else { return };
        match input {
            Input::Issued { request, sent, lease } => {
                if let Some((_, grant)) = lease {
                    epoch.expires.insert(Subject::Lease(*request), *sent + grant.ttl);
                }
                epoch.data.extend(data.map(|data| (*request, data)));
            }
            Input::LoggedIn { sent, grant } if !grant.ttl.is_zero() => {
                epoch.expires.insert(Subject::Token, *sent + grant.ttl);
            }
            Input::Refreshed { request, .. } => {
                if let Some(data) = data {
                    self.refreshed(generation, *request, data);
                }
            }
            Input::Renewed { subject, sent, grant } => {
                epoch.expires.insert(*subject, *sent + grant.ttl);
                self.show_expiry(generation, *subject);
            }
            _ => {}
        }
    }

    /// The same epoch has a newer value of what has no lease: holders move to it, and nothing has to be given back.
    fn refreshed(&mut self, generation: Generation, place: usize, data: SecretJson) {
        let is_serving = self.rotation.serving(self.now()) == Some(generation);
        let Some(slot) = self.slots.get_mut(place) else { return };
        if is_serving && slot.differs(&data) {
            let fresh = slot.publish(generation, &data);
            let moves = slot.holders().iter().map(|held| (Arc::clone(held), fresh.clone()));
            let (moves, clock) = (moves.collect(), self.issuer.clock.clone());
            self.jobs.spawn(async move {
                work::adopt_all(moves, &clock).await;
                Outcome::Nothing
            });
            self.show_epoch(generation);
        }
        if let Some(epoch) = self.epochs.get_mut(&generation) {
            epoch.data.insert(place, data);
        }
    }

    pub(super) fn blame(&mut self, input: &Input, cause: Cause) {
        let Input::Failed { subject, failure, .. } = input else { return };
        let what = self.name(*subject);
        tracing::warn!(what, role = self.role(), ?failure, cause = %crate::error::chain(&*cause), "a call to Vault failed");
        self.causes.insert(*subject, cause);
    }

    pub(super) fn error(&self, reason: Reason) -> Error {
        let subject =
            about(reason).or_else(|| self.causes.keys().min().copied()).unwrap_or(Subject::Token);
        let path = match subject {
            Subject::Lease(place) => self.path(place).to_owned(),
            Subject::Token => "auth".to_owned(),
        };
        let cause = self.causes.get(&subject).cloned();
        Error::of(reason, self.name(subject), path, self.role().to_owned(), cause)
    }

    pub(super) fn names(&self, subjects: &[Subject]) -> Vec<String> {
        subjects.iter().map(|subject| self.name(*subject)).collect()
    }

    fn name(&self, subject: Subject) -> String {
        match subject {
            Subject::Lease(place) => {
                self.slots.get(place).map(|slot| slot.request.name().to_owned()).unwrap_or_default()
            }
            Subject::Token => "the login".to_owned(),
        }
    }

    fn path(&self, place: usize) -> &str {
        self.slots.get(place).map(|slot| slot.request.path()).unwrap_or_default()
    }
}

/// The board.
impl Driver {
    /// After every step; what depends on one credential is shown when it changes.
    pub(super) fn show(&self) {
        let now = self.now();
        let serving = self.rotation.serving(now).unwrap_or_default();
        let older = self.rotation.generations().filter(|generation| *generation < serving);
        let mut status = self.board.write();
        status.state = self.rotation.state();
        status.generation = serving;
        status.held = self.rotation.held();
        status.draining = older.count();
        for (row, slot) in status.credentials.iter_mut().zip(&self.slots) {
            row.holders = slot.holders().len();
        }
    }

    pub(super) fn show_epoch(&self, generation: Generation) {
        let Some(epoch) = self.epochs.get(&generation) else { return };
        let mut status = self.board.write();
        status.token_expires_at = epoch.expires.get(&Subject::Token).map(|at| self.wall(*at));
        for (place, (row, slot)) in status.credentials.iter_mut().zip(&self.slots).enumerate() {
            row.generation = slot.current().map(|current| current.generation()).unwrap_or_default();
            let lease = self.rotation.lease_id(generation, place);
            row.lease_id = lease.map(|id| id.as_str().to_owned());
            row.expires_at = epoch.expires.get(&Subject::Lease(place)).map(|at| self.wall(*at));
        }
    }

    fn show_expiry(&self, generation: Generation, subject: Subject) {
        let newest = self.rotation.serving(self.now());
        let at = self.epochs.get(&generation).and_then(|epoch| epoch.expires.get(&subject));
        let Some(at) = at.filter(|_| newest == Some(generation)).map(|at| self.wall(*at)) else {
            return;
        };
        let mut status = self.board.write();
        match subject {
            Subject::Lease(place) => {
                if let Some(row) = status.credentials.get_mut(place) {
                    row.expires_at = Some(at);
                }
            }
            Subject::Token => status.token_expires_at = Some(at),
        }
    }

    /// When it will be, by the clock on the wall.
    fn wall(&self, at: Moment) -> SystemTime {
        let (now, clock) = (self.now(), &self.issuer.clock);
        clock.wall() + at.since_origin().saturating_sub(now.since_origin())
    }
}
