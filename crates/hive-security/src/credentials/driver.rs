//! Does what `hive_lease::Rotation` decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hive_lease::{Action, Generation, Input, Rotation, RotationAction, RotationInput, Subject};
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::board::Board;
use super::slot::Slot;
use super::work::{self, Asked, Outcome};
use super::{Holder, HolderError};
use crate::epoch::Error;
use crate::issuer::{Done, Issuer};
use crate::{Cause, SecretJson};

/// Where nothing is due: any time far away serves, for the loop looks again.
const IDLE: Duration = Duration::from_secs(3600);
/// How long a set that was dropped rather than closed may take to give everything back.
pub(super) const ABANDONED: Duration = Duration::from_secs(5);

/// What the owner of the credentials asks of the driver.
pub(super) enum Command {
    Close {
        within: Duration,
        done: oneshot::Sender<Result<(), Error>>,
    },
    Hold {
        slot: usize,
        id: u64,
        holder: Arc<dyn Holder>,
        done: oneshot::Sender<Result<(), HolderError>>,
    },
    Release {
        slot: usize,
        id: u64,
    },
    Rotate,
}

/// Keeps one set of credentials alive.
pub(super) struct Driver {
    pub(super) issuer: Issuer,
    pub(super) rotation: Rotation,
    pub(super) slots: Vec<Slot>,
    pub(super) board: Arc<Board>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) opened: Option<oneshot::Sender<Result<(), Error>>>,
    pub(super) epochs: HashMap<Generation, Epoch>,
    pub(super) causes: HashMap<Subject, Cause>,
    pub(super) jobs: JoinSet<Outcome>,
    pub(super) closing: Option<(Duration, oneshot::Sender<Result<(), Error>>)>,
    pub(super) failure: Option<Error>,
    pub(super) is_abandoned: bool,
    pub(super) is_stopping: bool,
}

/// The secrets of one epoch, and what its holders are doing.
#[derive(Default)]
pub(super) struct Epoch {
    token: Option<Arc<SecretString>>,
    pub(super) data: HashMap<usize, SecretJson>,
    pub(super) expires: HashMap<Subject, hive_lease::Moment>,
    draining: Option<(AbortHandle, hive_lease::Moment)>,
}

