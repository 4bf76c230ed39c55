//! What holders are asked to do, all of them at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hive_lease::{Generation, Reason};
use tokio::time::timeout;

use super::slot::Held;
use super::{Credential, HolderError, Request};
use crate::clock::Clock;
use crate::epoch::Error;
use crate::issuer::Done;

/// A connection and a question; whoever needs longer is asked again later.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);
const WITHDRAW_DEADLINE: Duration = Duration::from_secs(10);
/// A holder that could not adopt is asked again after this long. The machine's patience ends it.
const ADOPT_AGAIN: Duration = Duration::from_millis(250);

/// What a job brought.
pub(super) enum Outcome {
    Adopted { generation: Generation },
    Called { generation: Generation, done: Done },
    Drained { generation: Generation },
    Nothing,
    Probed { generation: Generation, result: Result<(), Trouble> },
}

/// Why a generation was not taken.
pub(super) enum Trouble {
    Late,
    Holder(HolderError),
}

pub(super) async fn probe_all(trials: Vec<(Arc<Held>, Credential)>) -> Result<(), Trouble> {
    let probe = |(held, candidate): (Arc<Held>, Credential)| async move {
        match timeout(PROBE_DEADLINE, held.probe(&candidate)).await {
            Ok(result) => result.map_err(Trouble::Holder),
            Err(_) => Err(Trouble::Late),
        }
    };
    join_all(trials.into_iter().map(probe)).await.into_iter().collect()
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
