//! From the log back to memory: the same fold as when it was written.

use super::Running;
use crate::error::Error;
use crate::store::{Logged, StoreError};
use hive_api::orchestrator::PlanView;
use hive_plan::{Plan, PlanId, Saga};
use prost::Message;

/// Folds a plan's log. Its commands are not carried out again: what is left of them stands in the outbox.
pub(super) fn replay(logged: Logged) -> Result<Running, Error> {
    let Logged { submission, events } = logged;
    let id = submission.plan_id.clone();
    let broken = |reason: String| Error::Recovery { plan_id: id.clone(), reason };
    let plan = Plan::parse(&submission.source).map_err(|mistakes| broken(mistakes.to_string()))?;
    let (mut saga, _) = Saga::start(id.clone(), plan, submission.submitted_at);
    let mut revision = 0;
    for (at, event) in &events {
        revision += 1;
        saga.apply(*at, event).map_err(|refused| broken(format!("event {revision}: {refused}")))?;
    }
    Ok(Running::new(saga, submission, revision))
}

/// The last view of a plan that is over.
pub(super) fn view(plan_id: &PlanId, stored: &[u8]) -> Result<PlanView, Error> {
    let unreadable = |_| StoreError::Unreadable { what: "a view", value: plan_id.to_string() };
    Ok(PlanView::decode(stored).map_err(unreadable)?)
}