impl Driver {
    pub(super) async fn run(mut self) {
        loop {
            while let Some(action) = self.rotation.poll_action() {
                self.perform(action);
            }
            self.show();
            if self.rotation.is_done() {
                return self.end();
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let due = self.rotation.poll_timeout().unwrap_or_else(|| self.now() + IDLE);
        tokio::select! {
            Some(outcome) = self.jobs.join_next() => {
                // A job that was aborted or panicked gives no answer; the machine's deadlines are for that.
                if let Ok(outcome) = outcome {
                    self.finish(outcome);
                }
            }
            command = self.commands.recv(), if !self.is_abandoned => match command {
                Some(command) => self.obey(command),
                None => {
                    self.is_abandoned = true;
                    self.stop(ABANDONED);
                }
            },
            () = gone(&mut self.opened) => {
                self.opened = None;
                self.stop(ABANDONED);
            }
            () = self.issuer.clock.sleep_until(due) => {
                let now = self.now();
                self.rotation.handle_timeout(now);
            }
        }
    }

    fn perform(&mut self, action: RotationAction) {
        tracing::trace!(?action, role = self.role(), "a step of the rotation");
        match action {
            RotationAction::Epoch { generation, action } => self.call(generation, action),
            RotationAction::Probe { generation } => self.probe(generation),
            RotationAction::Adopt { generation } => self.adopt(generation),
            RotationAction::Drain { generation, .. } => self.drain(generation),
            RotationAction::Cut { generation } => self.cut(generation),
            RotationAction::Withdraw { reason } => self.withdraw(reason),
            RotationAction::Ended { generation, report } => self.ended(generation, &report),
        }
    }

    fn call(&mut self, generation: Generation, action: Action) {
        let Some(asked) = Asked::of(&action) else { return };
        let issuer = self.issuer.clone();
        let epoch = self.epochs.entry(generation).or_default();
        if action == Action::Login {
            let login = issuer.login();
            self.jobs
                .spawn(async move { Outcome::Called { generation, asked, done: login.await } });
            return;
        }
        // Without a token nothing was issued that could be renewed or revoked.
        let Some(token) = epoch.token.clone() else { return };
        let ask = |request: usize| self.slots.get(request).map(|slot| slot.request.ask());
        let call: futures_util::future::BoxFuture<'static, Done> = match action {
            Action::Issue { request } => {
                let Some(ask) = ask(request) else { return };
                Box::pin(issuer.issue(request, ask, token))
            }
            Action::Refresh { request } => {
                let Some(ask) = ask(request) else { return };
                Box::pin(issuer.refresh(request, ask, token))
            }
            Action::Renew { target, ask } => Box::pin(issuer.renew(target, ask, token)),
            Action::Revoke { target } => Box::pin(issuer.revoke(target, token)),
            Action::Login | Action::Serve | Action::Withdraw => return,
        };
        self.jobs.spawn(async move { Outcome::Called { generation, asked, done: call.await } });
    }

    fn finish(&mut self, outcome: Outcome) {
        let now = self.now();
        let input = match outcome {
            Outcome::Adopted { generation } => RotationInput::Adopted { generation },
            Outcome::Called { generation, asked, done } => {
                return self.called(generation, asked, done);
            }
            Outcome::Drained { generation } => RotationInput::Drained { generation },
            Outcome::Nothing => return,
            Outcome::Probed { generation, result } => self.probed(generation, result),
        };
        self.rotation.handle(now, input);
    }

    fn called(&mut self, generation: Generation, asked: Asked, done: Done) {
        self.count(asked, !matches!(done.input, Input::Failed { .. }));
        let epoch = self.epochs.entry(generation).or_default();
        if let Some(token) = done.token {
            epoch.token = Some(Arc::new(token));
        }
        self.note(generation, &done.input, done.data);
        if let Some(cause) = done.cause {
            self.blame(&done.input, cause);
        }
        let now = self.now();
        self.rotation.handle(now, RotationInput::Epoch { generation, input: done.input });
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Close { within, done } => {
                self.closing = Some((within, done));
                self.stop(within);
            }
            Command::Hold { slot, id, holder, done } => self.hold(slot, id, holder, done),
            Command::Release { slot, id } => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.release(id);
                }
            }
            Command::Rotate => {
                let now = self.now();
                self.rotation.handle(now, RotationInput::Rotate);
            }
        }
    }

    fn hold(
        &mut self,
        slot: usize,
        id: u64,
        holder: Arc<dyn Holder>,
        done: oneshot::Sender<Result<(), HolderError>>,
    ) {
        let Some(slot) = self.slots.get_mut(slot) else { return };
        let held = slot.hold(id, holder);
        match slot.current() {
            Ok(current) => {
                // It is in the list already, so whatever is adopted next reaches it as well.
                self.jobs.spawn(async move {
                    let _ = done.send(held.adopt(&current).await);
                    Outcome::Nothing
                });
            }
            // It gets the next one, when there is one.
            Err(_) => drop(done.send(Ok(()))),
        }
    }

    fn probe(&mut self, generation: Generation) {
        let Some(epoch) = self.epochs.get(&generation) else { return };
        let mut trials = Vec::new();
        for (place, slot) in self.slots.iter().enumerate() {
            let Some(data) = epoch.data.get(&place) else { continue };
            let candidate = slot.candidate(data);
            trials.extend(slot.holders().iter().map(|held| work::Trial {
                held: Arc::clone(held),
                candidate: candidate.clone(),
                lease: self.rotation.lease_id(generation, place).cloned(),
            }));
        }
        let lender = work::Lender { issuer: self.issuer.clone(), token: epoch.token.clone() };
        self.jobs.spawn(async move {
            Outcome::Probed { generation, result: work::probe_all(trials, &lender).await }
        });
    }

    fn adopt(&mut self, generation: Generation) {
        let Some(epoch) = self.epochs.get(&generation) else { return };
        let mut moves = Vec::new();
        for (place, slot) in self.slots.iter_mut().enumerate() {
            let Some(data) = epoch.data.get(&place) else {
                slot.withdraw(work::absent(&slot.request, self.issuer.login.role()));
                continue;
            };
            let fresh = slot.publish(generation, data);
            moves.extend(slot.holders().iter().map(|held| (Arc::clone(held), fresh.clone())));
        }
        self.adopted(generation);
        let clock = self.issuer.clock.clone();
        self.jobs.spawn(async move {
            work::adopt_all(moves, &clock).await;
            Outcome::Adopted { generation }
        });
    }

    /// From here on it may be used.
    fn adopted(&mut self, generation: Generation) {
        let reason = self.rotation.because().map_or("asked_for", work::word);
        self.board.counts.rotation(if generation == 1 { "first" } else { reason });
        tracing::info!(role = self.role(), generation, reason, "credentials are in use");
        self.show_epoch(generation);
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
    }

    fn drain(&mut self, generation: Generation) {
        let holders = self.bounds(generation);
        // Nobody leaves what is not replaced, unless told that nothing may begin with it any more.
        let told = if self.is_stopping { self.bar(&Error::Closed) } else { Vec::new() };
        let job = self.jobs.spawn(async move {
            work::withdraw_all(told).await;
            super::slot::drained(holders).await;
            Outcome::Drained { generation }
        });
        let now = self.now();
        self.epochs.entry(generation).or_default().draining = Some((job, now));
    }

    fn cut(&mut self, generation: Generation) {
        tracing::warn!(
            role = self.role(),
            generation,
            "what still used these credentials is ended"
        );
        self.board.counts.cuts.fetch_add(1, Ordering::Relaxed);
        let holders = self.bounds(generation);
        if let Some((job, _)) = &self.epochs.entry(generation).or_default().draining {
            job.abort();
        }
        self.jobs.spawn(async move {
            super::slot::cut(holders).await;
            Outcome::Drained { generation }
        });
    }

    fn bounds(&self, generation: Generation) -> Vec<(Arc<super::slot::Held>, u64)> {
        let of = |slot: &Slot| {
            let bound = slot.bound(generation);
            slot.holders().iter().map(|held| (Arc::clone(held), bound)).collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(of).collect()
    }

    fn withdraw(&mut self, reason: hive_lease::Reason) {
        let error = self.error(reason);
        tracing::error!(role = self.role(), %reason, "no credentials may be used");
        self.board.counts.withdrawals.fetch_add(1, Ordering::Relaxed);
        if self.opened.is_some() {
            self.failure = Some(error);
            return self.stop(ABANDONED);
        }
        let told = self.bar(&error);
        self.jobs.spawn(async move {
            work::withdraw_all(told).await;
            Outcome::Nothing
        });
    }

    /// Whoever reads gets this error from now on. The holders have to be told.
    fn bar(&self, error: &Error) -> Vec<(Arc<super::slot::Held>, u64)> {
        let mut told = Vec::new();
        for slot in &self.slots {
            let number = slot.withdraw(error.clone());
            told.extend(slot.holders().iter().map(|held| (Arc::clone(held), number)));
        }
        told
    }

    fn ended(&mut self, generation: Generation, report: &hive_lease::Report) {
        for slot in &mut self.slots {
            slot.forget(generation);
        }
        let drained = self.epochs.remove(&generation).and_then(|epoch| epoch.draining);
        if let Some((_, began)) = drained {
            let lasted = self.now().since_origin().saturating_sub(began.since_origin());
            self.board.counts.overlap(lasted);
        }
        self.board.counts.orphans.fetch_add(report.entrusted.len() as u64, Ordering::Relaxed);
        self.board.counts.left.fetch_add(report.left.len() as u64, Ordering::Relaxed);
        if !report.left.is_empty() {
            let what = self.names(&report.left).join(", ");
            tracing::warn!(role = self.role(), generation, what, "could not be revoked");
        }
        tracing::info!(role = self.role(), generation, "credentials are given back");
    }

    pub(super) fn stop(&mut self, within: Duration) {
        self.is_stopping = true;
        let now = self.now();
        self.rotation.handle(now, RotationInput::Stop { by: now + within });
    }

    fn end(mut self) {
        for slot in &self.slots {
            slot.withdraw(self.failure.clone().unwrap_or(Error::Closed));
        }
        // What was left longer ago has ended by itself; it was told of when it was left.
        let left = self.names(&self.rotation.left(self.now()));
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(self.failure.take().unwrap_or(Error::Closed)));
        }
        if let Some((within, done)) = self.closing.take() {
            let _ = done.send(if left.is_empty() {
                Ok(())
            } else {
                Err(Error::Left { names: left, within })
            });
        }
    }

    pub(super) fn now(&self) -> hive_lease::Moment {
        self.issuer.clock.now()
    }

    pub(super) fn role(&self) -> &str {
        self.issuer.login.role()
    }
}

/// Whoever was opening it does not wait any more.
async fn gone(opened: &mut Option<oneshot::Sender<Result<(), Error>>>) {
    match opened {
        Some(opened) => opened.closed().await,
        None => std::future::pending().await,
    }
}
