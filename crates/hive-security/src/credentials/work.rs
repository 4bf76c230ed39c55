//! What holders are asked to do, all of them at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hive_lease::{Action, Generation, LeaseId, Reason, Subject};
use secrecy::SecretString;
use tokio::time::timeout;

use super::slot::Held;
use super::{Credential, HolderError, Request};
use crate::clock::Clock;
use crate::epoch::Error;
use crate::issuer::{Done, Issuer};

/// A connection and a question; whoever needs longer is asked again later.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);
const WITHDRAW_DEADLINE: Duration = Duration::from_secs(10);
/// A holder that could not adopt is asked again after this long. The machine's patience ends it.
const ADOPT_AGAIN: Duration = Duration::from_millis(250);

/// What a job brought.
pub(super) enum Outcome {
    Adopted { generation: Generation },
    Called { generation: Generation, asked: Asked, done: Done },
    Drained { generation: Generation },
    Nothing,
    Probed { generation: Generation, result: Result<(), Trouble> },
}

/// What Vault was asked for, as it is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Issue,
    Login,
    Refresh,
    Renewal(Subject),
    Revocation,
}

/// Why a generation was not taken.
pub(super) enum Trouble {
    /// Its server refuses it, and Vault does not know its lease any more: somebody has revoked it.
    Gone(HolderError),
    Holder(HolderError),
    Late,
}

/// One holder that tries one credential.
pub(super) struct Trial {
    pub(super) held: Arc<Held>,
    pub(super) candidate: Credential,
    pub(super) lease: Option<LeaseId>,
}

/// Whose leases are tried.
pub(super) struct Lender {
    pub(super) issuer: Issuer,
    pub(super) token: Option<Arc<SecretString>>,
}

/// Of several troubles, one that time does not heal.
pub(super) async fn probe_all(trials: Vec<Trial>, lender: &Lender) -> Result<(), Trouble> {
    let outcomes = join_all(trials.iter().map(|trial| probe(trial, lender))).await;
    let troubles = outcomes.into_iter().filter_map(Result::err);
    troubles.max_by_key(Trouble::is_final).map_or(Ok(()), Err)
}

async fn probe(trial: &Trial, lender: &Lender) -> Result<(), Trouble> {
    let Ok(outcome) = timeout(PROBE_DEADLINE, trial.held.probe(&trial.candidate)).await else {
        return Err(Trouble::Late);
    };
    match outcome {
        Err(error @ HolderError::Refused { .. }) if lender.has_lost(trial).await => {
            Err(Trouble::Gone(error))
        }
        outcome => outcome.map_err(Trouble::Holder),
    }
}

impl Asked {
    /// None where nothing is asked of Vault.
    pub(super) fn of(action: &Action) -> Option<Self> {
        match action {
            Action::Issue { .. } => Some(Self::Issue),
            Action::Login => Some(Self::Login),
            Action::Refresh { .. } => Some(Self::Refresh),
            Action::Renew { target, .. } => Some(Self::Renewal(target.subject())),
            Action::Revoke { .. } => Some(Self::Revocation),
            Action::Serve | Action::Withdraw => None,
        }
    }
}

impl Lender {
    /// Until its renewal nobody else would tell.
    async fn has_lost(&self, trial: &Trial) -> bool {
        let Some((token, lease)) = self.token.as_ref().zip(trial.lease.as_ref()) else {
            return false;
        };
        self.issuer.has_lost(token, lease).await
    }
}

impl Trouble {
    fn is_final(&self) -> bool {
        match self {
            Self::Gone(_) => true,
            Self::Holder(error) => !error.is_transient(),
            Self::Late => false,
        }
    }
}

/// Resolves when all have adopted. One that cannot is asked again for as long as this is waited for.
pub(super) async fn adopt_all(moves: Vec<(Arc<Held>, Credential)>, clock: &Clock) {
    join_all(moves.iter().map(|(held, fresh)| adopt(held, fresh, clock))).await;
}

async fn adopt(held: &Held, fresh: &Credential, clock: &Clock) {
    loop {
        match timeout(ADOPT_DEADLINE, held.adopt(fresh)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::warn!(credential = fresh.name(), error = %crate::error::chain(&error), "a holder did not adopt");
            }
            Err(_) => tracing::warn!(credential = fresh.name(), "a holder adopts too slowly"),
        }
        clock.sleep_until(clock.now() + ADOPT_AGAIN).await;
    }
}

pub(super) async fn withdraw_all(told: Vec<(Arc<Held>, u64)>) {
    let withdraw = |(held, number): (Arc<Held>, u64)| async move {
        if timeout(WITHDRAW_DEADLINE, held.withdraw(number)).await.is_err() {
            tracing::error!("a holder did not withdraw in time");
        }
    };
    join_all(told.into_iter().map(withdraw)).await;
}

/// What is published for an optional credential that there is not.
pub(super) fn absent(request: &Request, role: &str) -> Error {
    let (what, path) = (request.name().to_owned(), request.path().to_owned());
    Error::Missing { what, path, role: role.to_owned() }
}

/// A reason as the value of a label.
pub(super) fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Denied(_) => "denied",
        Reason::Expired(_) => "expired",
        Reason::Gone(_) => "gone",
        Reason::MaxTtl(_) => "max_ttl",
        Reason::Missing(_) => "missing",
        Reason::Refused(_) => "refused",
        Reason::TooLate => "too_late",
        Reason::Uncertain(_) => "uncertain",
        Reason::Unusable => "unusable",
        _ => "other",
    }
}
